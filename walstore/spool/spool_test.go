package spool

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// One process has the list; its names are seen while it lives and has not taken them off, and nobody who looks is in its way.
func TestPushing(t *testing.T) {
	m := NewMarkers(filepath.Join(t.TempDir(), "data", Folder), "scope")
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
	if _, err := m.Hold(nil); !errors.Is(err, ErrBusy) {
		t.Errorf("a second one: %v", err)
	}
	p.f.Close() // as when the process is killed
	if m.Pushing("a") {
		t.Error("the process is gone, and its list counts")
	}
}

// A data folder that is removed while something is pushed ahead does not come back.
func TestMarkersMakeNoFolder(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	m := NewMarkers(filepath.Join(data, Folder), "scope")
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
		t.Errorf("the folder is there again: %v", err)
	}
}
