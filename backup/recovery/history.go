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
)

// ErrUnreachable says that recovery cannot get to the point that was asked for. The text says what can be
// had instead.
var ErrUnreachable = errors.New("the recovery target cannot be reached")

func Unreachable(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnreachable, fmt.Sprintf(format, args...))
}

// History is what the archive knows of one cluster's timelines and how they descend from each other.
type History struct {
	systemID uint64
	Lineage  map[segment.Timeline]segment.Lineage // of every timeline that recovery could follow
	Orphans  []segment.Timeline                   // there is WAL of them, but no history file
}

func ReadHistory(ctx context.Context, s storage.Store, systemID uint64) (*History, error) {
	timelines, err := walstore.Timelines(ctx, s, systemID)
	if err != nil {
		return nil, err
	}
	h := &History{systemID: systemID, Lineage: map[segment.Timeline]segment.Lineage{1: nil}}
	for _, t := range timelines {
		if t == 1 {
			continue
		}
		l, err := walstore.ReadHistory(ctx, s, systemID, t)
		if errors.Is(err, storage.ErrNotFound) {
			h.Orphans = append(h.Orphans, t)
			continue
		}
		if err != nil {
			return nil, err
		}
		h.Lineage[t] = l
	}
	return h, nil
}

// Newest is the timeline with the highest number, or the one that recovery begins on. Of a timeline without history file,
// but with WAL, PostgreSQL gets no answer and ends.
func (h *History) Newest(from segment.Timeline) segment.Timeline {
	newest := from
	for t := range h.Lineage {
		newest = max(newest, t)
	}
	for _, t := range h.Orphans {
		newest = max(newest, t)
	}
	return newest
}

// Latest is the timeline that PostgreSQL calls so in a recovery that begins on one: it counts up and ends at the first
// without a history file (findNewestTimeLine in timeline.c).
func (h *History) Latest(from segment.Timeline) segment.Timeline {
	for {
		if _, known := h.Lineage[from+1]; !known {
			return from
		}
		from++
	}
}

func (h *History) IsOrphan(t segment.Timeline) bool { return slices.Contains(h.Orphans, t) }

// noHistory says of an orphan that recovery cannot get to it.
func noHistory(t segment.Timeline) error {
	return Unreachable("the archive has WAL of timeline %d, but not its history file %s: without it the beginning of the timeline is unknown\n%s", t, segment.HistoryName(t), backup.WhereHistory(t))
}

// Reach tells why recovery that is consistent at lsn on timeline from cannot get to timeline to; nil if it
// can. These are PostgreSQL's own conditions (StartupXLOG: "requested timeline is not a child of this
// server's history"), which it would only look at when the restore is done.
func (h *History) Reach(from segment.Timeline, lsn segment.LSN, to segment.Timeline) error {
	if from == to {
		return nil
	}
	l, known := h.Lineage[to]
	switch {
	case !known && h.IsOrphan(to):
		return noHistory(to)
	case !known:
		return Unreachable("the archive has no timeline %d (it has %s)", to, h)
	}
	left, ok := l.Left(from)
	if !ok {
		return Unreachable("target timeline %d does not descend from timeline %d, which the backup is on", to, from)
	}
	if left < lsn {
		return Unreachable("target timeline %d left the backup's timeline %d at %s, which is before the end of the backup at %s", to, from, left, lsn)
	}
	return nil
}

// descendant is the highest timeline that recovery can get to from lsn on timeline from.
func (h *History) descendant(from segment.Timeline, lsn segment.LSN) segment.Timeline {
	best := from
	for t := range h.Lineage {
		if t > best && h.Reach(from, lsn, t) == nil {
			best = t
		}
	}
	return best
}

// Leg is a piece of the way that recovery takes: on Timeline from Begin up to End, where the next leg
// begins (0: the last one, without an end).
type Leg struct {
	Timeline segment.Timeline `json:"timeline"`
	Begin    segment.LSN      `json:"begin"`
	End      segment.LSN      `json:"end,omitzero"`
}

// Path is the way from lsn on one timeline to another, which reach has agreed to.
func (h *History) Path(from segment.Timeline, lsn segment.LSN, to segment.Timeline) []Leg {
	var legs []Leg
	for _, a := range h.Lineage[to] {
		if a.Timeline >= from {
			legs = append(legs, Leg{a.Timeline, lsn, a.Switch})
			lsn = a.Switch
		}
	}
	return append(legs, Leg{Timeline: to, Begin: lsn})
}

// Forks are the timelines that neither lie on the way to one nor are it, for people.
func (h *History) Forks(to segment.Timeline) []string {
	var out []string
	for _, t := range h.sorted() {
		if _, on := h.Lineage[to].Left(t); on || t == to {
			continue
		}
		if l := h.Lineage[t]; len(l) > 0 {
			last := l[len(l)-1]
			out = append(out, fmt.Sprintf("timeline %d (left timeline %d at %s)", t, last.Timeline, last.Switch))
		} else {
			out = append(out, fmt.Sprintf("timeline %d", t))
		}
	}
	return out
}

func (h *History) sorted() []segment.Timeline {
	var all []segment.Timeline
	for t := range h.Lineage {
		all = append(all, t)
	}
	slices.Sort(all)
	return all
}

// String lists the timelines.
func (h *History) String() string {
	var names []string
	for _, t := range h.sorted() {
		names = append(names, fmt.Sprint(t))
	}
	return strings.Join(names, ", ")
}
