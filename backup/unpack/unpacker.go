package unpack

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/content"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/backup/target"
	"github.com/pgobj/pgobj/storage"
)

const (
	// restoreWindow is how many extents are planned at a time: 8 GiB of large files. Within it every part
	// is read in order and once; its size, not the database's, is what a restore needs in memory.
	restoreWindow = 8192
	// assembleMost bounds how many chunks in several extents a verification plans at a time, because it puts
	// them together in memory, each in 1 MiB.
	assembleMost = 32
	// deltaWindow is 1 GiB: what is there is compared before what differs is fetched.
	deltaWindow = 1024
	// finishers is how many files are fsynced at a time. Waiting for the disk takes no CPU, so workers must not
	// do it; and a file system commits many small files together for hardly more than one.
	finishers = 16
)

// unpacker reads what a manifest lists, and writes it into a target, if there is one.
type unpacker struct {
	store    storage.Store
	target   *target.Target            // nil: everything is read and checked, and nothing written
	Skip     func(manifest.Chunk) bool // what is not even read; nil: nothing
	progress *backup.Progress
	window   int
	assemble int // how many chunks in several extents a window may have; 0: any number
	apart    int // how many the open window has
	group    *errgroup.Group
	ctx      context.Context
	working  sync.WaitGroup // the workers, who send to written
	jobs     chan job
	written  chan *output // files with all their content, to be completed
	pending  []want
}

// job is one range of a part, or a file without content.
type job struct {
	extents []manifest.Extent
	wants   []want // beside the extents
	empty   *output
}

// want is an extent and where it belongs.
type want struct {
	manifest.Extent
	file  *output
	chunk *assembly
}

// assembly is a chunk whose content has to be checked by its own hash.
type assembly struct {
	at   int64
	len  int
	sum  part.Hash
	crc  manifest.CRC
	one  bool         // it is one extent
	left atomic.Int64 // extents that have not come yet
	mu   sync.Mutex
	data []byte // what has come, when it is not written to a file
}

func NewUnpacker(ctx context.Context, s storage.Store, t *target.Target, workers int, progress *backup.Progress) *unpacker {
	u := &unpacker{store: s, target: t, progress: progress, jobs: make(chan job, 4*workers), written: make(chan *output), window: restoreWindow}
	if t == nil {
		u.assemble = assembleMost
	} else if t.Delta {
		u.window = deltaWindow
	}
	u.group, u.ctx = errgroup.WithContext(ctx)
	for range workers {
		u.working.Add(1)
		u.group.Go(func() error {
			defer u.working.Done()
			return u.work()
		})
	}
	if t != nil {
		for range finishers {
			u.group.Go(u.finish)
		}
	}
	return u
}

// Unpack restores everything that the manifest lists, and returns when all of it is written and fsynced.
// size is what the catalog says that all files hold.
func (u *unpacker) Unpack(lines iter.Seq2[*manifest.File, error], size int64) error {
	err := u.plan(lines, size)
	close(u.jobs)
	u.working.Wait()
	close(u.written)
	if e := u.group.Wait(); e != nil {
		return e // plan only saw what follows from it
	}
	return err
}

// plan reads the manifest, makes directories and links, and hands out the rest window by window.
func (u *unpacker) plan(lines iter.Seq2[*manifest.File, error], size int64) error {
	var out *output
	for f, err := range lines {
		if err != nil {
			return err
		}
		// A chunk may be named any number of times, so a small manifest could fill any disk.
		if f.Type == manifest.TypeFile && f.At == 0 {
			if size -= f.Size; size < 0 {
				return fmt.Errorf("%w: its files have more bytes than the catalog says", manifest.ErrDamaged)
			}
		}
		switch {
		case u.target != nil && !u.target.Allows(f.RawPath()):
			err = fmt.Errorf("%w: it is in a tablespace's location, but does not belong to this cluster", manifest.ErrDamaged)
		case f.Type != manifest.TypeFile && u.target == nil:
		case f.Type == manifest.TypeDir:
			err = u.target.Mkdir(f)
		case f.Type == manifest.TypeLink:
			err = u.target.Link(f)
		default:
			if f.At == 0 {
				u.planned(out)
				out = &output{path: f.RawPath(), mode: fs.FileMode(f.Mode), mtime: f.Mtime, size: f.Size}
				out.left.Store(1)
				if u.target != nil {
					out.empty = u.target.Only.LeavesOut(out.path)
					err = u.target.Prepare(out.path)
				}
			}
			if err == nil && !out.empty {
				err = u.extents(f, out)
			}
		}
		if err != nil {
			return fmt.Errorf("restore %q: %w", f.RawPath(), err)
		}
	}
	u.planned(out)
	return u.flush()
}

// planned says that no more extents of the file will come.
func (u *unpacker) planned(o *output) {
	if o != nil {
		u.send(job{empty: o})
	}
}

func (u *unpacker) extents(f *manifest.File, o *output) error {
	for i, c := range f.Chunks {
		at := f.At + int64(i)*part.ChunkSize
		n := min(part.ChunkSize, f.Size-at)
		if u.Skip != nil && u.Skip(c) {
			u.progress.TotalBytes.Add(-n)
			continue
		}
		whole := &assembly{at: at, len: int(n), sum: c.SHA256, crc: c.CRC32C, one: len(c.Extents) == 1}
		whole.left.Store(int64(len(c.Extents)))
		if !whole.one {
			u.apart++
		}
		for _, x := range c.Extents {
			o.left.Add(1)
			u.pending = append(u.pending, want{x, o, whole})
		}
	}
	if len(u.pending) < u.window && (u.assemble == 0 || u.apart < u.assemble) {
		return nil
	}
	return u.flush()
}

// flush turns the extents of a window into requests.
func (u *unpacker) flush() error {
	w := u.pending
	u.pending, u.apart = nil, 0 // the jobs keep it
	if u.target != nil && u.target.Delta {
		var err error
		if w, err = u.differing(w); err != nil {
			return err
		}
	}
	slices.SortFunc(w, func(a, b want) int { return cmp.Or(cmp.Compare(a.Part, b.Part), cmp.Compare(a.Off, b.Off)) })
	extents := make([]manifest.Extent, len(w))
	for i := range w {
		extents[i] = w[i].Extent
	}
	for len(w) > 0 {
		n := content.Joined(extents)
		if err := u.send(job{extents: extents[:n], wants: w[:n]}); err != nil {
			return err
		}
		extents, w = extents[n:], w[n:]
	}
	return nil
}

func (u *unpacker) send(j job) error {
	select {
	case u.jobs <- j:
		return nil
	case <-u.ctx.Done():
		return context.Cause(u.ctx)
	}
}

func (u *unpacker) work() error {
	r, err := content.NewFrameReader(u.store)
	if err != nil {
		return err
	}
	r.Fetched, r.Expanded = &u.progress.Stored, &u.progress.Read
	v := verifier{unpacker: u}
	use := u.write
	if u.target == nil {
		use = v.take
	}
	for o := range u.ahead(r) {
		if o.err == nil && o.empty != nil {
			o.err = u.done(o.empty)
		} else if o.err == nil {
			o.err = r.Take(o.body, o.extents, func(i int, data []byte) error { return use(o.wants[i], data) })
		}
		if o.err != nil {
			return o.err
		}
	}
	if err := context.Cause(u.ctx); err != nil {
		return err // others have failed
	}
	return v.rest()
}

// opened is a job whose request has been answered.
type opened struct {
	job
	body io.ReadCloser
	err  error
}

// ahead makes the request for a worker's next job while the worker is busy with the one before: the storage's latency
// then costs time only once.
func (u *unpacker) ahead(r *content.FrameReader) <-chan opened {
	next := make(chan opened)
	u.group.Go(func() error {
		defer close(next)
		for j := range u.jobs {
			o := opened{job: j}
			if j.empty == nil {
				o.body, o.err = r.Open(u.ctx, j.extents)
			}
			select {
			case next <- o:
			case <-u.ctx.Done():
				if o.body != nil {
					o.body.Close()
				}
				return nil
			}
		}
		return nil
	})
	return next
}

// write takes the content of one extent.
func (u *unpacker) write(w want, data []byte) error {
	if err := u.put(w, data); err != nil {
		return fmt.Errorf("restore %q: %w", w.file.path, err)
	}
	return nil
}

func (u *unpacker) put(w want, data []byte) error {
	u.progress.Bytes.Add(int64(len(data)))
	o := w.file
	if err := o.open(u.target); err != nil {
		return err
	}
	var err error
	if u.target.Delta {
		err = o.overwriteAll(data, w.At)
	} else {
		err = o.write(data, w.At)
	}
	if err == nil {
		err = w.chunk.written(o, data)
	}
	if err != nil {
		return err
	}
	return u.done(o)
}

// written checks a chunk when the last of it is in the file. The frames' hashes cover what a restore reads; a chunk
// may still be wrong if an index lied when it was reused: about a page, then it consists of several extents, or
// about the content of a member, which the CRC tells at next to no cost.
func (c *assembly) written(o *output, data []byte) error {
	if c.one {
		if c.sum != (part.Hash{}) && part.Checksum(data) != uint32(c.crc) {
			return fmt.Errorf("%w: the CRC of the chunk at %d does not match the manifest", part.ErrDamaged, c.at)
		}
		return nil
	}
	if c.left.Add(-1) > 0 {
		return nil
	}
	data = make([]byte, c.len)
	if _, err := o.file.ReadAt(data, c.at); err != nil {
		return err
	}
	return c.checkSum(part.Sum(data))
}

func (c *assembly) checkSum(sum part.Hash) error {
	if c.sum != (part.Hash{}) && sum != c.sum {
		return fmt.Errorf("%w: the hash of the chunk at %d does not match the manifest", part.ErrDamaged, c.at)
	}
	return nil
}

// done is called for each extent written and once by the plan; the last call hands the file on.
func (u *unpacker) done(o *output) error {
	if o.left.Add(-1) > 0 {
		return nil
	}
	if u.target == nil {
		u.progress.Files.Add(1)
		return nil
	}
	if err := o.open(u.target); err != nil { // it may have no content
		return fmt.Errorf("restore %q: %w", o.path, err)
	}
	select {
	case u.written <- o:
		return nil
	case <-u.ctx.Done():
		return context.Cause(u.ctx)
	}
}

// finish completes files that have all their content.
func (u *unpacker) finish() error {
	for o := range u.written {
		if err := o.complete(u.target); err != nil {
			return fmt.Errorf("restore %q: %w", o.path, err)
		}
		u.progress.Files.Add(1)
	}
	return nil
}
