package backup

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
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
	var chunks [][]want
	for len(w) > 0 {
		n := 1
		for n < len(w) && w[n].chunk == w[0].chunk {
			n++
		}
		chunks, w = append(chunks, w[:n]), w[n:]
	}
	same := make([]bool, len(chunks))
	var next atomic.Int64
	g, ctx := errgroup.WithContext(u.ctx)
	for range cap(u.jobs) / 4 { // the workers
		g.Go(func() error {
			buf := make([]byte, 2*part.ChunkSize)
			for ctx.Err() == nil {
				i := int(next.Add(2)) - 2
				if i >= len(chunks) {
					return nil
				}
				if err := u.compare(chunks[i:min(i+2, len(chunks))], same[i:], buf); err != nil {
					return err
				}
			}
			return context.Cause(ctx)
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

// compare tells which of one or two chunks are in the target as they are in the backup, and is done with those.
func (u *unpacker) compare(chunks [][]want, same []bool, buf []byte) error {
	var there [2][]byte
	var err error
	for k, c := range chunks {
		if there[k], err = u.alike(c[0], buf[k*part.ChunkSize:]); err != nil {
			return err
		}
	}
	var sums [2]part.Hash
	sums[0], sums[1] = part.Sum2(there[0], there[1])
	for k, c := range chunks {
		if same[k] = there[k] != nil && sums[k] == c[0].chunk.sum; !same[k] {
			continue
		}
		u.progress.Bytes.Add(int64(c[0].chunk.len))
		u.progress.Reused.Add(int64(c[0].chunk.len))
		for range c {
			if err := u.done(c[0].file); err != nil {
				return err
			}
		}
	}
	return nil
}

// alike reads what is in the target in a chunk's place, into buf; nil when that is something else. The CRC tells most
// differences at a tenth of the cost; that there is none, only the hash can tell.
func (u *unpacker) alike(w want, buf []byte) ([]byte, error) {
	c := w.chunk
	if c.sum == (part.Hash{}) { // WAL summaries told what had changed, and nobody has read the rest
		return nil, nil
	}
	root, name := u.target.place(w.file.path)
	f, err := root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("compare %q: %w", w.file.path, err)
	}
	defer f.Close()
	buf = buf[:c.len]
	crc := uint32(0)
	for done := 0; done < c.len; {
		b := buf[done:min(done+compareSize, c.len)]
		if n, _ := f.ReadAt(b, c.at+int64(done)); n < len(b) {
			return nil, nil // what is shorter, or cannot be read, is to be written anew
		}
		crc = crc32.Update(crc, castagnoli, b)
		done += len(b)
	}
	if crc != uint32(c.crc) {
		return nil, nil
	}
	return buf, nil
}
