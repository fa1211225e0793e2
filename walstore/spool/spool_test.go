package spool

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/storage/owned"
)

// One process has the list; its names are seen while it lives and has not taken them off, and nobody who looks is in its way.
func TestPushing(t *testing.T) {
	m := NewMarkers(filepath.Join(t.TempDir(), "data", Directory), "scope")
	if m.Pushing("a") {
		t.Error("on no list")
	}
	for range 100 {
		looking := make(chan struct{})
		go func() {
			defer close(looking)
			for range 100 {
				m.Pushing("a")
			}
		}()
		p, err := m.Hold([]string{"a", "b"})
		if err != nil {
			t.Fatal(err)
		}
		<-looking
		if !m.Pushing("a") || !m.Pushing("b") || m.Pushing("ab") {
			t.Error("a and b are on the list")
		}
		p.Forget()
		if m.Pushing("a") {
			t.Error("a was taken off the list")
		}
		p.Release()
	}
	p, err := m.Hold([]string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Hold(nil); !errors.Is(err, owned.ErrBusy) {
		t.Errorf("a second one: %v", err)
	}
	p.f.Close() // as when the process is killed
	if m.Pushing("a") {
		t.Error("the process is gone, and its list counts")
	}
}

// A process that could not go on keeps others from trying for a while; one that is merely done, or was killed, does not.
func TestGaveUp(t *testing.T) {
	m := NewMarkers(t.TempDir(), "scope")
	hold := func() *Pushing {
		t.Helper()
		p, err := m.Hold([]string{"a"})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	hold().Release()
	if m.GaveUp() {
		t.Error("it is done")
	}
	p := hold()
	p.GiveUp()
	p.Release()
	if !m.GaveUp() || m.Pushing("a") {
		t.Error("it has given up")
	}
	m.now = func() time.Time { return time.Now().Add(2 * time.Minute) }
	if m.GaveUp() {
		t.Error("that was a while ago")
	}
	m.now = time.Now
	hold().f.Close() // as when the process is killed
	if m.GaveUp() {
		t.Error("it was killed")
	}
}

// A data directory that is removed while something is pushed ahead does not come back.
func TestMarkersMakeNoDirectory(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	m := NewMarkers(filepath.Join(data, Directory), "scope")
	p, err := m.Hold([]string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Add("a", Archived{}); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	if err := m.Add("b", Archived{}); err == nil {
		t.Error("a marker was written")
	}
	p.Release()
	if _, err := os.Stat(data); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is there again: %v", err)
	}
}

// The process that fills a window gets every name that it is told, in order, nobody who looks is in its way, and who is killed
// leaves nothing to the next one. pg_rewind can see and remove all that there is.
func TestWindow(t *testing.T) {
	dir := t.TempDir()
	w := NewWindow(dir, "scope")
	if w.Filled() || w.Asked("a") {
		t.Error("nobody fills it")
	}
	asked, release, err := w.Hold(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := NewWindow(dir, "scope").Hold(t.Context()); !errors.Is(err, owned.ErrBusy) {
		t.Errorf("a second one: %v", err)
	}
	for i := range 50 {
		name := strings.Repeat("n", i+1)
		if !w.Asked(name) || <-asked != name {
			t.Fatal("a name is lost")
		}
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !d.Type().IsRegular() {
			t.Errorf("%s is no file", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	release()
	if w.Filled() || w.Asked("a") {
		t.Error("nobody fills it any more")
	}
	if _, err := os.Stat(w.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the window is left: %v", err)
	}

	if err := errors.Join(os.Mkdir(w.dir, 0o700), os.WriteFile(w.lock(), []byte("old\n"), 0o600), os.WriteFile(w.part("x"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if w.Filled() || w.Asked("a") {
		t.Error("the process is gone")
	}
	for range 20 {
		looking := make(chan struct{})
		go func() {
			defer close(looking)
			for range 100 {
				w.Filled()
			}
		}()
		if asked, release, err = w.Hold(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-looking
		if w.Asked("new"); <-asked != "new" {
			t.Error("it was asked for new")
		}
		release()
	}
}
