package file

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/pgobj/pgobj/storage"
)

func TestFaultsOfTheFileSystem(t *testing.T) {
	s := &store{dir: "/backups"}
	for _, c := range []struct {
		err  error
		want storage.Kind
		says string
	}{
		{syscall.ENOSPC, storage.KindOther, "full"},
		{syscall.EDQUOT, storage.KindOther, "quota"},
		{syscall.EIO, storage.KindOther, "input/output error"},
		{syscall.EACCES, storage.KindDenied, "permission denied"},
		{syscall.EPERM, storage.KindDenied, "not permitted"},
		{syscall.EROFS, storage.KindDenied, "read-only"},
		{syscall.ESTALE, storage.KindTransient, "stale"},
		{syscall.EMFILE, storage.KindTransient, "too many open files"},
	} {
		err := s.fault("put", "a/b", &fs.PathError{Op: "write", Path: "x", Err: c.err})
		if storage.KindOf(err) != c.want || !strings.Contains(err.Error(), c.says) || !errors.Is(err, c.err) {
			t.Errorf("%v: %v", c.err, err)
		}
	}
}

// The way without hard links must not replace an object either.
func TestRenameDoesNotReplace(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := root.Mkdir("d", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"d/.tmp-1", "d/.tmp-2"} {
		if err := root.WriteFile(name, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := renameNew(root, "d", "d/.tmp-1", "d/key"); err != nil {
		t.Fatal(err)
	}
	if err := renameNew(root, "d", "d/.tmp-2", "d/key"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("%v", err)
	}
	if data, err := root.ReadFile("d/key"); string(data) != "d/.tmp-1" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
}
