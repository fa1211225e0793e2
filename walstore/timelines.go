package walstore

import (
	"context"
	"fmt"
	"strconv"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

// Timelines lists, in rising order, the timelines of a system identifier of which the archive holds anything.
// It costs one listing of one page for each, however much WAL there is.
func Timelines(ctx context.Context, s storage.Store, sysid uint64) ([]segment.Timeline, error) {
	var found []segment.Timeline
	for after := ""; ; {
		next, err := nextTimeline(ctx, s, sysid, after)
		if err != nil || next == 0 {
			return found, err
		}
		found = append(found, next)
		after = afterTimeline(sysid, next)
	}
}

// afterTimeline is where a listing passes over all of a timeline's directory: '0' is the character after '/'.
func afterTimeline(sysid uint64, tli segment.Timeline) string {
	return object.ArchiveDir(sysid) + tli.Hex() + "0"
}

func nextTimeline(ctx context.Context, s storage.Store, sysid uint64, after string) (segment.Timeline, error) {
	o, ok, err := firstOf(ctx, s, object.ArchiveDir(sysid), after)
	if !ok {
		return 0, err
	}
	return segment.TimelineOf(o.Name)
}

// firstOf is the first file below a prefix and after a key; false when there is none.
func firstOf(ctx context.Context, s storage.Store, prefix, after string) (object.Object, bool, error) {
	for info, err := range s.List(ctx, prefix, after) {
		if err != nil {
			return object.Object{}, false, fmt.Errorf("list WAL: %w", err)
		}
		if o, ok := object.ParseKey(info.Key); ok {
			return o, true, nil
		}
	}
	return object.Object{}, false, nil
}

// Incarnations lists the system identifiers of which the archive holds anything, in the order of their keys. It
// costs one listing of one page for each.
func Incarnations(ctx context.Context, s storage.Store) ([]uint64, error) {
	var found []uint64
	for after := ""; ; {
		next, ok, err := firstOf(ctx, s, "wal/", after)
		if err != nil {
			return nil, err
		}
		if !ok {
			return found, nil
		}
		found = append(found, next.SystemID)
		after = "wal/" + strconv.FormatUint(next.SystemID, 10) + "0" // as in afterTimeline
	}
}
