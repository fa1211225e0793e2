// Package timeline answers how the timelines of a cluster descend from each other, which WAL leads from one place to
// another, and where that has gaps. It is pure: it reads nothing, and takes parsed history files and segment numbers.
//
// # Words
//
// A server that ends a recovery or is promoted begins a new timeline. Its history file lists the ancestors and the
// LSN at which each was left, its switch point. So timelines form a [Tree].
//
// A [Path] leads along the tree to one timeline: a [Span] of WAL of every ancestor, then the timeline itself. It is
// PostgreSQL's expectedTLEs (readTimeLineHistory in timeline.c), oldest first. A recovery replays a path from the
// backup's start on.
//
// A position is an LSN and the timeline that it is on. A path passes a position when it does not leave that timeline
// before the LSN.
//
// A [Run] is segments of one timeline that follow each other, by their numbers; a [Range] says of which timeline. A
// gap is a Range that a path needs and that is not held, between two segments that are.
//
// # PostgreSQL's rules
//
//   - A timeline is on a path: tliInHistory.
//   - Where a path leaves a timeline: tliSwitchPoint; see [Path.Left].
//   - Which timeline a path is on at an LSN: tliOfPointInHistory; see [Path.TimelineAt].
//   - Recovery that is consistent at an LSN can follow a path: InitWalRecovery (before 15 StartupXLOG) in
//     "requested timeline %u is not a child of this server's history" and "does not contain minimum recovery point";
//     see [Path.Passes].
//   - The latest timeline is found by counting up: findNewestTimeLine; see [Tree.Latest].
//   - The segment in which a path leaves a timeline is read from the newer one, whose first segment begins with a
//     copy of it (XLogInitNewTimeline); segments before that are not asked for (XLogFileReadAnyTLI); see [Path.Ranges].
//
// As PostgreSQL has it, a timeline's number is higher than those of its ancestors, and no switch point comes before
// the one before it on a path. Timeline 1 has no ancestors and no history file.
package timeline

import (
	"maps"
	"slices"

	"github.com/pgobj/pgobj/walstore/segment"
)

// Tree is the timelines of one cluster that there are, each with its ancestors. One above 1 without ancestors is an
// orphan: there is WAL of it, but no history file, and nobody knows where it comes from.
type Tree map[segment.Timeline]segment.Lineage

// Timelines are those that there are, in rising order.
func (t Tree) Timelines() []segment.Timeline { return slices.Sorted(maps.Keys(t)) }

// Known says whether the path to a timeline is known.
func (t Tree) Known(tli segment.Timeline) bool { return tli == 1 || len(t[tli]) > 0 }

// Orphan says whether the timeline is there, and the path to it is not known.
func (t Tree) Orphan(tli segment.Timeline) bool {
	_, there := t[tli]
	return there && !t.Known(tli)
}

// Path is the path to a timeline; to an orphan, and to one that is not there, it is only that timeline.
func (t Tree) Path(to segment.Timeline) Path { return To(to, t[to]) }

// Descendants are the timelines that a recovery which is consistent at lsn on a timeline can get to, in rising order:
// from itself, and those whose path passes there.
func (t Tree) Descendants(from segment.Timeline, lsn segment.LSN) []segment.Timeline {
	out := []segment.Timeline{from}
	for _, to := range t.Timelines() {
		if to != from && t.Path(to).Passes(from, lsn) {
			out = append(out, to)
		}
	}
	return out
}

// Newest is the timeline with the highest number, from or another: PostgreSQL numbers a new one higher than all that it finds.
func (t Tree) Newest(from segment.Timeline) segment.Timeline {
	return slices.Max(append(t.Timelines(), from))
}

// Latest is the timeline that PostgreSQL calls so in a recovery that begins on one: it counts up, and ends at the first
// without a history file (findNewestTimeLine in timeline.c).
func (t Tree) Latest(from segment.Timeline) segment.Timeline {
	for t.Known(from + 1) {
		from++
	}
	return from
}

// WithAncestors is the tree with all timelines that the history files name: a history has that of its ancestors in
// it, in case their own files are missing.
func (t Tree) WithAncestors() Tree {
	all := maps.Clone(t)
	for _, lineage := range t {
		for i, a := range lineage {
			if len(all[a.Timeline]) == 0 {
				all[a.Timeline] = lineage[:i]
			}
		}
	}
	return all
}
