// Package partial is what wal-receive stored of a segment that is not complete.
package partial

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

// PutPiece stores a piece for good. content is the segment's, from its offset 0 on. As with Push, what is there already
// has to be the same.
func PutPiece(ctx context.Context, s storage.Store, sysid uint64, p object.Piece, content io.ReaderAt) error {
	body, sum, err := p.Compress(content)
	if err == nil {
		_, err = object.Create(ctx, s, p.Key(sysid), bytes.NewReader(body), int64(len(body)), func() error { return p.Compare(ctx, s, sysid, sum) })
	}
	if err != nil {
		return fmt.Errorf("store %s: %w", p.Name(), err)
	}
	return nil
}

// Split are the pieces in which the bytes between two offsets of a segment are stored.
func Split(name string, from, to int64) (all []object.Piece) {
	for at := from; at < to; at += object.MaxPiece {
		all = append(all, object.Piece{Segment: name, From: at, To: min(to, at+object.MaxPiece)})
	}
	return all
}

// Pieces lists the pieces of a segment by offset, the longer of two with the same first.
func Pieces(ctx context.Context, s storage.Store, sysid uint64, name string) ([]object.Piece, error) {
	var all []object.Piece
	for info, err := range s.List(ctx, object.TimelineDir(sysid, name[:8])+name+".", "") {
		if err != nil {
			return nil, fmt.Errorf("list received parts of %s: %w", name, err)
		}
		if o, ok := object.ParseKey(info.Key); ok && o.Type == segment.Received {
			all = append(all, o.Piece)
		}
	}
	return SortPieces(all), nil
}

func SortPieces(all []object.Piece) []object.Piece {
	slices.SortFunc(all, func(a, b object.Piece) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(b.To, a.To)) })
	return all
}

// Chain picks, of the pieces that Pieces lists, those that make up the beginning of the segment, as far as they reach
// without a gap.
func Chain(all []object.Piece) (chain []object.Piece, reach int64) {
	for i := 0; i < len(all); {
		best := -1
		for ; i < len(all) && all[i].From <= reach; i++ {
			if all[i].To > reach && (best < 0 || all[i].To > all[best].To) {
				best = i
			}
		}
		if best < 0 {
			break
		}
		chain, reach = append(chain, all[best]), all[best].To
	}
	return chain, reach
}

// ReadChain writes what the pieces of a chain hold. One that has gone meanwhile is storage.ErrNotFound.
func ReadChain(ctx context.Context, s storage.Store, sysid uint64, chain []object.Piece, w io.Writer) error {
	at := int64(0)
	for _, p := range chain {
		skip := at - p.From // overlaps are left when a receiver was killed
		_, err := p.Read(ctx, s, sysid, object.WriterFunc(func(b []byte) (int, error) {
			drop := min(skip, int64(len(b)))
			skip -= drop
			if drop == int64(len(b)) {
				return len(b), nil
			}
			n, err := w.Write(b[drop:])
			return int(drop) + n, err
		}))
		if err != nil {
			return fmt.Errorf("read %s: %w", p.Name(), err)
		}
		at = p.To
	}
	return nil
}

// DropPiece removes a piece that others, or the whole segment, stand in for.
func DropPiece(ctx context.Context, s storage.Store, sysid uint64, p object.Piece) error {
	if err := s.Delete(ctx, p.Key(sysid)); err != nil {
		return fmt.Errorf("remove %s: %w", p.Name(), err)
	}
	return nil
}
