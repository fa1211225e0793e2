package receive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/partial"
	"github.com/pgobj/pgobj/walstore/segment"
)

// ErrSpool: the directory for what was received cannot be written.
var ErrSpool = errors.New("cannot store received WAL on this host")

// nameless is a temporary file that the system removes when this process is gone, however it ends.
func nameless(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "pgobj-wal-receive-*")
	if err == nil {
		err = os.Remove(f.Name())
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSpool, err)
	}
	return f, nil
}

// spooled is a segment, or the beginning of it, on this host.
type spooled struct {
	segment.Segment
	name     string
	f        *os.File
	received int64 // from the segment's first byte on

	durable int64          // of it; in pieces
	pieces  []object.Piece // that make it up
	strays  []object.Piece // others, from receivers that were killed
	before  *os.File       // what earlier receivers have stored of it, until it has been compared; else nil
	reach   int64          // of before
	damaged object.Piece   // of the strays: is stored, and cannot be read
}

// newSpooled begins a segment. With resumed, an earlier receiver may have stored some of it.
func (r *receiver) newSpooled(ctx context.Context, at segment.Segment, resumed bool) (*spooled, error) {
	f, err := nameless(r.Spool)
	if err != nil {
		return nil, err
	}
	s := &spooled{Segment: at, name: at.Name(r.size), f: f}
	if resumed {
		if err = r.adopt(ctx, s); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

func (s *spooled) close() {
	s.f.Close()
	if s.before != nil {
		s.before.Close()
	}
}

// adopt fetches the pieces that there are. They count as durable when the same has been received again: the server may
// be another one by now, or may have lost what it wrote last.
func (r *receiver) adopt(ctx context.Context, s *spooled) error {
	for range 3 {
		all, err := partial.Pieces(ctx, r.Store, r.sysid, s.name)
		if err != nil {
			return err
		}
		chain, reach := partial.Chain(all)
		s.strays = without(all, chain)
		if reach == 0 {
			return nil
		}
		if s.before, err = nameless(r.Spool); err != nil {
			return err
		}
		s.pieces, s.reach = chain, reach
		err = partial.ReadChain(ctx, r.Store, r.sysid, chain, s.before)
		if damage, ok := errors.AsType[*object.DamagedError](err); ok {
			s.distrust(all, damage)
			r.Log.Warn("received parts of a segment are damaged; requesting it from the server again", "segment", s.name, "error", err)
			return nil
		}
		if !errors.Is(err, storage.ErrNotFound) { // another receiver may be at work on it
			return err
		}
		s.before.Close()
		s.before = nil
	}
	s.pieces, s.strays, s.reach = nil, nil, 0
	return nil
}

// distrust makes nothing of what earlier receivers have stored: the server sends the segment from its first byte on.
func (s *spooled) distrust(all []object.Piece, damage *object.DamagedError) {
	for _, p := range all {
		if strings.Contains(damage.Key, p.String()) {
			s.damaged = p
		}
	}
	s.before.Close()
	s.before, s.pieces, s.strays, s.reach = nil, nil, all, 0
}

func without(all, some []object.Piece) []object.Piece {
	return slices.DeleteFunc(slices.Clone(all), func(p object.Piece) bool { return slices.Contains(some, p) })
}

// settle compares what earlier receivers have stored with the same bytes, of which n have been received again.
func (r *receiver) settle(s *spooled, n int64) error {
	if s.before == nil {
		return nil
	}
	n = min(n, s.reach)
	e := &object.ConflictError{Name: s.name, Key: s.pieces[0].String()}
	for f, sum := range map[*os.File]*[32]byte{s.f: &e.Source, s.before: &e.Stored} {
		h := sha256.New()
		if _, err := io.CopyN(h, io.NewSectionReader(f, 0, n), n); err != nil {
			return fmt.Errorf("%w: %w", ErrSpool, err)
		}
		*sum = [32]byte(h.Sum(nil))
	}
	if e.Source != e.Stored {
		return e
	}
	if n < s.reach {
		return nil
	}
	s.durable = s.reach
	s.before.Close()
	s.before = nil
	return nil
}

// plan is what to store so that the first to bytes are durable, and which pieces that replaces. A piece takes in those
// before it that are no larger, so that a segment is never in more than a few dozen, and every byte is
// stored only a few times, however slowly the segment grows.
func (s *spooled) plan(to int64) (store, replaced []object.Piece) {
	from, kept := s.durable, len(s.pieces)
	for kept > 0 {
		last := s.pieces[kept-1]
		if last.To-last.From > to-from || to-last.From > object.MaxPiece {
			break
		}
		from, kept = last.From, kept-1
	}
	return partial.Split(s.name, from, to), s.pieces[kept:]
}

// stored notes that a plan has been carried out.
func (s *spooled) stored(to int64, store, replaced []object.Piece) {
	s.pieces = append(s.pieces[:len(s.pieces)-len(replaced):len(s.pieces)-len(replaced)], store...)
	s.durable = to
}

// covered takes from the strays those that one of the pieces just stored stands in for, all of it: what several cover
// together might rely on one that another receiver removes.
func (s *spooled) covered(store []object.Piece) (gone []object.Piece) {
	s.strays = slices.DeleteFunc(s.strays, func(old object.Piece) bool {
		in := slices.ContainsFunc(store, func(p object.Piece) bool { return p.From <= old.From && old.To <= p.To })
		if in && !slices.Contains(store, old) {
			gone = append(gone, old)
		}
		return in
	})
	return gone
}

// check looks at the first page as soon as it is there, before anything of the segment is stored.
func (s *spooled) check(sysid uint64, size segment.Size) error {
	head := make([]byte, segment.HeaderSize)
	if _, err := s.f.ReadAt(head, 0); err != nil {
		return fmt.Errorf("%w: %w", ErrSpool, err)
	}
	h, err := segment.ParseHeader(head)
	if err == nil && h.SystemID != sysid {
		err = fmt.Errorf("it is WAL of system identifier %d, not %d", h.SystemID, sysid)
	}
	if err == nil && h.Size != size {
		err = fmt.Errorf("its header has a segment size of %d bytes, but the server has %d", h.Size, size)
	}
	if err == nil {
		err = h.Verify(s.name, int64(size))
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrStream, s.name, err)
	}
	return nil
}
