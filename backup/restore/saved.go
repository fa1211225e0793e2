package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/partial"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// expectSaved sees to it that the recovery gets to the WAL that is saved, once that is pushed: this is what it was saved for. A backup of
// a stopped server, which would start without a recovery, gets one. It is refused where there is no way. Of a backup that has a recovery anyway the
// orders hold, and what they leave out is said.
func (p *Plan) expectSaved(ctx context.Context) error {
	r, b := p.request.Recovery, p.Backup
	asShutDown := b.Offline() && len(p.Path) == 0
	last, ok := p.lastSaved()
	switch {
	case !ok || !asShutDown && (r.NoSettings || r.Standby || r.Timeline != "" || !r.ToTheEnd()):
		return nil
	case asShutDown && (r.NoSettings || r.TargetImmediate):
		return p.savedInVain("without a recovery, as requested, this WAL would not be replayed: remove %s", map[bool]string{true: "--no-recovery-settings", false: "--target immediate"}[r.NoSettings])
	}
	tree := p.found.Tree
	if err := p.learnTimeline(tree, last.Timeline); err != nil {
		return err
	}
	if err := recovery.Reach(tree, b.Timeline, b.StopLSN, last.Timeline); err != nil {
		return p.savedInVain("no recovery from backup %s can reach it: %w", b.ID, err)
	}
	path := tree.Path(last.Timeline).From(b.Timeline, b.StartLSN)
	if !asShutDown && !p.leadsTo(path) {
		p.warnOtherWay(last)
		return nil
	}
	wal, err := recovery.ScanRange(ctx, p.withSaved(), b.SystemID, path, segment.Size(b.SegmentSize), 0)
	if err != nil {
		return err
	}
	if asShutDown && (wal.Missing != "" || wal.End <= b.StopLSN) {
		return p.savedInVain("the segment before it, %s, is neither there nor in the archive", cmp.Or(wal.Missing, b.FirstWAL))
	}
	if !asShutDown && wal.Missing != "" {
		return nil // as it is without what is saved
	}
	if asShutDown {
		// By its number, so that recovery ends with an error if the timeline's history has not been pushed.
		p.Recovery, p.Recovery.Timeline = r, fmt.Sprint(last.Timeline)
	}
	p.Path, p.WAL, p.expected = path, wal, true
	return nil
}

// leadsTo says whether the recovery, as it is planned, will take a path that has become longer by what is saved.
func (p *Plan) leadsTo(path timeline.Path) bool {
	planned := p.Path.Last().Timeline
	_, on := path.Left(planned)
	return planned == path.Last().Timeline || p.Recovery.Timeline == "" && on
}

// warnOtherWay tells of a recovery that leaves the timeline of what is saved before that.
func (p *Plan) warnOtherWay(last segment.Segment) {
	if p.Path.Passes(last.Timeline, last.Next().Start(segment.Size(p.Backup.SegmentSize))) {
		return
	}
	p.warn("the recovery follows timeline %d and would not replay all of the saved WAL, which is of timeline %d: --target-timeline %d goes to its end", p.Path.Last().Timeline, last.Timeline, last.Timeline)
}

func (p *Plan) savedInVain(format string, args ...any) error {
	return fmt.Errorf("%w: %s has WAL that was never archived (%s), and %w\nOr give --discard-wal instead of --save-wal: its transactions are then lost",
		backup.ErrTarget, p.target.Dir, backup.Some(p.Saved, 3), fmt.Errorf(format, args...))
}

// lastSaved is the last segment that is saved; false when there is none: other files hold no transactions.
func (p *Plan) lastSaved() (last segment.Segment, ok bool) {
	for _, name := range p.Saved {
		if seg, err := segment.ParseName(name, segment.Size(p.Backup.SegmentSize)); err == nil {
			last, ok = seg, true // they are in order
		}
	}
	return last, ok
}

// learnTimeline adds a timeline that only the server itself knows where it begins.
func (p *Plan) learnTimeline(tree timeline.Tree, t segment.Timeline) error {
	if tree.Known(t) {
		return nil
	}
	ancestors, err := datadir.ReadHistory(p.target.Dir, t)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		tree[t] = ancestors
	}
	return err
}

// withSaved is the archive as it will be when what is saved has been pushed, for listings: of the segment that was being written, what
// counts of it.
func (p *Plan) withSaved() storage.Store {
	s := savedStore{Store: p.request.Store}
	for _, name := range p.Saved {
		if filepath.Join(p.target.Dir, "pg_wal", name) != p.open.path {
			s.keys = append(s.keys, object.Key(p.Backup.SystemID, name))
			continue
		}
		for _, piece := range partial.Split(name, 0, p.open.valid) {
			s.keys = append(s.keys, piece.Key(p.Backup.SystemID))
		}
	}
	slices.Sort(s.keys)
	return s
}

// savedStore lists keys that a store does not have yet.
type savedStore struct {
	storage.Store
	keys []string // in order
}

// List is the store's, with the keys at their places.
func (s savedStore) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		keys := slices.DeleteFunc(slices.Clone(s.keys), func(key string) bool { return !strings.HasPrefix(key, prefix) || key <= after })
		for info, err := range s.Store.List(ctx, prefix, after) {
			for err == nil && len(keys) > 0 && keys[0] <= info.Key {
				if keys[0] < info.Key && !yield(storage.Info{Key: keys[0]}, nil) {
					return
				}
				keys = keys[1:]
			}
			if !yield(info, err) {
				return
			}
		}
		for _, key := range keys {
			if !yield(storage.Info{Key: key}, nil) {
				return
			}
		}
	}
}
