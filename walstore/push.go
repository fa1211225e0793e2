package walstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/frames"
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
	Level    int // zstd compression level; 0 is the fastest
	Workers  int // that compress, each with about 4 MiB of memory; 0 means 2
	// Spill is a folder on this host for the objects of large segments, beyond their first 32 MiB; it need not exist.
	// "": they stay in memory.
	Spill string
	XXH64 bool // is wanted in the result

	shop *workshop // nil: one of its own
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
	XXH64  uint64 // if it was asked for
}

// pieceSize is what one frame holds: enough pieces to keep two workers busy to the end of a 16 MiB segment,
// at a price of 0.6 % in size against one frame. See BenchmarkCompress.
const pieceSize = 1 << 20

// Push archives one file and returns nil only when its whole content is in the store for good. The
// file is read once. Whatever the archive holds already is never replaced: the same content is a success,
// other content is a *ConflictError, a stored object that is broken a *DamagedError. A file that cannot be
// right (by name, size, header, or because it changed while it was read) is ErrName or ErrSource.
func Push(ctx context.Context, s storage.Store, r PushRequest) (PushResult, error) {
	name := filepath.Base(r.Path)
	if segment.Classify(name) == segment.Invalid {
		return PushResult{}, fmt.Errorf("push %q: %w", name, ErrName)
	}
	f, err := r.open()
	if err != nil {
		return PushResult{}, fmt.Errorf("push %s: %w: %w", name, ErrSource, err)
	}
	if r.File == nil {
		defer f.Close()
	}
	src, err := inspect(f, name, r.SystemID)
	if err != nil {
		return PushResult{}, fmt.Errorf("push %s: %w", name, err)
	}
	body, sum, err := src.compress(ctx, r)
	if err != nil {
		return PushResult{}, fmt.Errorf("push %s: %w", name, err)
	}
	defer body.close()
	res := PushResult{Key: Key(src.sysid, name), Raw: src.info.Size(), Stored: body.size, Warnings: src.warnings,
		File: src.info, SHA256: sum, XXH64: src.quick.Sum64()}
	res.AlreadyThere, err = create(ctx, s, res.Key, body, body.size, func() error { return compare(ctx, s, name, src.sysid, sum) })
	if err != nil {
		return PushResult{}, fmt.Errorf("push %s: %w", name, err)
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

// create puts the object, or else finds out, by same, that the one that is there holds the same. Some stores refuse
// a Put because of another one that they are still working on, so that what exists cannot be read yet: then
// both are tried again. So they are, too, when somebody deletes the object in between.
func create(ctx context.Context, s storage.Store, key string, body io.ReaderAt, size int64, same func() error) (there bool, err error) {
	for try := range 6 {
		err = s.Put(ctx, key, body, size)
		if !errors.Is(err, storage.ErrExists) {
			return false, err
		}
		if err = same(); !errors.Is(err, storage.ErrNotFound) {
			return true, err
		}
		select {
		case <-ctx.Done():
			return false, err
		case <-time.After(50 * time.Millisecond << try):
		}
	}
	return false, err
}

// compare returns nil when the archive's object of this name is whole and holds content sum.
func compare(ctx context.Context, s storage.Store, name string, sysid uint64, sum [32]byte) error {
	stored, err := read(ctx, s, name, sysid, io.Discard)
	if err != nil {
		return err
	}
	if stored.sum != sum {
		return &ConflictError{Name: name, Key: Key(sysid, name), Source: sum, Stored: stored.sum}
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
}

func badSource(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrSource, fmt.Errorf(format, args...))
}

// inspect reads the beginning of the file and checks all that can be checked before the rest is read.
func inspect(f *os.File, name string, sysid func() (uint64, error)) (*source, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, badSource("%w", err)
	}
	s := &source{f: f, name: name, info: info, quick: xxhash.New()}
	switch {
	case !info.Mode().IsRegular():
		return nil, badSource("it is not a regular file")
	case info.Size() == 0:
		return nil, badSource("it is empty")
	}
	s.first = make([]byte, min(info.Size(), pieceSize))
	if _, err := io.ReadFull(f, s.first); err != nil {
		return nil, s.readError(err)
	}
	if isWAL(name) {
		return s, s.inspectWAL(sysid)
	}
	if info.Size() > noteLimit {
		return nil, badSource("it has %d bytes, more than any such file", info.Size())
	}
	if err := checkNote(name, s.first); err != nil {
		return nil, badSource("%w", err)
	}
	if sysid == nil {
		return nil, badSource("the system identifier is not known")
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
		return badSource("%w", err)
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
		return badSource("it is WAL of system identifier %d, but this cluster's is %d", h.SystemID, id)
	}
	return nil
}

func (s *source) readError(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return badSource("it became shorter than %d bytes while it was read", s.info.Size())
	}
	return badSource("%w", err)
}

// compress reads the rest of the file and returns the whole object and the SHA-256 of the content. Several
// workers compress pieces while the next are read; what they made is hashed and added in order. Buffers are used
// again: fresh memory costs more time than a hash of what is put there.
func (s *source) compress(ctx context.Context, r PushRequest) (*payload, [32]byte, error) {
	shop := r.shop
	if shop == nil {
		shop = newWorkshop(r.Level, r.workers())
	}
	var g errgroup.Group
	g.SetLimit(r.workers())
	sum := sha256.New()
	body := &payload{dir: r.Spill}
	added := make(chan struct{}) // closed when all pieces before have been added
	close(added)
	err := s.pieces(shop.buffer, func(piece []byte) error {
		before, done := added, make(chan struct{})
		added = done
		g.Go(func() error {
			frame := shop.compress(piece)
			<-before
			sum.Write(piece)
			if r.XXH64 {
				_, _ = s.quick.Write(piece) // never fails
			}
			body.add(frame)
			close(done)
			shop.giveBack(piece)
			shop.giveBack(frame)
			return nil
		})
		return context.Cause(ctx)
	})
	_ = g.Wait() // the workers cannot fail
	if err != nil {
		body.close()
		return nil, [32]byte{}, err
	}
	t := trailer{s.info.Size(), [32]byte(sum.Sum(nil))}
	body.add(t.bytes())
	return body, t.sum, nil
}

func (r PushRequest) workers() int {
	if r.Workers <= 0 {
		return 2
	}
	return r.Workers
}

// workshop is what compresses, and buffers with room for a piece. Several pushes at once can share it.
type workshop struct {
	encoders chan *frames.Zstd
	free     chan []byte
}

// newWorkshop makes one in which so many pieces are compressed at once.
func newWorkshop(level, workers int) *workshop {
	w := &workshop{make(chan *frames.Zstd, workers), make(chan []byte, 4*workers)}
	for range workers {
		w.encoders <- frames.NewZstd(level)
	}
	return w
}

// compress returns piece as a frame, in one of the buffers.
func (w *workshop) compress(piece []byte) []byte {
	enc := <-w.encoders
	defer func() { w.encoders <- enc }()
	return enc.Append(w.buffer()[:0], piece)
}

func (w *workshop) buffer() []byte {
	select {
	case b := <-w.free:
		return b
	default:
		return make([]byte, pieceSize)
	}
}

func (w *workshop) giveBack(b []byte) {
	if cap(b) < pieceSize {
		return
	}
	select {
	case w.free <- b[:cap(b)]:
	default:
	}
}

// pieces reads the file to its end and hands on every piece, and makes sure that the content is that of
// a file that nobody touched meanwhile.
func (s *source) pieces(buffer func() []byte, do func(piece []byte) error) error {
	if err := do(s.first); err != nil {
		return err
	}
	for rest := s.info.Size() - int64(len(s.first)); rest > 0; {
		piece := buffer()[:min(rest, pieceSize)]
		if _, err := io.ReadFull(s.f, piece); err != nil {
			return s.readError(err)
		}
		if err := do(piece); err != nil {
			return err
		}
		rest -= int64(len(piece))
	}
	if n, err := s.f.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		return badSource("it became longer than %d bytes while it was read", s.info.Size())
	}
	now, err := s.f.Stat()
	if err != nil {
		return badSource("%w", err)
	}
	if now.Size() != s.info.Size() || !now.ModTime().Equal(s.info.ModTime()) {
		return badSource("it was changed while it was read")
	}
	return nil
}
