package readback

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
)

// Frames knows the parts that a backup refers to: of those that it stores itself each frame, of others the size. The frames
// are kept in a file without a name, 20 bytes each, so that memory does not grow with the database.
type Frames struct {
	spool *os.File
	size  func(part string) (int64, bool) // of a part of an earlier backup

	mu    sync.Mutex
	end   int64
	own   map[string]place
	cache map[string][]frame // of the parts that were asked for last
}

// place is where in the spool the frames of a part are.
type place struct {
	at int64
	n  int
}

// frame is what the index of a part says of one.
type frame struct {
	off, size, raw uint32
	sha            uint64 // the first bytes of its hash
}

const (
	frameSize = 20
	// cached is how many parts' frames are in memory: lines come about in the order in which parts were filled, and there are
	// as many open ones as workers.
	cached = 64
)

// NewFrames returns an empty table; size tells of parts of other backups.
func NewFrames(size func(part string) (int64, bool)) (*Frames, error) {
	spool, err := manifest.TempFile()
	return &Frames{spool: spool, size: size, own: map[string]place{}, cache: map[string][]frame{}}, err
}

// Close gives the disk space back.
func (t *Frames) Close() error { return t.spool.Close() }

// Add reads the index of a part that is about to be stored, as any reader of it will, and remembers its frames.
func (t *Frames) Add(name string, body []byte, index part.Hash) error {
	lines, err := part.ParseIndex(name, body, index)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	rows := make([]byte, 0, frameSize*len(lines))
	for _, l := range lines {
		for _, n := range []int{int(l.Off), l.Size, l.Raw} {
			rows = binary.LittleEndian.AppendUint32(rows, uint32(n))
		}
		rows = append(rows, l.SHA256[:8]...)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, err := t.spool.WriteAt(rows, t.end); err != nil {
		return fmt.Errorf("keep the index of part %s (TMPDIR sets the directory): %w", name, err)
	}
	t.own[name] = place{t.end, len(lines)}
	t.end += int64(len(rows))
	return nil
}

// hold refuses an extent that does not lie within a frame of its part.
func (t *Frames) hold(x manifest.Extent) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, own := t.own[x.Part]
	if !own {
		size, known := t.size(x.Part)
		if !known || x.Off+int64(x.Size) > size {
			return refused("an extent at %d points to byte %d of part %s, which does not exist", x.At, x.Off, x.Part)
		}
		return nil
	}
	frames, err := t.load(x.Part, at)
	if err != nil {
		return err
	}
	i, found := slices.BinarySearchFunc(frames, x.Off, func(f frame, off int64) int { return cmp.Compare(int64(f.off), off) })
	if !found {
		return refused("an extent at %d points to byte %d of part %s, where no frame begins", x.At, x.Off, x.Part)
	}
	if f := frames[i]; x.Size != int(f.size) || binary.LittleEndian.Uint64(x.SHA256[:8]) != f.sha || x.Skip+x.Len > int(f.raw) {
		return refused("an extent at %d does not fit the frame at %d of part %s: %d bytes from %d on of %d", x.At, x.Off, x.Part, x.Len, x.Skip, f.raw)
	}
	return nil
}

// load brings the frames of a part.
func (t *Frames) load(name string, at place) ([]frame, error) {
	if frames, ok := t.cache[name]; ok {
		return frames, nil
	}
	rows := make([]byte, frameSize*at.n)
	if _, err := t.spool.ReadAt(rows, at.at); err != nil && err != io.EOF {
		return nil, fmt.Errorf("read the index of part %s: %w", name, err)
	}
	frames := make([]frame, at.n)
	for i := range frames {
		row := rows[frameSize*i:]
		n := binary.LittleEndian.Uint32
		frames[i] = frame{n(row), n(row[4:]), n(row[8:]), binary.LittleEndian.Uint64(row[12:])}
	}
	if len(t.cache) >= cached {
		clear(t.cache)
	}
	t.cache[name] = frames
	return frames, nil
}
