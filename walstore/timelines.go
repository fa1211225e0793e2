package walstore

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

// Timelines lists, in rising order, the timelines of a system identifier of which the archive holds anything.
// It costs one listing of one page for each, however much WAL there is.
func Timelines(ctx context.Context, s storage.Store, sysid uint64) (found []segment.Timeline, err error) {
	for tli, err := range timelinesAfter(ctx, s, sysid, 0) {
		if err != nil {
			return found, err
		}
		found = append(found, tli)
	}
	return found, nil
}

func timelinesAfter(ctx context.Context, s storage.Store, sysid uint64, last segment.Timeline) iter.Seq2[segment.Timeline, error] {
	return func(yield func(segment.Timeline, error) bool) {
		for o, err := range firsts(ctx, s, object.ArchiveDir(sysid), last.Hex()) {
			tli := segment.Timeline(0)
			if err == nil {
				tli, err = segment.TimelineOf(o.Name)
			}
			if !yield(tli, err) {
				return
			}
		}
	}
}

// Incarnations lists the system identifiers of which the archive holds anything, in the order of their keys. It
// costs one listing of one page for each.
func Incarnations(ctx context.Context, s storage.Store) (found []uint64, err error) {
	for o, err := range firsts(ctx, s, "wal/", "") {
		if err != nil {
			return nil, err
		}
		found = append(found, o.SystemID)
	}
	return found, nil
}

// firsts yields the first file of each directory below a prefix, after one of them. After an error it ends.
func firsts(ctx context.Context, s storage.Store, prefix, dir string) iter.Seq2[object.Object, error] {
	return func(yield func(object.Object, error) bool) {
		for more := true; more; {
			more = false
			for info, err := range s.List(ctx, prefix, prefix+dir+"0") { // which passes over all of it: '0' is the character after '/'
				if err != nil {
					yield(object.Object{}, fmt.Errorf("list WAL: %w", err))
					return
				}
				if o, ok := object.ParseKey(info.Key); ok {
					dir, _, _ = strings.Cut(o.Key[len(prefix):], "/")
					more = yield(o, nil)
					break
				}
			}
		}
	}
}
