package spool

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const pushingPrefix = "pushing-"

// Pushing is the list of the files that one process archives ahead of PostgreSQL's requests: a file in the spool that
// the process holds a lock on.
type Pushing struct{ f *os.File }

func (m *Markers) pushing() string { return filepath.Join(m.dir, pushingPrefix+m.scope) }

// Hold makes the caller the one process that archives ahead for the scope, the files called names; and the folder, if there
// is none. ErrBusy: there is such a process.
func (m *Markers) Hold(names []string) (*Pushing, error) {
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return nil, err
	}
	f, err := lockSoon(m.pushing())
	if err != nil {
		return nil, err
	}
	p := &Pushing{f}
	p.Forget() // what a process that was killed has left
	if _, err := f.WriteString(strings.Join(names, "\n") + "\n"); err != nil {
		p.Release()
		return nil, err
	}
	return p, nil
}

// Forget takes all names off the list.
func (p *Pushing) Forget() { _ = p.f.Truncate(0) } // where that fails, somebody waits until Release

// Release ends it.
func (p *Pushing) Release() {
	os.Remove(p.f.Name()) // while it is locked: who has opened it already finds it gone
	p.f.Close()
}

// Pushing says whether a file of this name is on the list of a process that lives.
func (m *Markers) Pushing(name string) bool {
	if !held(m.pushing()) {
		return false
	}
	names, err := os.ReadFile(m.pushing())
	return err == nil && slices.Contains(strings.Split(string(names), "\n"), name)
}
