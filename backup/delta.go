package backup

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/backup/cluster"
	"github.com/pgobj/pgobj/backup/part"
)

// findOurs marks the places that the existing data directory's own links lead to: what is there may be
// replaced.
func (t *target) findOurs() {
	for _, m := range t.mounts {
		to, err := filepath.EvalSymlinks(filepath.Join(t.dir, m.path))
		if err != nil || !exists(m.location) {
			continue
		}
		at, err := filepath.EvalSymlinks(m.location)
		_, notLink := os.Readlink(filepath.Join(t.dir, m.path))
		m.ours = err == nil && (to == at && notLink == nil || within(at, t.dir))
	}
}

// checkDelta refuses a folder that is no data directory: what is not in the backup will be removed.
func (t *target) checkDelta() error {
	names, err := readDir(t.dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTarget, err)
	}
	if len(names) > 0 && !slices.Contains(names, "PG_VERSION") && !slices.ContainsFunc(names, isMarker) {
		return fmt.Errorf("%w: %s is no data directory of PostgreSQL, and --delta removes what is not in the backup: name another folder, or empty this one", ErrTarget, t.dir)
	}
	return nil
}

// isMarker knows the marker, and the name that it has before it is whole.
func isMarker(name string) bool { return strings.HasPrefix(name, marker) }

// checkCluster refuses the data directory of another cluster.
func (t *target) checkCluster(systemID uint64) error {
	c, ok := t.control()
	if ok && c.SystemID != systemID {
		return fmt.Errorf("%w: %s belongs to another cluster (system identifier %d, the backup's is %d): move it away, or restore to another folder", ErrTarget, t.dir, c.SystemID, systemID)
	}
	return nil
}

// control is the pg_control of the data directory that is there, under the name that it has now.
func (t *target) control() (cluster.Control, bool) {
	for _, name := range []string{controlPath, controlBefore} {
		if b, err := os.ReadFile(filepath.Join(t.dir, name)); err == nil {
			if c, err := cluster.ParseControl(b); err == nil {
				return c, true
			}
		}
	}
	return cluster.Control{}, false
}

// prepare makes ready for a file: the link that leads to it, if it is to lie elsewhere, and, where there is one
// already, that it can be written to without harm to others.
func (t *target) prepare(p string) error {
	if m := t.mount(p); m != nil {
		if err := t.symlink(p, m.location); err != nil {
			return err
		}
	}
	if !t.delta {
		return nil
	}
	root, name := t.place(p)
	st, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	// A file with a second name is somebody else's too (pg_upgrade --link, cp --link).
	if sys, ok := st.Sys().(*syscall.Stat_t); !ok || sys.Nlink > 1 || !st.Mode().IsRegular() {
		return root.RemoveAll(name)
	}
	if st.Mode().Perm()&0o600 != 0o600 {
		return root.Chmod(name, 0o600)
	}
	return nil
}

// differing reads the chunks of a window that are in the target already, several at a time, and returns the
// extents of those that differ from the backup's.
func (u *unpacker) differing(w []want) ([]want, error) {
	g, ctx := errgroup.WithContext(u.ctx)
	workers := cap(u.jobs) / 4
	g.SetLimit(workers)
	var chunks [][]want
	for len(w) > 0 {
		n := 1
		for n < len(w) && w[n].chunk == w[0].chunk {
			n++
		}
		chunks, w = append(chunks, w[:n]), w[n:]
	}
	same := make([]bool, len(chunks))
	for i, c := range chunks {
		g.Go(func() (err error) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			buf, err := u.buffer()
			if err != nil {
				return err
			}
			defer func() { u.buffers <- buf }()
			if same[i], err = u.matches(c[0], buf); err != nil || !same[i] {
				return err
			}
			u.progress.Bytes.Add(int64(c[0].chunk.len))
			u.progress.Reused.Add(int64(c[0].chunk.len))
			for range c {
				if err := u.done(c[0].file); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var left []want
	for i, c := range chunks {
		if !same[i] {
			left = append(left, c...)
		}
	}
	return left, nil
}

// matches says whether a chunk is in the target as it is in the backup.
func (u *unpacker) matches(w want, buf []byte) (bool, error) {
	if w.chunk.sum == (part.Hash{}) { // WAL summaries told what had changed, and nobody has read the rest
		return false, nil
	}
	root, name := u.target.place(w.file.path)
	f, err := root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("compare %q: %w", w.file.path, err)
	}
	defer f.Close()
	// The CRC tells most differences at a tenth of the cost; that there is none, only the hash can tell.
	crc := uint32(0)
	whole := w.chunk.read(f, buf, func(b []byte) { crc = crc32.Update(crc, castagnoli, b) })
	if !whole || crc != uint32(w.chunk.crc) {
		return false, nil
	}
	sum := sha256.New()
	whole = w.chunk.read(f, buf, func(b []byte) { sum.Write(b) })
	return whole && part.Hash(sum.Sum(nil)) == w.chunk.sum, nil
}

// read hands on what is in a chunk's place, as much as buf holds at a time, and says whether that is all of it. What is
// shorter, or cannot be read, is to be written anew.
func (c *assembly) read(f *os.File, buf []byte, do func([]byte)) bool {
	for done := 0; done < c.len; done += len(buf) {
		buf = buf[:min(len(buf), c.len-done)]
		if n, _ := f.ReadAt(buf, c.at+int64(done)); n < len(buf) {
			return false
		}
		do(buf)
	}
	return true
}
