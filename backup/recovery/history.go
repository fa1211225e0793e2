package recovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// ErrUnreachable says that recovery cannot get to the point that was asked for. The text says what can be
// had instead.
var ErrUnreachable = errors.New("the recovery target cannot be reached")

func Unreachable(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnreachable, fmt.Sprintf(format, args...))
}

// ReadTree is what the archive knows of one cluster's timelines. Timeline 1 is always there. A history that cannot be read is
// an error; one that is missing makes its timeline an orphan, and PostgreSQL, which gets no answer for its history, ends.
func ReadTree(ctx context.Context, s storage.Store, systemID uint64) (timeline.Tree, error) {
	tree, err := walstore.ReadTree(ctx, s, systemID, func(error) bool { return false })
	if err == nil {
		tree[1] = nil
	}
	return tree, err
}

// noHistory says of an orphan that recovery cannot get to it.
func noHistory(t segment.Timeline) error {
	return Unreachable("the archive has WAL of timeline %d, but not its history file %s: without it the beginning of the timeline is unknown\n%s", t, segment.HistoryName(t), backup.WhereHistory(t))
}

// Reach tells why recovery that is consistent at lsn on timeline from cannot get to timeline to; nil if it can.
// PostgreSQL would only look at these conditions (see timeline.Path.Passes) when the restore is done.
func Reach(tree timeline.Tree, from segment.Timeline, lsn segment.LSN, to segment.Timeline) error {
	left, on := tree.Path(to).Left(from)
	var names []string
	for _, t := range known(tree) {
		names = append(names, fmt.Sprint(t))
	}
	switch {
	case on && left >= lsn:
		return nil
	case tree.Orphan(to):
		return noHistory(to)
	case !tree.Known(to):
		return Unreachable("the archive has no timeline %d (it has %s)", to, strings.Join(names, ", "))
	case !on:
		return Unreachable("target timeline %d does not descend from timeline %d, which the backup is on", to, from)
	}
	return Unreachable("target timeline %d left the backup's timeline %d at %s, which is before the end of the backup at %s", to, from, left, lsn)
}

// known are the timelines that recovery could follow.
func known(tree timeline.Tree) []segment.Timeline {
	return slices.DeleteFunc(tree.Timelines(), tree.Orphan)
}

// descendant is the highest timeline that recovery can get to from lsn on timeline from.
func descendant(tree timeline.Tree, from segment.Timeline, lsn segment.LSN) segment.Timeline {
	return slices.Max(tree.Descendants(from, lsn))
}

// Forks are the timelines that are not on the path to one, for people.
func Forks(tree timeline.Tree, to segment.Timeline) (out []string) {
	for _, t := range known(tree) {
		if _, on := tree.Path(to).Left(t); on {
			continue
		}
		text, p := fmt.Sprintf("timeline %d", t), tree.Path(t)
		if len(p) > 1 {
			text += fmt.Sprintf(" (left timeline %d at %s)", p[len(p)-2].Timeline, p.Last().Begin)
		}
		out = append(out, text)
	}
	return out
}
