package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/backup/manifest"
)

// sweeper removes what is in a target and not in a manifest: two streams of paths in the same order, side by side.
// Of memory it takes the names in one directory and in those above it.
type sweeper struct {
	ctx   context.Context
	t     *Target
	lines *manifest.Reader
	line  *manifest.File  // the manifest's next; nil after its end
	tail  map[string]bool // what of manifest.Tail is in the manifest
}

// Sweep removes what a backup with these lines does not have: a server would read some of it, such as WAL of another history, or
// signal files.
func (t *Target) Sweep(ctx context.Context, lines *manifest.Reader) error {
	s := &sweeper{ctx: ctx, t: t, lines: lines, tail: map[string]bool{}}
	if err := s.next(); err != nil {
		return err
	}
	if err := s.dir("", s.t.Root, "."); err != nil {
		return err
	}
	for s.line != nil { // what is only in the backup
		if err := s.next(); err != nil {
			return err
		}
	}
	for _, p := range manifest.Tail {
		root, name := s.t.Root, p
		if !s.tail[p] {
			if err := root.RemoveAll(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// next goes to the manifest's next entry, past the files that come last and out of order.
func (s *sweeper) next() (err error) {
	if err := s.ctx.Err(); err != nil {
		return context.Cause(s.ctx)
	}
	for {
		s.line, err = s.lines.Next()
		if errors.Is(err, io.EOF) {
			s.line = nil
			return nil
		}
		if err != nil {
			return err
		}
		p := s.line.RawPath()
		if slices.Contains(manifest.Tail, p) {
			s.tail[p] = true
			continue
		}
		if p != manifest.Root && s.line.At == 0 {
			return nil
		}
	}
}

// dir goes through a directory, whose path in the data directory is p. In byte order of whole paths the content
// of "a" comes where "a/" sorts among its siblings, after "a.b".
func (s *sweeper) dir(p string, root *os.Root, name string) error {
	names, err := rootNames(root, name)
	if err != nil {
		return err
	}
	slices.Sort(names)
	var waiting []string // directories to enter, the next one last: only these, for there may be a million files
	enter := func(before string) error {
		for n := len(waiting) - 1; n >= 0 && (before == "" || waiting[n]+"/" < before); n-- {
			at := waiting[n]
			waiting = waiting[:n]
			if err := s.enter(path.Join(p, at), root, path.Join(name, at)); err != nil {
				return err
			}
		}
		return nil
	}
	for _, n := range names {
		if err := enter(n); err != nil {
			return err
		}
		kept, err := s.visit(path.Join(p, n), root, path.Join(name, n))
		if err != nil {
			return err
		}
		if kept {
			waiting = append(waiting, n)
		}
	}
	return enter("")
}

// enter goes into a directory, or to where a link that belongs there leads.
func (s *sweeper) enter(p string, root *os.Root, name string) error {
	m := s.t.Mount(p)
	switch {
	case m == nil:
		return s.dir(p, root, name)
	case m.file || !m.ours:
		return nil // nothing of ours is there yet
	}
	return s.dir(p, m.root, ".")
}

// visit decides on one entry, and says whether it is a directory that stays.
func (s *sweeper) visit(p string, root *os.Root, name string) (enter bool, err error) {
	for s.line != nil && s.line.RawPath() < p {
		if err := s.next(); err != nil {
			return false, err
		}
	}
	if s.preserved(p) {
		return false, nil
	}
	st, err := root.Lstat(name)
	if err != nil {
		return false, err
	}
	if s.line == nil || s.line.RawPath() != p || !s.fits(p, st) {
		err := s.t.removeLeft(p)
		if err == nil {
			err = root.RemoveAll(name)
		}
		if err != nil {
			return false, fmt.Errorf("%q: %w", p, err)
		}
		return false, nil
	}
	if st.IsDir() {
		err = root.Chmod(name, 0o700) // its content has to be seen
	}
	return st.IsDir() || s.t.Mount(p) != nil, err
}

// preserved: our own files, what is decided on by the tail of the manifest, what is a file system's own, and
// other things than the cluster's where a tablespace is.
func (s *sweeper) preserved(p string) bool {
	if p == Marker || p == controlBefore || p == controlTemp || slices.Contains(manifest.Tail, p) || p == "lost+found" {
		return true
	}
	for _, m := range s.t.Mounts {
		if m.version == "" {
			if p == m.Path+"/lost+found" {
				return true
			}
			continue
		}
		if rest, ok := strings.CutPrefix(p, m.Path+"/"); ok && !strings.Contains(rest, "/") && rest != m.version {
			return true
		}
		// Of a tablespace inside the data directory the content is seen through pg_tblspc.
		if m.Location+"/"+m.version == s.t.Dir+"/"+p {
			return true
		}
	}
	return false
}

// fits says whether what is there can be what the manifest wants there.
func (s *sweeper) fits(p string, st fs.FileInfo) bool {
	isLink := st.Mode()&fs.ModeSymlink != 0
	if s.t.Mount(p) != nil {
		return isLink
	}
	switch s.line.Type {
	case manifest.TypeDir:
		return st.IsDir()
	case manifest.TypeLink:
		return isLink
	}
	return st.Mode().IsRegular()
}

func rootNames(root *os.Root, name string) ([]string, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}
