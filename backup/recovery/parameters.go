package recovery

import (
	"context"
	"errors"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

// ParametersOf reads the notes of segments along a way, in the order of the WAL.
func ParametersOf(ctx context.Context, s storage.Store, notes []object.Object, legs []Leg, size segment.Size) (all []segment.Parameters, err error) {
	for _, leg := range legs {
		var own []object.Object
		for _, o := range notes {
			if t, err := segment.TimelineOf(o.Name); err == nil && t == leg.Timeline && o.Note == object.NoteOfParameters {
				own = append(own, o)
			}
		}
		n, e := walstore.ReadNotes(ctx, s, own, size)
		err = errors.Join(err, e)
		for _, c := range n.Parameters {
			if leg.End == 0 || c.At < leg.End { // what is there twice is the same
				all = append(all, c)
			}
		}
	}
	return segment.SortParameters(all), err
}
