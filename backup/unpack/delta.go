package unpack

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/backup/part"
)

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
	root, name := u.target.Place(w.file.path)
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
			return nil, nil // what is shorter, or cannot be read, is to be written again
		}
		crc = crc32.Update(crc, part.Castagnoli, b)
		done += len(b)
	}
	if crc != uint32(c.crc) {
		return nil, nil
	}
	return buf, nil
}
