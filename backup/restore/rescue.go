package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/target"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/tail"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// rescue looks for WAL in the old data directory that was never archived: the last transactions may be only
// there, and a delta restore removes it. It is saved, or let go of, or the restore is refused.
func (p *Plan) rescue(ctx context.Context) error {
	t, r := p.target, p.request
	if !t.Delta {
		return nil
	}
	if err := t.CheckCluster(p.Backup.SystemID); err != nil {
		return err
	}
	names, err := p.unarchived(ctx)
	if err != nil {
		return fmt.Errorf("look for WAL that was never archived: %w", err)
	}
	if len(names) == 0 || r.DiscardWAL {
		return nil
	}
	if gone, err := p.gone(ctx, names); err != nil || gone != "" {
		return cmp.Or(err, fmt.Errorf("%w: %s has WAL that was never archived (%s), but the segment before it, %s, is neither there nor in the archive: these transactions are only in the data files, and no restore brings them back\n"+
			"Start the server and take a backup, or move the directory away and restore to a new one. Or give up these transactions with --discard-wal",
			backup.ErrTarget, t.Dir, backup.Some(names, 3), gone))
	}
	if r.SaveWAL == "" {
		return fmt.Errorf("%w: %s has %d WAL file(s) that were never archived (%s): only they may have the last transactions\n"+
			"To recover with them, archive them first: pgobj wal-push --all %s\nOr keep a copy with --save-wal DIR, or give them up with --discard-wal",
			backup.ErrTarget, t.Dir, len(names), backup.Some(names, 3), t.Dir)
	}
	to, err := filepath.Abs(r.SaveWAL)
	if err != nil || datadir.Within(to, t.Dir) {
		return fmt.Errorf("%w: --save-wal %s: give a directory outside of the data directory", backup.ErrTarget, r.SaveWAL)
	}
	p.Saved, p.SavedIn = names, to
	return nil
}

// unarchived lists the files of pg_wal that may hold what neither the archive nor the backup has. PostgreSQL notes in
// archive_status what waits for its archiver, and what that is through with, but notes nothing where wal-receive archives.
// So the archive is asked for all that is not noted as done. Segments that were recycled, or made ahead, do not count.
func (p *Plan) unarchived(ctx context.Context) ([]string, error) {
	t := p.target
	dir := filepath.Join(t.Dir, "pg_wal")
	names, err := datadir.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	c, ok := t.Control()
	clean := ok && !c.Partial && (c.State == datadir.ShutDown || c.State == datadir.ShutDownInRecovery)
	if p.open, err = findOpen(dir, c); err != nil {
		return nil, err
	}
	var found []string
	for _, name := range names {
		path, status := filepath.Join(dir, name), filepath.Join(dir, "archive_status", name)
		switch kind := segment.Classify(name); {
		case kind == segment.Invalid, datadir.Exists(status + ".done"):
			continue
		case datadir.Exists(status + ".ready"):
		case kind == segment.Full && clean && p.isNews(c, name):
		case kind == segment.Full && !clean && tail.Written(path):
		case kind == segment.History && name == segment.HistoryName(c.Timeline):
		default:
			continue
		}
		received := int64(0)
		if path == p.open.path {
			received = p.open.valid
		}
		there, err := p.archived(ctx, path, received)
		if err != nil {
			return nil, err
		}
		if !there {
			found = append(found, name)
		}
	}
	return found, nil
}

// gone is the segment before the first of those that were never archived, when it is lost: a server that has no
// archive_command and no slot removes WAL whether somebody has received it or not.
func (p *Plan) gone(ctx context.Context, names []string) (string, error) {
	c, ok := p.target.Control()
	i := slices.IndexFunc(names, func(name string) bool {
		return segment.Classify(name) == segment.Full && name[:8] == c.Timeline.Hex()
	})
	if !ok || c.Partial || i < 0 {
		return "", nil
	}
	first, err := segment.ParseName(names[i], c.SegmentSize)
	if err != nil {
		return "", nil // no name that the cluster can have
	}
	start := first.Start(c.SegmentSize)
	dir := filepath.Join(p.target.Dir, "pg_wal")
	begin := p.Backup.StopLSN
	if first.Timeline != p.Backup.Timeline {
		ancestors, err := datadir.ReadHistory(p.target.Dir, first.Timeline)
		if err != nil {
			return "", nil // nobody knows where the timeline begins
		}
		begin = timeline.To(first.Timeline, ancestors).Last().Begin
	}
	if start <= begin {
		return "", nil
	}
	before := segment.Before(first.Timeline, start, c.SegmentSize)
	name := before.Name(c.SegmentSize)
	if datadir.Exists(filepath.Join(dir, name)) { // and is archived, or it would be the first
		return "", nil
	}
	_, missing, err := walstore.FirstMissing(ctx, p.request.Store, p.Backup.SystemID, before, before, c.SegmentSize)
	if !missing {
		name = ""
	}
	return name, err
}

// longHeader is where the first record of a segment begins (SizeOfXLogLongPHD).
const longHeader = 40

// isNews says whether a segment of a server that was shut down has something in it that came after the backup: with
// archive_mode the last one has only the record of the shutdown. What a standby has received its primary archives.
func (p *Plan) isNews(c datadir.Control, name string) bool {
	seg, err := segment.ParseName(name, c.SegmentSize)
	if err != nil || c.State != datadir.ShutDown || seg.Timeline != c.Timeline {
		return false
	}
	end := min(seg.Next().Start(c.SegmentSize), c.Checkpoint)
	return end > seg.Start(c.SegmentSize)+longHeader && (seg.Timeline != p.Backup.Timeline || end > p.Backup.StopLSN)
}

// openSegment is the one that a server was writing when it ended. Its path is empty where there is none, or nobody knows.
type openSegment struct {
	path  string
	valid int64 // so many bytes count; of a server that was shut down, all before the record of that
}

func findOpen(dir string, c datadir.Control) (openSegment, error) {
	tli, shutdown, ok := c.Wrote()
	if !ok {
		return openSegment{}, nil
	}
	if shutdown > 0 {
		last := segment.At(tli, shutdown, c.SegmentSize)
		return openSegment{filepath.Join(dir, last.Name(c.SegmentSize)), int64(shutdown - last.Start(c.SegmentSize))}, nil
	}
	t, err := tail.Find(dir, tli, c.SegmentSize, 0)
	return openSegment{t.Open, t.To}, err
}

// archived says whether the archive has the content of a file of pg_wal; of one that is not complete it will do if the bytes that
// count were received. 0: all have to be there.
func (p *Plan) archived(ctx context.Context, path string, received int64) (bool, error) {
	s, id := p.request.Store, p.Backup.SystemID
	err := walstore.SameFile(ctx, s, path, id)
	if errors.Is(err, storage.ErrNotFound) && received > 0 {
		err = walstore.SameReceived(ctx, s, path, id, received)
	}
	for _, no := range []error{storage.ErrNotFound, object.ErrConflict, object.ErrDamaged} {
		if errors.Is(err, no) {
			return false, nil
		}
	}
	return err == nil, err
}

// saveWAL copies what Saved lists, durably.
func (p *Plan) saveWAL() error {
	if len(p.Saved) == 0 {
		return nil
	}
	to := p.SavedIn
	root, err := p.target.OpenRoot(to, false)
	if err != nil {
		return err
	}
	t := &target.Target{Dir: to, Delta: true, Root: root, Uid: p.target.Uid, Gid: p.target.Gid, FileMode: 0o600}
	defer t.Close()
	for _, name := range p.Saved {
		if err := t.Save(filepath.Join(p.target.Dir, "pg_wal", name), name); err != nil {
			return err
		}
	}
	if err := target.SyncPath(to); err != nil {
		return err
	}
	return target.SyncPath(filepath.Dir(to))
}
