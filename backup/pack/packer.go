package pack

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/walstore/segment"
)

// maxPending bounds what waits between reading and the manifest, in files and chunks: some 10 MB, however
// many files there are.
const maxPending = 8192

// Packer turns files into parts and manifest lines. Files are given to add in the manifest's order; workers
// read, hash, compress and pack their chunks at the same time, in any order; collect writes the lines in
// the order of add, each as soon as all its frames are sealed.
type Packer struct {
	Config
	Group *errgroup.Group
	Ctx   context.Context
	tasks chan task
	lines chan *line
	room  *semaphore.Weighted // what lines may still be added to those that wait

	// A line waits for frames that are open for more small files. While pressed, somebody waits for the
	// lines, so a worker that has nothing to do seals its frame; wake makes it look.
	pressed atomic.Bool
	wake    []chan struct{}

	mu      sync.Mutex
	Damaged map[string][]uint32 // blocks by path
}

type Config struct {
	FileBlocks uint32 // blocks in one file of a relation
	PageSize   int
	Verify     segment.LSN // start of the backup, to verify page checksums; 0: the cluster has none
	Progress   *backup.Progress
	Prev       *DedupIndex      // what earlier backups offer
	Changes    *datadir.Changes // what has changed since the previous backup, when the server knows that
	Reread     bool             // trust no attributes: read every file
	Now        func() time.Time // for what is opened again
	Warn       func(path, reason string)
	Emit       func(*manifest.File) error // takes the lines, in order, from one goroutine
}

// line is one manifest line in the making.
type line struct {
	file    manifest.File
	chunks  []chunk
	prev    *manifest.File // the same piece of the same file in the previous backup, or nil
	src     *source
	extents atomic.Int64  // of its chunks, at most
	left    atomic.Int64  // tasks that are not done yet
	packed  chan struct{} // closed when left is 0
}

// count says how many extents the line has as long as its chunks are stored as they were in the previous backup.
func (l *line) count() {
	for i := range l.chunks {
		n := 1
		if prev := l.previous(i); prev != nil {
			n = len(prev.Extents)
		}
		l.extents.Add(int64(n))
	}
}

func (l *line) weight() int64 { return 1 + int64(len(l.chunks)) }

// chunk is where a worker has put a chunk.
type chunk struct {
	sha    part.Hash
	crc    uint32
	pieces []Piece
	blocks []uint32 // those that have changed, within the chunk, when they are known and all others are as before
}

// task is a chunk to pack, or two neighbours: those are read whole and hashed side by side, in nearly half the
// time.
type task struct {
	line *line
	i, n int // the first, and how many: at most mostChunks
}

const mostChunks = 2

// takes makes chunk i part of the task, if that can be.
func (t *task) takes(i int) bool {
	if t.n == mostChunks || i != t.i+t.n || len(t.line.chunks[t.i].blocks) > 0 || len(t.line.chunks[i].blocks) > 0 {
		return false
	}
	t.n++
	return true
}

func NewPacker(ctx context.Context, writers []*part.Writer, c Config) *Packer {
	p := &Packer{
		Config: c, tasks: make(chan task, 4*len(writers)), lines: make(chan *line, maxPending),
		room: semaphore.NewWeighted(maxPending), Damaged: map[string][]uint32{},
	}
	p.Group, p.Ctx = errgroup.WithContext(ctx)
	for _, w := range writers {
		wake := make(chan struct{}, 1)
		p.wake = append(p.wake, wake)
		p.Group.Go(func() error { return p.work(w, wake) })
	}
	p.Group.Go(p.collect)
	return p
}

// Add gives an entry to the packer; data is a file's content when it is not to be read from e.Source.
func (p *Packer) Add(e datadir.Entry, f manifest.File, data io.ReaderAt) error {
	f.SetPath(e.Path)
	if f.Type != manifest.TypeFile {
		return p.submit(&line{file: f}, 0)
	}
	src, prev, err := p.source(e, &f, data)
	if src == nil || err != nil {
		return err
	}
	chunks := (f.Size + part.ChunkSize - 1) / part.ChunkSize
	src.left.Store(chunks)
	if chunks > manifest.MaxFileChunks {
		// One that has gone has no line, also when its first can be taken from the previous backup without a look at it.
		if src.once.Do(src.open); src.gone.Load() {
			return nil
		}
	}
	changed, known := p.changedBlocks(e)
	for first := int64(0); first == 0 || first < chunks; first += manifest.MaxFileChunks {
		f.At = first * part.ChunkSize
		l := &line{file: f, chunks: make([]chunk, min(chunks-first, manifest.MaxFileChunks)), src: src, prev: prev}
		if data == nil && first > 0 {
			if l.prev, err = p.Prev.seek(e.Path, f.At); err != nil {
				return err
			}
		}
		l.count()
		var todo []task
		if p.unread(l) {
			l.file.Chunks, l.chunks, l.src = l.prev.Chunks, nil, nil
			src.done(len(l.file.Chunks))
		}
		for i := range l.chunks {
			if known && p.unchangedBySummary(l, i, changed) {
				src.done(1)
			} else if len(todo) == 0 || !todo[len(todo)-1].takes(i) {
				todo = append(todo, task{l, i, 1})
			}
		}
		if err := p.submit(l, len(todo)); err != nil {
			return err
		}
		for _, t := range todo {
			select {
			case p.tasks <- t:
			case <-p.Ctx.Done():
				return context.Cause(p.Ctx)
			}
		}
	}
	return nil
}

// source is where a file's content comes from, and its first line in the previous backup. It is nil for a file that has
// gone; f becomes what has been opened.
func (p *Packer) source(e datadir.Entry, f *manifest.File, data io.ReaderAt) (src *source, prev *manifest.File, err error) {
	src = &source{Entry: e, data: data}
	if data != nil {
		return src, nil, nil
	}
	if prev, err = p.Prev.seek(e.Path, 0); err != nil || e.Replayed() || p.takenWhole(f, prev) {
		return src, prev, err
	}
	if src, err = p.ReadStable(e); src != nil {
		*f = Describe(src.Entry, p.Now())
		f.SetPath(e.Path)
	}
	return src, prev, err
}

// unread says whether the whole line can be taken from the previous backup without reading the file.
func (p *Packer) unread(l *line) bool {
	if len(l.chunks) == 0 || !p.takenWhole(&l.file, l.prev) {
		return false
	}
	n := min(l.file.Size-l.file.At, int64(len(l.chunks))*part.ChunkSize)
	p.Progress.Bytes.Add(n)
	p.Progress.Reused.Add(n)
	return true
}

// takenWhole says whether a line is as it was in the previous backup, and can be taken from there.
func (p *Packer) takenWhole(f, prev *manifest.File) bool {
	if p.Reread || !unchangedByAttributes(f, prev) || p.Prev.damagedFiles[f.RawPath()] {
		return false
	}
	for _, c := range prev.Chunks {
		if !p.Prev.usable(c.Extents) {
			return false
		}
	}
	return true
}

// submit puts a line, with which there are so many tasks still to do, into the queue of those that collect
// writes.
func (p *Packer) submit(l *line, todo int) error {
	l.packed = make(chan struct{})
	l.left.Store(int64(todo))
	if todo == 0 {
		close(l.packed)
	}
	if !p.room.TryAcquire(l.weight()) {
		if err := p.acquire(l.weight()); err != nil {
			return err
		}
	}
	p.lines <- l // has room for as many as the semaphore admits
	return nil
}

// Drain waits until everything that was added is written.
func (p *Packer) Drain() error {
	if err := p.acquire(maxPending); err != nil {
		return err
	}
	p.room.Release(maxPending)
	return nil
}

// acquire waits until that much of the lines before is written.
func (p *Packer) acquire(weight int64) error {
	p.pressed.Store(true)
	defer p.pressed.Store(false)
	for _, w := range p.wake {
		select {
		case w <- struct{}{}:
		default:
		}
	}
	if p.room.Acquire(p.Ctx, weight) != nil {
		return context.Cause(p.Ctx)
	}
	return nil
}

// Close ends the workers, which hand over their last parts, waits until every line is written, and
// returns the first error of all.
func (p *Packer) Close() error {
	close(p.tasks)
	close(p.lines)
	return p.Group.Wait()
}

// work is one worker: it packs chunks until there are no more, then hands over its last part.
func (p *Packer) work(w *part.Writer, wake <-chan struct{}) error {
	buf := make([]byte, mostChunks*part.ChunkSize)
	for {
		var t task
		var more bool
		select {
		case t, more = <-p.tasks:
		default:
			if p.pressed.Load() {
				if err := w.Seal(); err != nil {
					return err
				}
			}
			select {
			case t, more = <-p.tasks:
			case <-wake:
				continue
			case <-p.Ctx.Done():
				return context.Cause(p.Ctx)
			}
		}
		if !more {
			return w.Close()
		}
		if err := p.pack(w, t, buf); err != nil {
			return err
		}
		if t.line.left.Add(-1) == 0 {
			close(t.line.packed)
		}
	}
}

// collect writes the lines in order.
func (p *Packer) collect() error {
	for l := range p.lines {
		select {
		case <-l.packed:
		case <-p.Ctx.Done():
			return context.Cause(p.Ctx)
		}
		if l.src == nil || !l.src.gone.Load() {
			if err := p.write(l); err != nil {
				return err
			}
		}
		p.room.Release(l.weight())
	}
	return nil
}

func (p *Packer) write(l *line) error {
	for i, c := range l.chunks {
		extents, err := resolve(p.Ctx, c.pieces, l.file.At+int64(i)*part.ChunkSize)
		if err != nil {
			return err
		}
		l.file.Chunks = append(l.file.Chunks, manifest.Chunk{SHA256: c.sha, CRC32C: manifest.CRC(c.crc), Extents: extents})
	}
	if l.file.Type == manifest.TypeFile && l.file.At == 0 {
		p.Progress.Files.Add(1)
	}
	return p.Emit(&l.file)
}
