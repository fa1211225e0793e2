package recovery

import (
	"context"
	"slices"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// WALRequest says which WAL of a backup is asked for.
type WALRequest struct {
	Store  storage.Store // rooted at the server's directory
	State  *catalog.State
	Backup *catalog.Backup
	Alone  bool // only what makes the backup consistent
	// Each, which may be nil, is told of every file: the history files first, then the segments in the order in which
	// recovery reads them.
	Each func(object.Object)
}

// BackupWAL is the WAL that begins with a backup: up to where the next backup that recovery comes by begins, else to the
// newest that can be reached; always what makes the backup consistent.
type BackupWAL struct {
	WALRange
	Next    string // that backup; "" when there is none
	Deleted bool   // what would come next, Missing, was deleted on purpose
	Needed  bool   // Missing is needed to make the backup consistent
}

// FindWAL lists the WAL that begins with a backup. A backup of a stopped server is consistent without any.
func FindWAL(ctx context.Context, r WALRequest) (BackupWAL, error) {
	var t BackupWAL
	b := r.Backup
	if b.Offline() && r.Alone {
		return t, nil
	}
	tree, err := ReadTree(ctx, r.Store, b.SystemID)
	if err != nil {
		return t, err
	}
	to, until := b.Timeline, b.StopLSN
	if !r.Alone {
		to, until = descendant(tree, b.Timeline, b.StopLSN), 0
		if next := following(r.State, tree, b); next != nil {
			size := segment.Size(b.SegmentSize)
			t.Next, to = next.Backup, next.Summary.Timeline
			until = max(b.StopLSN, segment.At(to, next.Summary.StartLSN, size).Start(size))
		}
	}
	path := tree.Path(to).From(b.Timeline, b.StartLSN)
	if r.Each != nil {
		for _, span := range path {
			if span.Timeline > 1 && tree.Known(span.Timeline) {
				if err := eachHistory(ctx, r, span.Timeline); err != nil {
					return t, err
				}
			}
		}
	}
	c := &RangeScan{Size: segment.Size(b.SegmentSize), Each: r.Each}
	if t.WALRange, err = c.Scan(ctx, r.Store, b.SystemID, path, until); err != nil {
		return t, err
	}
	if t.Needed = t.End < b.StopLSN && !b.Offline(); t.Needed && t.Missing == "" {
		t.Missing = c.Next.Name(c.Size)
	}
	t.Deleted = t.Missing != "" && slices.ContainsFunc(r.State.WAL, func(w catalog.WALRange) bool {
		return w.SystemID == b.SystemID && w.First <= t.Missing && t.Missing <= w.Last
	})
	return t, nil
}

// following is the first backup after b that recovery from b comes by.
func following(s *catalog.State, tree timeline.Tree, b *catalog.Backup) *catalog.Commit {
	after := false
	for _, e := range s.Complete() {
		x := e.Commit.Summary
		if after && x.SystemID == b.SystemID && x.StartLSN > b.StartLSN && tree.Path(x.Timeline).Passes(b.Timeline, b.StopLSN) {
			return e.Commit
		}
		after = after || e.ID == b.ID
	}
	return nil
}

// eachHistory tells of a timeline's history file, which is the first of that timeline's files.
func eachHistory(ctx context.Context, r WALRequest, tli segment.Timeline) error {
	for o, err := range walstore.List(ctx, r.Store, r.Backup.SystemID, tli, "") {
		if err != nil {
			return err
		}
		if o.Type == segment.History {
			r.Each(o)
			return nil
		}
	}
	return nil
}
