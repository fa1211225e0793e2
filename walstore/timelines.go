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
	for info, err := range s.List(ctx, object.ArchiveDir(sysid), after) {
		if err != nil {
			return 0, fmt.Errorf("list timelines: %w", err)
		}
		if o, ok := object.ParseKey(info.Key); ok {
			return segment.TimelineOf(o.Name)
		}
	}
	return 0, nil
}

// Incarnations lists the system identifiers of which the archive holds anything, in the order of their keys. It
// costs one listing of one page for each.
func Incarnations(ctx context.Context, s storage.Store) ([]uint64, error) {
	var found []uint64
	for after := ""; ; {
		var next uint64
		for info, err := range s.List(ctx, "wal/", after) {
			if err != nil {
				return nil, fmt.Errorf("list incarnations: %w", err)
			}
			if o, ok := object.ParseKey(info.Key); ok {
				next = o.SystemID
				break
			}
		}
		if next == 0 {
			return found, nil
		}
		found = append(found, next)
		after = "wal/" + strconv.FormatUint(next, 10) + "0" // as in afterTimeline
	}
}
