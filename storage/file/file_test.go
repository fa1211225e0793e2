package file_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/file"
	"github.com/pgobj/pgobj/storage/storagetest"
)

func open(t *testing.T, cfg file.Config) storage.Store {
	t.Helper()
	s, err := file.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Store { return open(t, file.Config{Dir: t.TempDir()}) })
}

func TestRelativeDirectoryIsRefused(t *testing.T) {
	if _, err := file.New(file.Config{Dir: "backups"}); err == nil {
		t.Fatal("accepted")
	}
}

// A disk that is not mounted must never look like a store without objects.
func TestMissingDirectoryIsNoStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not-mounted")
	storagetest.Refused(t, open(t, file.Config{Dir: dir}), storage.KindNoStore)
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory was created")
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	storagetest.Refused(t, open(t, file.Config{Dir: dir}), storage.KindNoStore)
}

func TestCreateMakesTheLastDirectoryAtPut(t *testing.T) {
	parent := t.TempDir()
	s := open(t, file.Config{Dir: filepath.Join(parent, "new"), Create: true})
	if _, err := s.Get(t.Context(), "a", storage.All); storage.KindOf(err) != storage.KindNoStore {
		t.Errorf("get: %v", err)
	}
	storagetest.PutBytes(t, s, "a", []byte("x"))
	deep := open(t, file.Config{Dir: filepath.Join(parent, "no", "such"), Create: true})
	if err := deep.Put(t.Context(), "a", strings.NewReader("x"), 1); storage.KindOf(err) != storage.KindNoStore {
		t.Errorf("put: %v", err)
	}
}

func TestLinksOutOfTheDirectoryLeadNowhere(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"dir": outside, "file": filepath.Join(outside, "secret")} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, file.Config{Dir: dir})
	for _, key := range []string{"dir/secret", "file"} {
		if body, err := s.Get(t.Context(), key, storage.All); err == nil {
			body.Close()
			t.Errorf("%s was read", key)
		}
	}
	if err := s.Put(t.Context(), "dir/planted", strings.NewReader("x"), 1); err == nil {
		t.Error("put succeeded")
	}
	if err := s.Delete(t.Context(), "dir/secret"); err == nil {
		t.Error("delete succeeded")
	}
	names, err := filepath.Glob(filepath.Join(outside, "*"))
	if err != nil || len(names) != 1 {
		t.Errorf("outside: %v, %v", names, err)
	}
}

func TestLeftoversAreNotObjects(t *testing.T) {
	dir := t.TempDir()
	s := open(t, file.Config{Dir: dir})
	storagetest.PutBytes(t, s, "a/b", []byte("x"))
	for _, name := range []string{".tmp-KILLED", "a/.tmp-KILLED", "a/notes for myself", "a/lost+found"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for info, err := range s.List(t.Context(), "", "") {
		if err != nil || info.Key != "a/b" {
			t.Errorf("%v, %v", info, err)
		}
	}
}

// What a killed Put has left goes with time, and what may still be written does not.
func TestLeftoversGo(t *testing.T) {
	dir := t.TempDir()
	s := open(t, file.Config{Dir: dir})
	storagetest.PutBytes(t, s, "a/b", []byte("x"))
	for name, age := range map[string]time.Duration{"a/.tmp-OLD": 25 * time.Hour, "a/.tmp-YOUNG": 23 * time.Hour, "a/old notes": 99 * time.Hour} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(dir, name), time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range s.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(filepath.Join(dir, "a"))
	if err != nil || len(entries) != 3 || entries[0].Name() != ".tmp-YOUNG" {
		t.Errorf("left are %v (%v)", entries, err)
	}
}

func TestNothingTemporaryStays(t *testing.T) {
	dir := t.TempDir()
	s := open(t, file.Config{Dir: dir})
	storagetest.PutBytes(t, s, "a/b", []byte("x"))
	if err := s.Put(t.Context(), "a/b", strings.NewReader("y"), 1); !errors.Is(err, storage.ErrExists) {
		t.Error(err)
	}
	if err := s.Put(t.Context(), "a/c", bytes.NewReader(nil), 1); err == nil {
		t.Error("short body accepted")
	}
	entries, err := os.ReadDir(filepath.Join(dir, "a"))
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	info, err := os.Stat(filepath.Join(dir, "a/b"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("backups are open to others: %v, %v", info.Mode(), err)
	}
}

// TestRootLeavesNothingOfItsOwn: what root stores, the owner of the directory can read.
func TestRootLeavesNothingOfItsOwn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("not root: whom root gives its files to cannot be seen")
		return
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 12345, 12346); err != nil {
		t.Fatal(err)
	}
	s, err := file.New(file.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "a/b/c", strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "a/b", "a/b/c"} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); st.Uid != 12345 || st.Gid != 12346 {
			t.Errorf("%s belongs to %d:%d", name, st.Uid, st.Gid)
		}
	}
}
