package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/survey"
)

// PitrWindow is one as --json prints it.
type PitrWindow struct {
	SystemID uint64    `json:"system_id,string"`
	Timeline uint32    `json:"timeline"`
	From     time.Time `json:"from"`
	To       time.Time `json:"to,omitzero"`
	LastWAL  string    `json:"last_wal"`
	Backups  []string  `json:"backups"` // that it can be restored from; each from its own consistent point on
	Why      string    `json:"ends_because"`
	At       []time.Time
}

// Windows are those on one timeline, oldest first. A backup of an ancestor reaches it when it was complete before
// the timelines parted, and no segment is missing on the path.
func (r Archive) Windows(ctx context.Context, store storage.Store, v *survey.Survey) ([]*PitrWindow, error) {
	var windows []*PitrWindow
	type ending struct {
		segment.Segment
		timed bool
	}
	ends := map[ending]*PitrWindow{}
	x := &commits{v, survey.NewSegments(store, r.Sysid)}
	minimal, err := v.Minimal(ctx, x.segments, r.Surveys)
	if err != nil {
		return nil, err
	}
	for _, e := range r.State.Complete() {
		b := e.Commit.Summary
		if b.SystemID != r.Sysid || len(v.Runs) == 0 || v.Orphan() || !v.Path().Passes(b.Timeline, b.StopLSN) {
			continue
		}
		first, err1 := segment.ParseName(b.FirstWAL, v.SegmentSize)
		last, err2 := segment.ParseName(b.LastWAL, v.SegmentSize)
		if err1 != nil || err2 != nil || r.Missing(e.ID, b).Segment != "" && b.Timeline == v.Timeline {
			continue
		}
		reach, ok := survey.Reach(r.Surveys, b.Timeline, first.No, v)
		if !ok || reach.Timeline != v.Timeline {
			continue // it ends on an ancestor, and is shown there
		}
		begin := v.Path().Last().Begin
		low := max(first.No, segment.At(v.Timeline, begin, v.SegmentSize).No, 1)
		cut := firstAfter(minimal, b.StartLSN)
		if cut > 0 && cut < begin {
			continue // it ends on an ancestor, too
		}
		end, err := x.end(ctx, low, reach, cut)
		if err != nil {
			return nil, err
		}
		if end.last.No < max(low, last.No) {
			continue // what is damaged keeps it from this timeline, or it needs that itself
		}
		if end.to.Before(b.Consistent) {
			end.to = time.Time{}
		}
		key := ending{end.last, !end.to.IsZero()}
		w := ends[key]
		if w == nil {
			w = &PitrWindow{SystemID: r.Sysid, Timeline: uint32(v.Timeline), From: b.Consistent, LastWAL: end.last.Name(v.SegmentSize), Why: end.why}
			ends[key] = w
			windows = append(windows, w)
		}
		w.Backups, w.At = append(w.Backups, e.ID), append(w.At, b.Consistent)
		if b.Consistent.Before(w.From) {
			w.From = b.Consistent
		}
		if w.To.Before(end.to) {
			w.To = end.to
		}
	}
	slices.SortFunc(windows, func(a, b *PitrWindow) int { return a.From.Compare(b.From) })
	return windows, nil
}

// windowEnd is the last segment of a window, why it ends there, and the last target time that its segments can prove to be
// reached; zero when no transaction has ended in them.
type windowEnd struct {
	last segment.Segment
	why  string
	to   time.Time
}

// commits finds the last commits of a timeline's segments.
type commits struct {
	*survey.Survey
	segments *survey.Segments
}

// firstAfter is the first place that is not before another one; 0: there is none.
func firstAfter(places []segment.LSN, from segment.LSN) segment.LSN {
	for _, p := range places {
		if p >= from {
			return p
		}
	}
	return 0
}

type lastCommit struct {
	at             time.Time
	found, damaged bool
}

// end is where recovery from segment low gets to, when no segment is missing up to reach: there, or before a damaged one, or
// at cut (if that is not 0), where wal_level is minimal.
func (x *commits) end(ctx context.Context, low uint64, reach segment.Segment, cut segment.LSN) (windowEnd, error) {
	e := windowEnd{last: reach, why: x.Name(reach.No+1) + " is missing"}
	switch at := segment.At(reach.Timeline, cut, x.SegmentSize); {
	case cut > 0 && (at.No <= reach.No || at.No == reach.No+1):
		e.last.No, e.why = min(at.No, reach.No), "from "+cut.String()+" on wal_level was minimal"
	case reach.No == x.Runs[len(x.Runs)-1].Last:
		e.why = "end of the archive"
		if seg, n := x.Received(); n > 0 {
			c, err := x.received(ctx)
			if err != nil {
				return e, err
			}
			if e.why = fmt.Sprintf("end of the archive, %s of %s", show.Size(n), seg.Name(x.SegmentSize)); c.damaged {
				e.why = "what was received of " + seg.Name(x.SegmentSize) + " is damaged"
			}
			if c.found {
				e.to = c.at.Add(-time.Microsecond)
				return e, nil
			}
		}
	}
	for no := e.last.No; no >= low; no-- {
		c, err := x.commit(ctx, no, cut)
		switch {
		case err != nil:
			return e, err
		case c.damaged:
			e.last.No, e.why = no-1, x.Name(no)+" is damaged"
		case c.found:
			e.to = c.at.Add(-time.Microsecond)
			return e, nil
		}
	}
	return e, nil
}

// commit is a segment's, all of it or what comes before until.
func (x *commits) commit(ctx context.Context, no uint64, until segment.LSN) (lastCommit, error) {
	facts, err := x.segments.Facts(ctx, x.Name(no))
	return x.judge(facts, until, err)
}

// received is the one in what was received of a segment.
func (x *commits) received(ctx context.Context) (lastCommit, error) {
	facts, err := x.ReceivedFacts(ctx, x.segments)
	if errors.Is(err, storage.ErrNotFound) { // the segment has been completed meanwhile
		return lastCommit{}, nil
	}
	return x.judge(facts, 0, err)
}

func (x *commits) judge(facts segment.Facts, until segment.LSN, err error) (lastCommit, error) {
	if errors.Is(err, object.ErrDamaged) {
		return lastCommit{damaged: true}, nil
	}
	at, found := facts.LastCommit(until)
	return lastCommit{at: at, found: found}, err
}
