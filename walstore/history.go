package walstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// ReadHistory is the archived history of a timeline. The error is storage.ErrNotFound when there is none
// (as for timeline 1), or a *DamagedError.
func ReadHistory(ctx context.Context, s storage.Store, sysid uint64, tli segment.Timeline) (segment.Lineage, error) {
	var data bytes.Buffer
	name := segment.HistoryName(tli)
	if _, err := Read(ctx, s, name, sysid, &data); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return segment.ParseHistory(tli, data.Bytes())
}

// ReadPath is the path to a timeline, as its archived history has it. The error is that of ReadHistory; with it, the path
// is only the timeline itself.
func ReadPath(ctx context.Context, s storage.Store, sysid uint64, tli segment.Timeline) (timeline.Path, error) {
	if tli == 1 {
		return timeline.To(1, nil), nil
	}
	ancestors, err := ReadHistory(ctx, s, sysid, tli)
	return timeline.To(tli, ancestors), err
}

// ReadTree is the timelines of which the archive holds anything, each with the ancestors that its archived history names.
// A timeline whose history is missing is an orphan, and so is one whose history fails with an error that lost accepts.
func ReadTree(ctx context.Context, s storage.Store, sysid uint64, lost func(error) bool) (timeline.Tree, error) {
	all, err := Timelines(ctx, s, sysid)
	if err != nil {
		return nil, err
	}
	tree := timeline.Tree{}
	for _, tli := range all {
		if tree[tli] = nil; tli == 1 {
			continue
		}
		ancestors, err := ReadHistory(ctx, s, sysid, tli)
		if err != nil && !errors.Is(err, storage.ErrNotFound) && !lost(err) {
			return nil, err
		}
		tree[tli] = ancestors
	}
	return tree, nil
}

// BackupEnd is where a base backup ended: what its backup history file (the .backup that the server archives) says.
// The segment is the one with start, where the backup began. The error is storage.ErrNotFound when there is none.
func BackupEnd(ctx context.Context, s storage.Store, sysid uint64, segmentName string, start segment.LSN, size segment.Size) (segment.LSN, error) {
	var data bytes.Buffer
	name := fmt.Sprintf("%s.%08X.backup", segmentName, uint64(start)%uint64(size))
	if _, err := Read(ctx, s, name, sysid, &data); err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	for line := range strings.Lines(data.String()) {
		if rest, ok := strings.CutPrefix(line, "STOP WAL LOCATION: "); ok {
			lsn, _, _ := strings.Cut(rest, " ")
			return segment.ParseLSN(lsn)
		}
	}
	return 0, &object.DamagedError{Key: object.Key(sysid, name), Store: s.String(), Err: errors.New("it does not say where the backup ended")}
}

// SizeOf is the segment size as the header of an archived segment, or of its first piece, has it; 0 where that is too short for one.
func SizeOf(ctx context.Context, s storage.Store, o object.Object) (segment.Size, error) {
	first, err := object.First(segment.HeaderSize, func(w io.Writer) (err error) {
		if o.Type == segment.Received {
			_, err = o.Piece.Read(ctx, s, o.SystemID, w)
		} else {
			_, err = Read(ctx, s, o.Name, o.SystemID, w)
		}
		return err
	})
	if err != nil || len(first) < segment.HeaderSize {
		return 0, err
	}
	h, err := segment.ParseHeader(first)
	return h.Size, err
}
