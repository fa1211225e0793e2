package recovery

import (
	"context"
	"errors"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// ParametersOf reads the notes of segments along a path, in the order of the WAL.
func ParametersOf(ctx context.Context, s storage.Store, notes []object.Object, path timeline.Path, size segment.Size) (all []segment.Parameters, err error) {
	for _, span := range path {
		var own []object.Object
		for _, o := range notes {
			if t, err := segment.TimelineOf(o.Name); err == nil && t == span.Timeline && o.Note == object.NoteOfParameters {
				own = append(own, o)
			}
		}
		n, e := walstore.ReadNotes(ctx, s, own, size)
		err = errors.Join(err, e)
		for _, c := range n.Parameters {
			if span.End == 0 || c.At < span.End { // what is there twice is the same
				all = append(all, c)
			}
		}
	}
	return segment.SortParameters(all), err
}
