package survey

import (
	"context"
	"errors"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

// Minimal are the places on the path to the end of a timeline from which on the WAL was written with wal_level = minimal; the
// segments of damaged notes count. all are the surveys of Examine.
func (v *Survey) Minimal(ctx context.Context, segments *Segments, all []*Survey) (places []segment.LSN, err error) {
	var changes []segment.Parameters
	for _, x := range all {
		end, _ := v.Path().Left(x.Timeline)
		for _, o := range x.Notes {
			n, err := walstore.ReadNotes(ctx, segments.store, []object.Object{o}, x.SegmentSize)
			if seg, e := segment.ParseName(o.Name, x.SegmentSize); e == nil && errors.Is(err, object.ErrDamaged) { // nobody knows what it said
				n.Parameters, err = []segment.Parameters{{At: seg.Start(x.SegmentSize), WALLevel: segment.WALLevel(0)}}, nil
			}
			if err != nil {
				return nil, err
			}
			for _, c := range n.Parameters {
				if c.At < end {
					changes = append(changes, c)
				}
			}
		}
	}
	received, err := v.ReceivedFacts(ctx, segments)
	if err != nil && !errors.Is(err, storage.ErrNotFound) && !errors.Is(err, object.ErrDamaged) { // completed meanwhile, or said elsewhere
		return nil, err
	}
	for _, c := range segment.SortParameters(append(changes, received.Parameters...)) {
		if c.Minimal() {
			places = append(places, c.At)
		}
	}
	return places, nil
}
