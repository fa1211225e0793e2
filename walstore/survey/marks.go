package survey

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/partial"
	"github.com/pgobj/pgobj/walstore/segment"
)

// LastCommit is the time of the last transaction that ended in an archived segment, before a place in it if that is not 0.
func LastCommit(ctx context.Context, s storage.Store, sysid uint64, name string, until segment.LSN) (last time.Time, found bool, err error) {
	note := lastOf(&last, &found)
	err = Marks(ctx, s, MarksRequest{SystemID: sysid, Segment: name}, func(m segment.Mark) {
		if until == 0 || m.At < until {
			note(m)
		}
	})
	return last, found, err
}

// LastReceivedCommit is LastCommit for a segment that is not complete; see Survey.Received.
func (v *Survey) LastReceivedCommit(ctx context.Context, s storage.Store, sysid uint64) (last time.Time, found bool, err error) {
	seg, reach := v.Received()
	if reach == 0 {
		return last, false, nil
	}
	chain, _ := partial.Chain(v.PiecesOf(seg.Name(v.SegmentSize)))
	return LastCommitOf(ctx, s, sysid, chain)
}

// LastCommitOf is LastCommit for the pieces of a segment that Chain has put together.
func LastCommitOf(ctx context.Context, s storage.Store, sysid uint64, chain []object.Piece) (last time.Time, found bool, err error) {
	err = Marks(ctx, s, MarksRequest{SystemID: sysid, Chain: chain}, lastOf(&last, &found))
	return last, found, err
}

func lastOf(last *time.Time, found *bool) func(segment.Mark) {
	return func(m segment.Mark) {
		if !m.Point {
			*last, *found = m.Time, true
		}
	}
}

// MarksRequest says where to look for marks.
type MarksRequest struct {
	SystemID uint64
	Segment  string            // that was archived
	Chain    []object.Piece    // or what was received of one
	After    io.Reader         // how the next segment begins; nil: nobody knows
	Begin    func(data []byte) // is told once how this one begins, whatever happens then; may be nil
}

// Marks yields the marks of a segment; see segment.Marks. With an error nothing counts that was yielded.
func Marks(ctx context.Context, s storage.Store, r MarksRequest, each func(segment.Mark)) error {
	name := r.Segment
	fill := func(w io.Writer) error {
		_, err := walstore.Read(ctx, s, name, r.SystemID, w)
		return err
	}
	if r.Chain != nil {
		name, fill = r.Chain[0].Segment, func(w io.Writer) error { return partial.ReadChain(ctx, s, r.SystemID, r.Chain, w) }
	}
	err := walstore.Through(fill, func(in io.Reader) error {
		if r.Begin != nil {
			whole := bufio.NewReaderSize(in, walstore.Beginning)
			first, _ := whole.Peek(walstore.Beginning) // an error comes again
			r.Begin(bytes.Clone(first))
			in = whole
		}
		return segment.Marks(in, r.After, each)
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// LastRecord is where the last record begins that is whole in an archived segment; see segment.LastRecord.
func LastRecord(ctx context.Context, s storage.Store, sysid uint64, name string) (last segment.LSN, found bool, err error) {
	return lastRecord(ctx, s, sysid, name, segment.LastRecord)
}

// LastChange is where the last record begins that is whole in an archived segment, and does not only end it; see
// segment.LastChange.
func LastChange(ctx context.Context, s storage.Store, sysid uint64, name string) (last segment.LSN, found bool, err error) {
	return lastRecord(ctx, s, sysid, name, segment.LastChange)
}

func lastRecord(ctx context.Context, s storage.Store, sysid uint64, name string, find func(io.Reader) (segment.LSN, bool, error)) (last segment.LSN, found bool, err error) {
	fill := func(w io.Writer) error {
		_, err := walstore.Read(ctx, s, name, sysid, w)
		return err
	}
	err = walstore.Through(fill, func(r io.Reader) (err error) {
		last, found, err = find(r)
		return err
	})
	if err != nil {
		return last, found, fmt.Errorf("read the last record of %s: %w", name, err)
	}
	return last, found, nil
}
