package survey

import (
	"context"
	"io"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/partial"
	"github.com/pgobj/pgobj/walstore/segment"
)

// Segments reads segments of an archive, each once however much is asked of it.
type Segments struct {
	store storage.Store
	sysid uint64
	known map[string]answer
}

type answer struct {
	segment.Facts
	err error
}

// NewSegments reads those of a server.
func NewSegments(s storage.Store, sysid uint64) *Segments {
	return &Segments{s, sysid, map[string]answer{}}
}

// Facts is what an archived segment tells.
func (s *Segments) Facts(ctx context.Context, name string) (segment.Facts, error) {
	return s.once(ctx, name, walstore.Source{SystemID: s.sysid, Segment: name})
}

// ReceivedFacts is what was received tells of the segment that is not complete; see Received.
func (v *Survey) ReceivedFacts(ctx context.Context, s *Segments) (segment.Facts, error) {
	seg, reach := v.Received()
	if reach == 0 {
		return segment.Facts{}, nil
	}
	chain, _ := partial.Chain(v.PiecesOf(seg.Name(v.SegmentSize)))
	return s.Received(ctx, chain)
}

// Received is what the pieces of a segment tell that Chain has put together.
func (s *Segments) Received(ctx context.Context, chain []object.Piece) (segment.Facts, error) {
	return s.once(ctx, chain[len(chain)-1].Key(s.sysid), walstore.Source{SystemID: s.sysid, Chain: chain})
}

func (s *Segments) once(ctx context.Context, key string, from walstore.Source) (segment.Facts, error) {
	a, ok := s.known[key]
	if !ok {
		a.err = from.Read(ctx, s.store, func(_ []byte, in io.Reader) (err error) {
			a.Facts, err = segment.ReadFacts(in)
			return err
		})
		if a.err != nil {
			a.Facts = segment.Facts{}
		}
		s.known[key] = a
	}
	return a.Facts, a.err
}
