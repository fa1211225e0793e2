package pack

import (
	"context"
	"errors"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/storage"
)

// Piece is some content in a frame, whose place may not be known yet.
type Piece struct {
	Frame *part.Frame
	skip  int // where in the expanded frame the content begins
	len   int // bytes
}

// resolve makes the extents of a chunk that begins at the given offset; it waits for open frames.
func resolve(ctx context.Context, pieces []Piece, at int64) ([]manifest.Extent, error) {
	extents := make([]manifest.Extent, len(pieces))
	for i, x := range pieces {
		if err := x.Frame.Wait(ctx); err != nil {
			return nil, err
		}
		f := x.Frame
		extents[i] = manifest.Extent{At: at, Len: x.len, Part: f.Part, Off: f.Off, Size: f.Size, SHA256: f.SHA256, Skip: x.skip}
		at += int64(x.len)
	}
	return extents, nil
}

// stored is a piece that an extent speaks of.
func stored(x manifest.Extent) Piece {
	return Piece{&part.Frame{Part: x.Part, Off: x.Off, Size: x.Size, SHA256: x.SHA256}, x.Skip, x.Len}
}

func pieces(extents []manifest.Extent) []Piece {
	out := make([]Piece, len(extents))
	for i, x := range extents {
		out[i] = stored(x)
	}
	return out
}

// unchangedByAttributes says whether a file's attributes prove that it is what the previous backup has read: not only
// size and mtime, which anybody can set, but also ctime, which nobody can, and the identity of the inode.
// They prove nothing when the file had changed just before it was read: a second change within the grain
// of the file system's clock would not show.
func unchangedByAttributes(f, prev *manifest.File) bool {
	return prev != nil && prev.Type == f.Type && !prev.Hot && prev.Size == f.Size && prev.Mtime.Equal(f.Mtime) && prev.Ctime.Equal(f.Ctime) &&
		prev.Ino == f.Ino && prev.Dev == f.Dev && f.Ino != 0
}

// reuse looks for a chunk's content in what is stored already: where it was in the previous backup, then
// anywhere. The cheapest answer comes first.
func (p *Packer) reuse(prev *manifest.Chunk, sum part.Hash, n int) ([]Piece, bool) {
	if prev != nil && prev.SHA256 == sum && p.Prev.usable(prev.Extents) {
		return pieces(prev.Extents), true
	}
	if k, ok := p.Prev.lookup(sum, n); ok {
		return []Piece{k}, true
	}
	return nil, false
}

// patch stores only the pages of a chunk that differ from the previous backup's, and refers to the others
// where they are. It declines (nil) when that would not be worth it or cannot be known.
func (p *Packer) patch(w *part.Writer, l *line, i int, c part.Content) ([]Piece, error) {
	prev := l.previous(i)
	if prev == nil || !c.Relation || len(c.Data)%part.PageSize != 0 || !p.Prev.usable(prev.Extents) {
		return nil, nil
	}
	changed, err := p.changed(prev, c.Data)
	if changed == nil || err != nil {
		return nil, err
	}
	runs := split(prev.Extents, changed, c.At)
	if !worthPatching(runs, len(changed)) || !l.admits(len(runs), len(prev.Extents)) {
		return nil, nil
	}
	return p.store(w, runs, c, func([]byte, int64) error { return nil })
}

// store stores the fresh runs of a chunk, whose content is c, and refers to the others where they are. read
// brings the bytes of a fresh run.
func (p *Packer) store(w *part.Writer, runs []run, c part.Content, read func(data []byte, at int64) error) ([]Piece, error) {
	var out []Piece
	for _, r := range runs {
		if !r.fresh {
			p.Progress.Reused.Add(int64(r.Len))
			out = append(out, stored(r.Extent))
			continue
		}
		content := c
		content.Data = c.Data[r.At-c.At:][:r.Len]
		if err := read(content.Data, r.At); err != nil {
			return nil, err
		}
		content.At, content.Whole, content.SHA256, content.CRC32C = r.At, false, part.Sum(content.Data), part.Checksum(content.Data)
		frame, skip, err := w.Add(content)
		if err != nil {
			return nil, err
		}
		out = append(out, Piece{Frame: frame, skip: skip, len: r.Len})
	}
	return out, nil
}

// changedBlocks asks the WAL summaries about a file; known is false when they do not tell.
func (p *Packer) changedBlocks(e datadir.Entry) (blocks []uint32, known bool) {
	if p.Changes == nil || p.Reread || p.PageSize != part.PageSize || p.Prev.damagedFiles[e.Path] {
		return nil, false
	}
	return p.Changes.Of(e, p.FileBlocks)
}

// unchangedBySummary says whether chunk i of a line can be taken from the previous backup without reading it, as
// none of its blocks has changed. Of others it notes which have.
func (p *Packer) unchangedBySummary(l *line, i int, changed []uint32) bool {
	prev := l.previous(i)
	at := l.file.At + int64(i)*part.ChunkSize
	n := int(min(part.ChunkSize, l.file.Size-at))
	if prev == nil || n%part.PageSize != 0 || !p.Prev.usable(prev.Extents) {
		return false
	}
	for _, x := range prev.Extents {
		n -= x.Len
		if x.Len%part.PageSize != 0 {
			return false
		}
	}
	if n != 0 {
		return false // it has grown or shrunk
	}
	const pages = part.ChunkSize / part.PageSize
	first := uint32(at / part.PageSize)
	from, _ := slices.BinarySearch(changed, first)
	to, _ := slices.BinarySearch(changed, first+pages)
	c := &l.chunks[i]
	for _, b := range changed[from:to] {
		c.blocks = append(c.blocks, b-first)
	}
	if len(c.blocks) > 0 {
		return false
	}
	*c = chunk{sha: prev.SHA256, crc: uint32(prev.CRC32C), pieces: pieces(prev.Extents)}
	size := min(part.ChunkSize, l.file.Size-at)
	p.Progress.Bytes.Add(size)
	p.Progress.Reused.Add(size)
	return true
}

// marks turns block numbers into one mark for each of n pages.
func marks(blocks []uint32, n int) []bool {
	out := make([]bool, n)
	for _, b := range blocks {
		if int(b) < n {
			out[b] = true
		}
	}
	return out
}

// changed says of each page whether it differs from the previous backup's, by the page hashes that the
// parts keep; nil when they do not tell.
func (p *Packer) changed(prev *manifest.Chunk, data []byte) ([]bool, error) {
	out := make([]bool, 0, len(data)/part.PageSize)
	for _, x := range prev.Extents {
		hashes, err := p.Prev.Hashes(p.Ctx, x)
		if errors.Is(err, part.ErrDamaged) {
			p.Warn(x.Part, "page hashes cannot be used, so whole chunks are stored: "+err.Error())
			return nil, nil
		}
		if errors.Is(err, storage.ErrUnreadable) {
			if p.Prev.seal(x.Part, err.Error()) {
				p.Warn(x.Part, "it cannot be read, so its content is stored again from here on: "+err.Error())
			}
			return nil, nil
		}
		if hashes == nil || err != nil {
			return nil, err
		}
		for _, h := range hashes {
			if at := len(out) * part.PageSize; at < len(data) {
				out = append(out, xxhash.Sum64(data[at:at+part.PageSize]) != h)
			}
		}
	}
	for len(out) < cap(out) { // the file has grown
		out = append(out, true)
	}
	return out, nil
}

// run is a stretch of a chunk: pages to be stored, or an extent (or a slice of one) to be kept.
type run struct {
	manifest.Extent
	fresh bool
}

// admits says whether the line has room for a chunk that gets so many extents in the place of the old ones, and gives it
// that room.
func (l *line) admits(extents, old int) bool {
	more := int64(extents - old)
	if l.extents.Add(more) <= extentsMost || more <= 0 {
		return true
	}
	l.extents.Add(-more)
	return false
}

// split cuts a chunk, which begins at the file's offset at, into runs of changed and of unchanged pages.
func split(old []manifest.Extent, changed []bool, at int64) []run {
	var runs []run
	x, used := 0, 0 // the old extent under the page, and how much of it lies after it
	for _, fresh := range changed {
		var r run
		if r.fresh = fresh; !fresh {
			r.Extent = old[x]
			r.Skip += used
		}
		r.At, r.Len = at, part.PageSize
		at += part.PageSize
		if used += part.PageSize; x < len(old) && used >= old[x].Len {
			x, used = x+1, 0
		}
		if n := len(runs); n > 0 && runs[n-1].joins(r) {
			runs[n-1].Len += r.Len
			continue
		}
		runs = append(runs, r)
	}
	return runs
}

// joins says whether b goes on where a ends.
func (a run) joins(b run) bool {
	if a.fresh || b.fresh {
		return a.fresh && b.fresh
	}
	return a.Part == b.Part && a.Off == b.Off && a.Skip+a.Len == b.Skip
}

// worthPatching holds the limits on patched chunks: pages is their number in the chunk.
func worthPatching(runs []run, pages int) bool {
	type place struct {
		part string
		off  int64
	}
	bytes := map[place]int{}
	for _, r := range runs {
		if r.fresh {
			bytes[place{}] += r.Len // the frame that is open, most likely one
		} else {
			bytes[place{r.Part, r.Off}] += r.Len
		}
	}
	most := 0
	for k, n := range bytes {
		if k != (place{}) {
			most = max(most, n)
		}
	}
	patched := pages*part.PageSize - most
	return len(bytes) <= maxFramesPerChunk && patched*maxPatchedShare <= pages*part.PageSize && slices.ContainsFunc(runs, func(r run) bool { return !r.fresh })
}
