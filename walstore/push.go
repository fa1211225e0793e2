package walstore

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/codec"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

// PushRequest says which file to archive.
type PushRequest struct {
	Path string // its base name is the name under which it is archived
	// File is read instead of what is at Path, from its beginning; the caller closes it. Only the name of Path counts then.
	File *os.File
	// SystemID tells the cluster's system identifier, from pg_control. It is called for the files that
	// do not have it in a header of their own (.history, .backup). For WAL it may be nil; if it is not
	// and succeeds, WAL of another cluster is refused.
	SystemID func() (uint64, error)
	// Admit, when set, is asked whether the archive takes WAL of a cluster, before anything is stored. Its error is Push's.
	Admit   func(ctx context.Context, systemID uint64) error
	Level   int // zstd compression level; 0 is the fastest
	Workers int // that compress, each with about 4 MiB of memory; 0 means 2
	// Spill is a directory on this host for the objects of large segments, beyond their first 32 MiB; it need not exist.
	// "": they stay in memory.
	Spill  string
	XXHash bool // is wanted in the result

	pool *encoderPool // nil: one of its own
}

// PushResult tells what Push has done.
type PushResult struct {
	Key          string
	AlreadyThere bool  // the same content had been archived before
	Raw, Stored  int64 // bytes of the file and of the object
	Warnings     []string

	// What was archived, for a local marker: the file as it was when it was read, and its content's hashes.
	File   os.FileInfo
	SHA256 [32]byte
	XXHash uint64 // if it was asked for
}

// Push archives one file and returns nil only when its whole content is in the store for good. The
// file is read once. Whatever the archive holds already is never replaced: the same content is a success,
// other content is a *ConflictError, a stored object that is broken a *DamagedError. A file that cannot be
// right (by name, size, header, or because it changed while it was read) is ErrName or ErrSource.
func Push(ctx context.Context, s storage.Store, r PushRequest) (PushResult, error) {
	name := filepath.Base(r.Path)
	if segment.Classify(name) == segment.Invalid {
		return PushResult{}, fmt.Errorf("push %q: %w", name, object.ErrName)
	}
	src, err := r.source(ctx)
	if err != nil {
		return PushResult{}, fmt.Errorf("push %s: %w", name, err)
	}
	defer src.close()
	objects, err := Compress(ctx, r, src)
	if err != nil {
		return PushResult{}, fmt.Errorf("push %s: %w", name, err)
	}
	return src.store(ctx, s, objects[0])
}

// PushTwo is Push of two files at a time, which takes less of it for two of one size: the SHA-256 of both are computed
// side by side. Whatever is wrong with one of them is left to Push. done is told of each when it is over.
func PushTwo(ctx context.Context, s storage.Store, reqs [2]PushRequest, done func(path string, res PushResult, err error)) {
	first, err1 := reqs[0].source(ctx)
	second, err2 := reqs[1].source(ctx)
	defer first.close()
	defer second.close()
	files := []*source{first, second}
	var objects []packed
	if err1 == nil && err2 == nil && first.info.Size() == second.info.Size() {
		objects, _ = Compress(ctx, reqs[0], files...)
	}
	var both sync.WaitGroup
	for i, r := range reqs {
		both.Go(func() {
			if objects == nil {
				res, err := Push(ctx, s, r)
				done(r.Path, res, err)
				return
			}
			res, err := files[i].store(ctx, s, objects[i])
			done(r.Path, res, err)
		})
	}
	both.Wait()
}

// source opens the file, looks at its beginning, and asks whether it may be archived.
func (r PushRequest) source(ctx context.Context) (*source, error) {
	f, err := r.open()
	if err != nil {
		return nil, object.BadSource("%w", err)
	}
	src, err := Inspect(f, filepath.Base(r.Path), r.SystemID)
	if err == nil && r.Admit != nil {
		err = r.Admit(ctx, src.sysid)
	}
	if err != nil {
		if r.File == nil {
			f.Close()
		}
		return nil, err
	}
	src.borrowed = r.File != nil
	return src, nil
}

// close ends the use of the file; a source that there is not (nil) has none.
func (s *source) close() {
	if s != nil && !s.borrowed {
		s.f.Close()
	}
}

// store puts the object that was made of the source.
func (s *source) store(ctx context.Context, to storage.Store, o packed) (PushResult, error) {
	defer o.Body.Close()
	res := PushResult{Key: object.Key(s.sysid, s.name), Raw: s.info.Size(), Stored: o.Body.Size, Warnings: s.warnings,
		File: s.info, SHA256: o.sum, XXHash: s.quick.Sum64()}
	same := func() error { return compare(ctx, to, s.name, s.sysid, o.sum) }
	err := s.putNotes(ctx, to, same)
	if err == nil {
		res.AlreadyThere, err = object.Create(ctx, to, res.Key, o.Body, o.Body.Size, same)
	}
	if err != nil {
		return PushResult{}, fmt.Errorf("push %s: %w", s.name, err)
	}
	return res, nil
}

func (r PushRequest) open() (*os.File, error) {
	if r.File == nil {
		return os.Open(r.Path)
	}
	_, err := r.File.Seek(0, io.SeekStart)
	return r.File, err
}

// compare returns nil when the archive's object of this name is whole and holds content sum.
func compare(ctx context.Context, s storage.Store, name string, sysid uint64, sum [32]byte) error {
	stored, err := Read(ctx, s, name, sysid, io.Discard)
	if err != nil {
		return err
	}
	if stored.Sum != sum {
		return &object.ConflictError{Name: name, Key: object.Key(sysid, name), Source: sum, Stored: stored.Sum}
	}
	return nil
}

// source is the file to push.
type source struct {
	f        *os.File
	name     string
	info     os.FileInfo
	sysid    uint64
	first    []byte // the first piece of the content
	warnings []string
	quick    *xxhash.Digest // of the content, as far as it was read
	noter    segment.Noter
	borrowed bool // the file is the caller's to close
}

// Inspect reads the beginning of the file and checks all that can be checked before the rest is read.
func Inspect(f *os.File, name string, sysid func() (uint64, error)) (*source, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, object.BadSource("%w", err)
	}
	s := &source{f: f, name: name, info: info, quick: xxhash.New()}
	switch {
	case !info.Mode().IsRegular():
		return nil, object.BadSource("it is not a regular file")
	case info.Size() == 0:
		return nil, object.BadSource("it is empty")
	}
	s.first = make([]byte, min(info.Size(), object.PieceSize))
	if _, err := io.ReadFull(f, s.first); err != nil {
		return nil, s.readError(err)
	}
	if object.IsWAL(name) {
		return s, s.inspectWAL(sysid)
	}
	if info.Size() > object.NoteLimit {
		return nil, object.BadSource("it has %d bytes, more than any file of this kind", info.Size())
	}
	if err := object.CheckNote(name, s.first); err != nil {
		return nil, object.BadSource("%w", err)
	}
	if sysid == nil {
		return nil, object.BadSource("the system identifier is unknown")
	}
	s.sysid, err = sysid()
	return s, err
}

func (s *source) inspectWAL(sysid func() (uint64, error)) error {
	h, err := segment.ParseHeader(s.first)
	if err == nil {
		err = h.Verify(s.name, s.info.Size())
	}
	if err != nil {
		return object.BadSource("%w", err)
	}
	s.sysid = h.SystemID
	if h.Version() == 0 {
		s.warnings = append(s.warnings, fmt.Sprintf("%s has page magic %04X of an unknown PostgreSQL version", s.name, h.Magic))
	}
	if sysid == nil {
		return nil
	}
	// The header is what counts. pg_control can be out of reach when a rescued file is pushed by hand.
	if id, err := sysid(); err == nil && id != h.SystemID {
		return object.BadSource("it is WAL of system identifier %d, but this cluster has %d", h.SystemID, id)
	}
	return nil
}

func (s *source) readError(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return object.BadSource("it became shorter than %d bytes while it was read", s.info.Size())
	}
	return object.BadSource("%w", err)
}

// packed is a file as it is stored; its content has the SHA-256 sum.
type packed struct {
	Body *object.Body
	sum  [32]byte
}

// Compress reads the rest of one file, or of two of the same size, and returns the whole objects. Several workers compress
// pieces while the next are read; what they made is hashed and added in order. Buffers are used
// again: fresh memory costs more time than a hash of what is put there.
func Compress(ctx context.Context, r PushRequest, files ...*source) (_ []packed, err error) {
	pool := r.pool
	if pool == nil {
		pool = newEncoderPool(r.Level, r.workers())
	}
	objects := make([]packed, len(files))
	sums := make([]hash.Hash, len(files))
	for i := range files {
		objects[i].Body, sums[i] = &object.Body{Dir: r.Spill}, sha256.New()
	}
	var g errgroup.Group
	g.SetLimit(r.workers())
	added := make(chan struct{}) // closed when all pieces before have been added
	close(added)
	for at := int64(0); at < files[0].info.Size() && ctx.Err() == nil; at += object.PieceSize {
		before, done := added, make(chan struct{})
		added = done
		g.Go(func() error {
			pieces, made, err := pack(pool, files, at)
			<-before
			defer close(done)
			if err != nil {
				return err
			}
			if len(pieces) == 2 {
				codec.Write2(sums[0], sums[1], pieces[0], pieces[1])
			} else {
				sums[0].Write(pieces[0])
			}
			for i, piece := range pieces {
				_, _ = files[i].noter.Write(piece) // never fails
				if r.XXHash {
					_, _ = files[i].quick.Write(piece) // never fails
				}
				objects[i].Body.Add(made[i])
				pool.giveBack(piece)
				pool.giveBack(made[i])
			}
			return nil
		})
	}
	err = cmp.Or(g.Wait(), context.Cause(ctx))
	for _, file := range files {
		err = cmp.Or(err, file.untouched())
	}
	for i, o := range objects {
		if err != nil {
			o.Body.Close()
			continue
		}
		t := object.Trailer{Length: files[i].info.Size(), Sum: [32]byte(sums[i].Sum(nil))}
		o.Body.Add(t.Bytes())
		objects[i].sum = t.Sum
	}
	if err != nil {
		return nil, err
	}
	return objects, nil
}

// pack reads and compresses the piece at an offset of each file.
func pack(pool *encoderPool, files []*source, at int64) (pieces, made [][]byte, err error) {
	for _, file := range files {
		piece, err := file.piece(at, pool.buffer)
		if err != nil {
			return nil, nil, err
		}
		frame, err := pool.compress(piece)
		if err != nil {
			return nil, nil, fmt.Errorf("compress %s: %w", file.name, err)
		}
		pieces, made = append(pieces, piece), append(made, frame)
	}
	return pieces, made, nil
}

func (r PushRequest) workers() int {
	if r.Workers <= 0 {
		return 2
	}
	return r.Workers
}

// Sharing lets several pushes of this request, of whatever files, share what compresses.
func (r PushRequest) Sharing() PushRequest {
	r.pool = newEncoderPool(r.Level, max(r.workers(), runtime.GOMAXPROCS(0)))
	return r
}

// encoderPool is what compresses, and buffers with room for a piece. Several pushes at once can share it.
type encoderPool struct {
	codec    codec.Codec
	encoders chan *codec.Encoder // nil: one that nobody has needed yet
	free     sync.Pool           // of *[]byte
}

// newEncoderPool makes one in which so many pieces are compressed at once.
func newEncoderPool(level, workers int) *encoderPool {
	w := &encoderPool{codec: codec.Codec{Name: "zstd", Level: level}, encoders: make(chan *codec.Encoder, workers)}
	for range workers {
		w.encoders <- nil
	}
	return w
}

// compress returns piece as a frame, in one of the buffers.
func (w *encoderPool) compress(piece []byte) (frame []byte, err error) {
	enc := <-w.encoders
	defer func() { w.encoders <- enc }()
	if enc == nil {
		if enc, err = codec.NewEncoder(w.codec); err != nil {
			return nil, err
		}
	}
	return enc.Append(w.buffer()[:0], piece)
}

func (w *encoderPool) buffer() []byte {
	if b, ok := w.free.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, object.PieceSize)
}

func (w *encoderPool) giveBack(b []byte) {
	if b = b[:cap(b)]; len(b) >= object.PieceSize {
		w.free.Put(&b)
	}
}

// piece reads the piece at an offset.
func (s *source) piece(at int64, buffer func() []byte) ([]byte, error) {
	if at == 0 {
		return s.first, nil // as it was inspected
	}
	piece := buffer()[:min(s.info.Size()-at, object.PieceSize)]
	if n, err := s.f.ReadAt(piece, at); n < len(piece) {
		return nil, s.readError(err)
	}
	return piece, nil
}

// untouched makes sure that what was read is the content of a file that nobody touched meanwhile.
func (s *source) untouched() error {
	if n, err := s.f.ReadAt(make([]byte, 1), s.info.Size()); n > 0 || err != io.EOF {
		return object.BadSource("it became longer than %d bytes while it was read", s.info.Size())
	}
	now, err := s.f.Stat()
	if err != nil {
		return object.BadSource("%w", err)
	}
	if now.Size() != s.info.Size() || !now.ModTime().Equal(s.info.ModTime()) {
		return object.BadSource("it was changed while it was read")
	}
	return nil
}
