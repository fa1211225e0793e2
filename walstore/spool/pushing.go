package spool

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

const pushingPrefix = "pushing-"

// Pushing is the list of the files that one process archives ahead of PostgreSQL's requests: a file in the spool that
// the process holds a lock on.
type Pushing struct {
	f      *os.File
	gaveUp atomic.Bool
}

// gaveUpFor is how long nobody tries again after a process that could not write markers: each try pushes a few files that
// are pushed again, as nobody learns of it.
const gaveUpFor = time.Minute

func (m *Markers) pushing() string { return filepath.Join(m.dir, pushingPrefix+m.scope) }

// Hold makes the caller the one process that archives ahead for the scope, the files called names; and the directory, if there
// is none. owned.ErrBusy: there is such a process.
func (m *Markers) Hold(names []string) (*Pushing, error) {
	if err := makeDir(m.dir); err != nil {
		return nil, err
	}
	f, err := lockSoon(m.pushing())
	if err != nil {
		return nil, err
	}
	p := &Pushing{f: f}
	p.Forget() // what a process that was killed has left
	if _, err := f.WriteString(strings.Join(names, "\n") + "\n"); err != nil {
		p.GiveUp()
		p.Release()
		return nil, err
	}
	return p, nil
}

// Forget takes all names off the list.
func (p *Pushing) Forget() { _ = p.f.Truncate(0) } // where that fails, somebody waits until Release

// GiveUp takes all names off the list, and leaves it to tell others that there is no room for markers.
func (p *Pushing) GiveUp() {
	p.Forget()
	p.gaveUp.Store(true)
}

// Release ends it.
func (p *Pushing) Release() {
	if !p.gaveUp.Load() {
		os.Remove(p.f.Name()) // while it is locked: who has opened it already finds it gone
	}
	p.f.Close()
}

// GaveUp says whether there is an empty list, of a process that has given up lately.
func (m *Markers) GaveUp() bool {
	info, err := os.Stat(m.pushing())
	if err != nil || info.Size() > 0 {
		return false
	}
	age := m.now().Sub(info.ModTime())
	return age > -gaveUpFor && age < gaveUpFor
}

// Pushing says whether a file of this name is on the list of a process that lives.
func (m *Markers) Pushing(name string) bool {
	if !held(m.pushing()) {
		return false
	}
	names, err := readOwned(m.pushing())
	return err == nil && slices.Contains(strings.Split(string(names), "\n"), name)
}
