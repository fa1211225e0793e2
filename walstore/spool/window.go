package spool

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pgobj/pgobj/storage/owned"
)

// Window is a directory of WAL segments that were fetched and checked before PostgreSQL asked for them. It belongs to
// one run of one server (that is in its scope) and to the one process that holds its lock.
//
//	lock          names of segments that PostgreSQL got, one a line; flock of the process that fills the window
//	NAME.part     is being fetched
//	NAME.XXHash     whole and checked
type Window struct{ dir string }

const (
	windowPrefix = "fetched-"
	lockName     = "lock"
	asksLook     = 10 * time.Millisecond // while recovery has a window full of segments
)

// NewWindow is that of a scope in the spool dir; it need not exist yet.
func NewWindow(dir, scope string) *Window { return &Window{filepath.Join(dir, windowPrefix+scope)} }

// Find is the file of a segment and the XXHash that it was fetched with. A file that another user could have put there, or can
// still write to, is none: PostgreSQL gets the very file.
func (w *Window) Find(name string) (path string, sum uint64, ok bool) {
	if owned.Dir(w.dir) != nil {
		return "", 0, false
	}
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		return "", 0, false
	}
	for _, e := range entries {
		of, sum, ok := whole(e.Name())
		file := filepath.Join(w.dir, e.Name())
		if ok && of == name && owned.File(file) == nil {
			return file, sum, true
		}
	}
	return "", 0, false
}

// whole reads the name of a file that Keep has named.
func whole(file string) (name string, sum uint64, ok bool) {
	name, digest, _ := strings.Cut(file, ".")
	sum, err := strconv.ParseUint(digest, 16, 64)
	return name, sum, err == nil && len(digest) == 16
}

// Await waits while a segment is on its way into the window; not longer than it takes steps within patience.
func (w *Window) Await(ctx context.Context, name string, patience time.Duration) {
	const look = 3 * time.Millisecond
	last, since := int64(-1), time.Now()
	for ctx.Err() == nil {
		info, err := os.Stat(w.part(name))
		if err != nil {
			return
		}
		if info.Size() != last {
			last, since = info.Size(), time.Now()
		}
		if time.Since(since) > patience || !w.Filled() {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(look):
		}
	}
}

func (w *Window) lock() string { return filepath.Join(w.dir, lockName) }

func (w *Window) part(name string) string { return filepath.Join(w.dir, name+".part") }

// Filled says whether a process fills the window.
func (w *Window) Filled() bool { return held(w.lock()) }

// Asked tells the process that fills the window which segment PostgreSQL got; false when there is none. A name that cannot
// be written is lost: the next one says more.
func (w *Window) Asked(name string) bool {
	f, err := owned.Open(w.lock(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	if !locked(f) {
		return false
	}
	_, _ = f.WriteString(name + "\n")
	return true
}

// Hold makes the caller the process that fills the window. asked yields what Asked is given; release removes
// the window with all that is in it.
func (w *Window) Hold(ctx context.Context) (asked <-chan string, release func(), err error) {
	if err := makeDir(w.dir); err != nil {
		return nil, nil, fmt.Errorf("create the directory for segments fetched ahead: %w", err)
	}
	lock, err := lockSoon(w.lock())
	if err != nil {
		return nil, nil, err
	}
	if err := w.clear(lock); err != nil {
		lock.Close()
		return nil, nil, err
	}
	names := make(chan string)
	go follow(ctx, lock, names) // ends with ctx or with release, and nobody needs to wait for that
	return names, func() {
		os.RemoveAll(w.dir) // the lock's file too, while it is locked: who has opened it already finds it gone
		lock.Close()
	}, nil
}

// follow yields the lines of a file that others append to.
func follow(ctx context.Context, f *os.File, lines chan<- string) {
	in, line := bufio.NewReader(f), ""
	for {
		more, err := in.ReadString('\n')
		line += more
		switch {
		case err == nil:
			select {
			case lines <- strings.TrimSuffix(line, "\n"):
			case <-ctx.Done():
				return
			}
			line = ""
		case err != io.EOF:
			return
		default:
			select {
			case <-time.After(asksLook):
			case <-ctx.Done():
				return
			}
		}
	}
}

// clear removes what a process that was killed has left.
func (w *Window) clear(lock *os.File) error {
	if err := lock.Truncate(0); err != nil {
		return err
	}
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != lockName {
			if err := os.Remove(filepath.Join(w.dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Create begins a segment; Keep or Drop ends it.
func (w *Window) Create(name string) (*os.File, error) {
	return os.OpenFile(w.part(name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// Keep gives a whole segment its name, once it is on disk.
func (w *Window) Keep(f *os.File, name string, sum uint64) error {
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(w.dir, fmt.Sprintf("%s.%016x", name, sum)))
}

// Drop removes a segment that was not finished.
func (w *Window) Drop(f *os.File) { os.Remove(f.Name()) }

// Names are the segments that are whole.
func (w *Window) Names() []string {
	entries, _ := os.ReadDir(w.dir) // what cannot be read holds nothing
	var names []string
	for _, e := range entries {
		if name, _, ok := whole(e.Name()); ok {
			names = append(names, name)
		}
	}
	return names
}

// Forget removes a segment that will not be asked for any more.
func (w *Window) Forget(name string) {
	if path, _, ok := w.Find(name); ok {
		os.Remove(path)
	}
}

// Sweep removes windows that nobody fills: left by processes that were killed, for servers that are gone.
func Sweep(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, windowPrefix+"*")) // only a bad pattern is an error
	for _, w := range left {
		if lock, err := owned.Lock(filepath.Join(w, lockName)); err == nil {
			os.RemoveAll(w)
			lock.Close()
		}
	}
}
