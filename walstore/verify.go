package walstore

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

// Verify reads an archived file and checks every byte of it. What is wrong with it is a *DamagedError.
func Verify(ctx context.Context, s storage.Store, o object.Object) error {
	if o.Type == segment.Received {
		_, err := o.Piece.Read(ctx, s, o.SystemID, io.Discard)
		if errors.Is(err, storage.ErrNotFound) { // replaced by a larger one, or by the segment, since it was listed
			return nil
		}
		return err
	}
	_, err := Read(ctx, s, o.Name, o.SystemID, io.Discard)
	return err
}

// Between are the names of the segments from one to another, along the path to to's timeline, with the
// history files that belong to it. They need not all be in the archive, but the last has to be: ErrAbsent or ErrGap if not.
func Between(ctx context.Context, s storage.Store, sysid uint64, from, to string) ([]string, error) {
	size, err := SizeOf(ctx, s, object.Object{SystemID: sysid, Name: to, Type: segment.Classify(to)})
	if errors.Is(err, storage.ErrNotFound) {
		err = notArchived(ctx, s, sysid, to)
	}
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", to, err)
	}
	first, err1 := segment.ParseName(from, size)
	last, err2 := segment.ParseName(to, size)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("%w: %w", object.ErrName, err)
	}
	var names []string
	path, err := ReadPath(ctx, s, sysid, last.Timeline)
	if err != nil {
		return nil, err
	}
	if last.Timeline > 1 {
		names = append(names, segment.HistoryName(last.Timeline))
	}
	if _, on := path.Left(first.Timeline); !on {
		return nil, fmt.Errorf("%w: timeline %d does not lead to %d", object.ErrName, first.Timeline, last.Timeline)
	}
	for no := first.No; no <= last.No; no++ {
		names = append(names, path.Segment(no, size).Name(size))
	}
	return names, nil
}

// notArchived says of a segment that is not there whether it is still to come.
func notArchived(ctx context.Context, s storage.Store, sysid uint64, name string) error {
	tli, err := segment.TimelineOf(name)
	if err != nil {
		return err
	}
	last := ""
	for o, err := range List(ctx, s, sysid, tli, "") {
		switch {
		case err != nil:
			return err
		case o.Type != segment.Full:
		case o.Name > name:
			return &GapError{Missing: name, Next: o.Name, Store: s.String()}
		default:
			last = o.Name
		}
	}
	if last == "" {
		return fmt.Errorf("%w: there is no segment of timeline %d", ErrAbsent, tli)
	}
	return fmt.Errorf("%w: the last segment of timeline %d there is %s", ErrAbsent, tli, last)
}
