package recovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// Selection is a backup, and the path from it to where recovery has to end.
type Selection struct {
	Entry    *catalog.Entry
	Tree     timeline.Tree
	Timeline segment.Timeline
	At       *segment.Mark // the target, where it was looked for
}

// Selector finds the backup to begin with, and the timeline to follow.
type Selector struct {
	Store    storage.Store
	Catalog  *catalog.Catalog
	Log      *slog.Logger
	Recovery Recovery
	trees    map[uint64]timeline.Tree
	search   search
}

func (c *Selector) tree(ctx context.Context, systemID uint64) (tree timeline.Tree, err error) {
	if tree = c.trees[systemID]; tree == nil {
		if tree, err = ReadTree(ctx, c.Store, systemID); err == nil {
			c.trees[systemID] = tree
		}
	}
	return tree, err
}

// Choose resolves the backup's name and the target. Without a name it is the newest backup that ends before
// the target, on a timeline from which the target's can be reached.
func (c *Selector) Choose(ctx context.Context, s *catalog.State, name string) (*Selection, error) {
	c.trees, c.search = map[uint64]timeline.Tree{}, search{known: map[string][]segment.Mark{}, said: time.Now()}
	if !catalog.IsLatest(name) {
		e, err := s.Resolve(name)
		if err != nil {
			return nil, err
		}
		return c.named(ctx, e)
	}
	if _, err := s.Resolve(""); err != nil {
		return nil, err
	}
	return c.newest(ctx, s)
}

// named fits the timeline to a backup.
func (c *Selector) named(ctx context.Context, e *catalog.Entry) (*Selection, error) {
	if err := c.beforeConsistent(e); err != nil {
		return nil, err
	}
	tree, err := c.tree(ctx, e.Commit.Summary.SystemID)
	if err != nil {
		return nil, err
	}
	b := e.Commit.Summary
	if err := c.begins(tree, b); err != nil {
		return nil, fmt.Errorf("%w\nOr restore a backup of another timeline", err)
	}
	to, err := c.timeline(tree, b)
	if err != nil {
		return nil, err
	}
	if c.Recovery.Timeline == "" && to != b.Timeline && !c.Recovery.TargetImmediate {
		to = descendant(tree, b.Timeline, b.StopLSN)
	}
	if err := Reach(tree, b.Timeline, b.StopLSN, to); err != nil {
		return nil, fmt.Errorf("%w\nBackup %s can reach timeline %d: --target-timeline %d. Or name another backup, or none", err, e.ID, descendant(tree, b.Timeline, b.StopLSN), descendant(tree, b.Timeline, b.StopLSN))
	}
	return &Selection{Entry: e, Tree: tree, Timeline: to}, nil
}

// newest looks for a backup from the newest on.
func (c *Selector) newest(ctx context.Context, s *catalog.State) (*Selection, error) {
	complete := s.Complete()
	var first *catalog.Entry // that would do as far as the target goes
	var reason error
	for _, e := range slices.Backward(complete) {
		if err := c.beforeConsistent(e); err != nil {
			continue
		}
		if first != nil && first.Commit.Summary.SystemID != e.Commit.Summary.SystemID {
			break // what was before an initdb or pg_upgrade is not meant
		}
		tree, err := c.tree(ctx, e.Commit.Summary.SystemID)
		if err != nil {
			return nil, err
		}
		b := e.Commit.Summary
		to, err := c.timeline(tree, b)
		if err == nil {
			err = cmp.Or(c.begins(tree, b), Reach(tree, b.Timeline, b.StopLSN, to))
		}
		if err != nil && first == nil && (tree.Orphan(to) || tree.Orphan(b.Timeline)) {
			return nil, fmt.Errorf("%w\nOr name a backup of another timeline, and that timeline with --target-timeline", err)
		}
		if err == nil && first != nil && c.Recovery.Timeline == "" {
			return nil, c.ambiguous(tree, first, e, to)
		}
		if err == nil && c.Recovery.Seeks() {
			at, err := c.seek(ctx, e, tree.Path(to).From(b.Timeline, b.StartLSN))
			if err != nil {
				return nil, err
			}
			if at == nil {
				continue
			}
			return &Selection{e, tree, to, at}, nil
		}
		if err == nil {
			return &Selection{Entry: e, Tree: tree, Timeline: to}, nil
		}
		if !errors.Is(err, ErrUnreachable) {
			return nil, err
		}
		if first == nil {
			first, reason = e, err
		}
	}
	if first != nil && len(c.search.known) == 0 {
		return nil, fmt.Errorf("%w\nNo other backup can reach it. From backup %s: --target-timeline %d", reason, first.ID, first.Commit.Summary.Timeline)
	}
	if c.Recovery.Seeks() {
		return nil, c.notFound(complete)
	}
	return nil, c.tooEarly(complete)
}

// begins tells why no recovery can begin from a backup: PostgreSQL first asks for the history of the timeline that it is on.
func (c *Selector) begins(tree timeline.Tree, b catalog.Summary) error {
	cold := b.From == "offline" && !c.Recovery.RollsForward()
	if cold || c.Recovery.NoSettings || !tree.Orphan(b.Timeline) {
		return nil
	}
	return noHistory(b.Timeline)
}

// ambiguous: the newest backup is on another branch of history than the newest timeline. Either could be the
// one that counts (after a restore to an earlier point, or when a test copy has archived into the original's
// archive), and the wrong guess loses data.
func (c *Selector) ambiguous(tree timeline.Tree, newest, other *catalog.Entry, to segment.Timeline) error {
	b := newest.Commit.Summary
	reason := strings.TrimPrefix(Reach(tree, b.Timeline, b.StopLSN, to).Error(), ErrUnreachable.Error()+": ")
	return Unreachable("the history has two branches: %s\nTo follow the branch of the newest backup, %s: --target-timeline %d\nTo go from backup %s to the newest timeline: --target-timeline %d",
		reason, newest.ID, descendant(tree, b.Timeline, b.StopLSN), other.ID, to)
}

// timeline resolves the timeline that was asked for.
func (c *Selector) timeline(tree timeline.Tree, b catalog.Summary) (segment.Timeline, error) {
	switch t := c.Recovery.Timeline; {
	case t == "current", t == "" && c.Recovery.TargetImmediate:
		return b.Timeline, nil
	case t == "", t == "latest":
		return tree.Newest(b.Timeline), nil
	default:
		n, err := strconv.ParseUint(t, 10, 32)
		if err != nil || n == 0 {
			return 0, Unreachable("%q is not a timeline: give its number in decimal, current or latest", t)
		}
		return segment.Timeline(n), nil
	}
}

// beforeConsistent tells when a target lies before the end of a backup, up to which the files in it are no database.
func (c *Selector) beforeConsistent(e *catalog.Entry) error {
	b, r := e.Commit.Summary, c.Recovery
	switch {
	case !r.TargetTime.IsZero() && r.TargetTime.Before(b.Consistent):
		return Unreachable("backup %s is consistent from %s on, the target is %s\nName an older backup, or none.", e.ID, backup.Stamp(b.Consistent), backup.Stamp(r.TargetTime))
	case r.TargetLSN != 0 && r.TargetLSN < b.StopLSN:
		return Unreachable("backup %s is consistent from %s on, the target is %s\nName an older backup, or none.", e.ID, b.StopLSN, r.TargetLSN)
	}
	return nil
}

// tooEarly: every backup ends after the target.
func (c *Selector) tooEarly(complete []*catalog.Entry) error {
	first := slices.MinFunc(complete, func(a, b *catalog.Entry) int { return a.Commit.Summary.Consistent.Compare(b.Commit.Summary.Consistent) })
	b := first.Commit.Summary
	if c.Recovery.TargetLSN != 0 {
		return Unreachable("no backup is old enough for %s; the oldest backup, %s, can restore any point from %s on", c.Recovery.TargetLSN, first.ID, b.StopLSN)
	}
	return Unreachable("no backup is old enough for %s; the oldest backup, %s, can restore any time from %s on", backup.Stamp(c.Recovery.TargetTime), first.ID, backup.Stamp(b.Consistent))
}

// CheckWAL holds what the archive has against what the recovery needs, and returns warnings. found says that the target was
// looked for, and can be reached.
func (c *Selector) CheckWAL(found bool, b *catalog.Backup, w WALRange, s *catalog.State, now time.Time) (warnings []string, err error) {
	r := c.Recovery
	if w.End < b.StopLSN && b.Offline() {
		return nil, Unreachable("backup %s is of a stopped server, and the archive has no WAL after it: %s is missing\nWithout a target it can be restored as it is.", b.ID, b.FirstWAL)
	}
	if w.End < b.StopLSN {
		missing := w.Missing
		if missing == "" {
			missing = "what follows " + w.End.String()
		}
		return nil, Unreachable("WAL that backup %s needs (%s to %s) is not in the archive: %s is missing\nRestore another backup. %s", b.ID, b.FirstWAL, b.LastWAL, missing, backup.WhereSegment(missing))
	}
	if r.TargetTime.After(now.Add(time.Minute)) {
		return nil, Unreachable("the target %s is in the future; it is %s now\nWithout --target-time the recovery goes to the end of the WAL.", backup.Stamp(r.TargetTime), backup.Stamp(now))
	}
	switch {
	case r.TargetImmediate && w.End <= b.StopLSN && b.PGVersion >= 130000: // of an idle standby, as a primary ends a backup with a record
		return nil, Unreachable("the archive ends at %[2]s, where backup %[1]s becomes consistent, and PostgreSQL %[3]d needs one more record to notice that\nWithout --target immediate it recovers to the same point.", b.ID, b.StopLSN, b.PGVersion/10000)
	case r.TargetImmediate, found:
		return nil, nil
	case r.TargetLSN != 0 && w.End < r.TargetLSN && w.Missing == "":
		return nil, Unreachable("the archive ends at %s (%s), before the target %s\nEarlier points can be restored. If the data directory of the old server is still there, archive its last WAL: pgobj wal-push --all PGDATA", w.End, w.Last, r.TargetLSN)
	case w.Missing != "":
		return pastGap(r, w, later(s, b, w))
	case r.TargetXID != 0 || r.TargetName != "":
		warnings = append(warnings, fmt.Sprintf("only the recovery shows whether the archive has the target, after the end of the backup: if not, PostgreSQL %s; then name an older backup, or none, so that pgobj searches for the target", AtTheEnd(b.PGVersion)))
	}
	return warnings, nil
}

// AtTheEnd is what PostgreSQL does at the end of the WAL when it has not met its target (StartupXLOG).
func AtTheEnd(version int) string {
	if version >= 130000 {
		return "stops there with an error, and another target can be set"
	}
	return "opens with all WAL that there is"
}

// pastGap: recovery ends at a gap, so what comes after it cannot be had; nor can an LSN that no record before it reaches.
func pastGap(r Recovery, w WALRange, after *catalog.Entry) ([]string, error) {
	gap := fmt.Sprintf("there is a gap in the WAL: %s is missing, although %s is there", w.Missing, w.Beyond)
	what := "pgobj pitr-windows shows what can be restored."
	if w.Before > 0 {
		what = fmt.Sprintf("Any point up to %s can be restored: --target-lsn %s; pgobj pitr-windows shows it as a time.", w.Before, w.Before)
	}
	if after != nil {
		what += fmt.Sprintf(" Backup %s is from after the gap.", after.ID)
	}
	what += " " + backup.WhereSegment(w.Missing)
	switch {
	case r.TargetLSN != 0 && r.TargetLSN <= cmp.Or(w.Before, w.End-1):
		return nil, nil
	case r.TargetLSN != 0, r.ToTheEnd(),
		!r.TargetTime.IsZero() && after != nil && !r.TargetTime.Before(after.Commit.Summary.Consistent):
		return nil, Unreachable("%s\n%s", gap, what)
	}
	return []string{gap + ": if the target comes after it, recovery stops with an error there. " + what}, nil
}

// later is the first backup that begins after the gap.
func later(s *catalog.State, b *catalog.Backup, w WALRange) *catalog.Entry {
	beyond, err := segment.ParseName(w.Beyond, segment.Size(b.SegmentSize))
	if err != nil {
		return nil
	}
	for _, e := range s.Complete() {
		if sum := e.Commit.Summary; sum.SystemID == b.SystemID && sum.StartLSN >= beyond.Start(segment.Size(b.SegmentSize)) {
			return e
		}
	}
	return nil
}
