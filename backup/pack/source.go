package pack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
)

// source is a file whose chunks several workers read: opened by the first, closed after the last one.
type source struct {
	Entry datadir.Entry
	data  io.ReaderAt // preset for content that is not in entry.Source
	once  sync.Once
	file  *os.File
	err   error
	gone  atomic.Bool  // it was dropped between the walk and here
	left  atomic.Int64 // chunks that are still to be read
	cut   sync.Once    // for the warning that it became shorter
}

const (
	// stillMost is the largest file that still reads: larger ones do not fit into memory, and are logs.
	stillMost = part.ChunkSize
	// So often, and after such a pause, still reads a file again. The pause is longer than a step of the clock that gives
	// files their times, within which a second change does not show.
	stillTries = 10
	stillPause = 20 * time.Millisecond
)

// ReadStable opens a file that replay will not repair, such as configuration: another may have got its name since the walk
// saw it, so what is described is what was opened. A small one it also reads, again when it changed just now. It
// returns nil when the file has gone.
func (p *Packer) ReadStable(e datadir.Entry) (*source, error) {
	for try := 1; ; try++ {
		src, after, err := openStable(e)
		if err != nil {
			return nil, fmt.Errorf("read %q: %w", e.Source, err)
		}
		if src == nil || src.file != nil {
			return src, nil
		}
		was := src.Entry
		same := after.Size == was.Size && after.Mtime.Equal(was.Mtime) && after.Ctime.Equal(was.Ctime)
		if same && p.Now().Sub(after.Mtime).Abs() >= stillPause {
			return src, nil
		}
		if try == stillTries {
			if !same && after.Size <= was.Size { // else it is a log, which has grown
				p.Warn(e.Path, "it changed each time it was read: parts of it in the backup may be older than the rest")
			}
			return src, nil
		}
		time.Sleep(stillPause)
	}
}

// openStable is one try of still. Of a file that it reads it also says what that was like afterwards.
func openStable(e datadir.Entry) (src *source, after datadir.Entry, err error) {
	file, err := os.Open(e.Source)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, after, nil
	}
	if err != nil {
		return nil, after, err
	}
	e, err = e.Opened(file)
	if err == nil && e.Size > stillMost {
		return &source{Entry: e, data: file, file: file}, after, nil
	}
	defer file.Close() // it was only read
	if err != nil {
		return nil, after, err
	}
	data := make([]byte, e.Size)
	n, err := io.ReadFull(file, data)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, after, err
	}
	e.Size = int64(n)
	after, err = e.Opened(file)
	return &source{Entry: e, data: bytes.NewReader(data[:n])}, after, err
}

func (s *source) open() {
	if s.data != nil {
		return
	}
	s.file, s.err = os.Open(s.Entry.Source)
	if errors.Is(s.err, fs.ErrNotExist) {
		s.gone.Store(true)
	}
	s.data = s.file
}

// Read fills data from offset at. A file that shrank meanwhile gives zeros for what is gone, as in
// pg_basebackup: replay of the WAL truncates it again.
func (s *source) Read(data []byte, at int64) (cut bool, err error) {
	s.once.Do(s.open)
	if s.err != nil {
		return false, s.err
	}
	n, err := s.data.ReadAt(data, at)
	if err == io.EOF {
		clear(data[n:])
		return true, nil
	}
	return false, err
}

// done is called when n more chunks have been dealt with.
func (s *source) done(n int) {
	if s.left.Add(-int64(n)) == 0 && s.file != nil {
		s.file.Close() // it was only read
	}
}

// pack reads the chunks of a task, into buf, and puts them into the worker's part.
func (p *Packer) pack(w *part.Writer, t task, buf []byte) error {
	l := t.line
	defer l.src.done(t.n)
	var both [mostChunks]part.Content
	contents := both[:t.n]
	for k := range contents {
		contents[k] = l.content(t.i+k, buf[k*part.ChunkSize:])
		p.Progress.Bytes.Add(int64(len(contents[k].Data)))
	}
	if patched, err := p.packBlocks(w, l, t.i, contents[0]); patched || err != nil {
		return err
	}
	for k, c := range contents {
		if err := p.read(l.src, c.Data, c.At); err != nil || l.src.gone.Load() {
			return err // one that has gone replay does not need either
		}
		contents[k].CRC32C = part.Checksum(c.Data)
	}
	both[0].SHA256, both[1].SHA256 = part.Sum2(both[0].Data, both[1].Data)
	for k, c := range contents {
		var err error
		if l.chunks[t.i+k], err = p.put(w, l, t.i+k, c); err != nil {
			return err
		}
	}
	return nil
}

// content describes chunk i of the line, which is to be read into buf.
func (l *line) content(i int, buf []byte) part.Content {
	f := &l.file
	at := f.At + int64(i)*part.ChunkSize
	data := buf[:min(part.ChunkSize, f.Size-at)]
	return part.Content{
		Path: l.src.Entry.Path, At: at, Data: data, Whole: int64(len(data)) == f.Size, Relation: l.src.Entry.Relation,
		Mode: fs.FileMode(f.Mode), UID: f.UID, GID: f.GID, Mtime: f.Mtime,
	}
}

// packBlocks packs chunk i of the line, when it is known which of its blocks have changed, by reading only
// those. It declines (false) when that would not be worth it.
func (p *Packer) packBlocks(w *part.Writer, l *line, i int, content part.Content) (bool, error) {
	c, prev, pages := &l.chunks[i], l.previous(i), len(content.Data)/part.PageSize
	if len(c.blocks) == 0 {
		return false, nil
	}
	runs := split(prev.Extents, marks(c.blocks, pages), content.At)
	if !worthPatching(runs, pages) || !l.admits(len(runs), len(prev.Extents)) {
		return false, nil
	}
	var err error
	c.pieces, err = p.store(w, runs, content, func(page []byte, at int64) error { return p.read(l.src, page, at) })
	return true, err
}

// read reads data from offset at, and verifies its pages when it has any.
func (p *Packer) read(src *source, data []byte, at int64) error {
	cut, err := src.Read(data, at)
	if src.gone.Load() {
		return nil
	}
	if cut && !src.Entry.Replayed() {
		src.cut.Do(func() { p.Warn(src.Entry.Path, "it was truncated while it was read: its end is zeros in the backup") })
	}
	if err == nil && src.Entry.Relation && p.Verify != 0 {
		err = p.verifyPages(src, data, at)
	}
	if err != nil {
		return fmt.Errorf("read %q: %w", src.Entry.Source, err)
	}
	p.Progress.Read.Add(int64(len(data)))
	return nil
}

// previous is chunk i of the line in the previous backup, or nil.
func (l *line) previous(i int) *manifest.Chunk {
	if l.prev == nil || i >= len(l.prev.Chunks) {
		return nil
	}
	return &l.prev.Chunks[i]
}

// put decides what of chunk i of a line has to be stored, and stores that.
func (p *Packer) put(w *part.Writer, l *line, i int, content part.Content) (chunk, error) {
	c := chunk{sha: content.SHA256, crc: content.CRC32C}
	n := len(content.Data)
	var ok bool
	if c.pieces, ok = p.reuse(l.previous(i), c.sha, n); ok {
		if c.pieces[0].Frame.Fresh() {
			p.Progress.Repeated.Add(int64(n))
		} else {
			p.Progress.Reused.Add(int64(n))
		}
		return c, nil
	}
	var err error
	if c.pieces, err = p.patch(w, l, i, content); err != nil || c.pieces != nil {
		return c, err
	}
	frame, skip, err := w.Add(content)
	k := Piece{Frame: frame, skip: skip, len: n}
	p.Prev.remember(c.sha, k)
	c.pieces = []Piece{k}
	return c, err
}

// verifyPages notes the pages of data whose checksum does not hold and that replay will not rewrite.
// A page that a running write tore reads differently the second time: then it is no damage.
func (p *Packer) verifyPages(src *source, data []byte, at int64) error {
	first := src.Entry.Segno*p.FileBlocks + uint32(at/int64(p.PageSize))
	var bad []uint32
	for _, block := range datadir.VerifyPages(data, first, p.PageSize, p.Verify) {
		off := int(block-first) * p.PageSize
		page := data[off : off+p.PageSize]
		if _, err := src.Read(page, at+int64(off)); err != nil {
			return err
		}
		if len(datadir.VerifyPages(page, block, p.PageSize, p.Verify)) > 0 {
			bad = append(bad, block)
		}
	}
	if bad != nil {
		p.mu.Lock()
		p.Damaged[src.Entry.Path] = append(p.Damaged[src.Entry.Path], bad...)
		p.mu.Unlock()
		p.Warn(src.Entry.Path, fmt.Sprintf("page checksum does not match in block(s) %v", bad))
	}
	return nil
}
