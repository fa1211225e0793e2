package retention

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// Tolerance is how far in the future a backup may be dated and still count: hosts' clocks differ.
const Tolerance = time.Hour

// History is what a decision is made from.
type History struct {
	State *catalog.State
	// Timelines are those that the archive knows of each incarnation. One whose history cannot be had is an orphan.
	Timelines map[uint64]timeline.Tree
	// Unreadable backups are complete as the log has it, but their backup.json is gone or damaged; why, by id.
	Unreadable map[string]string
	// Damaged backups have a backup.json that can be read, but not all that it refers to is there; what is wrong, by id.
	Damaged map[string]string
}

// point is where in the tree of timelines a backup begins, and from where on it is consistent.
type point struct {
	timeline    segment.Timeline
	start, stop segment.LSN
}

func pointOf(e *catalog.Entry) point {
	s := e.Commit.Summary
	return point{s.Timeline, s.StartLSN, s.StopLSN}
}

// tree is the timelines of one incarnation, with what the histories tell of those whose own is missing.
type tree struct{ timeline.Tree }

// newTree is the timelines that the archive knows, and others that there are.
func newTree(known timeline.Tree, others []segment.Timeline) tree {
	t := timeline.Tree{}
	for _, tli := range others {
		t[tli] = nil
	}
	maps.Copy(t, known)
	return tree{t.WithAncestors()}
}

// reaches says whether recovery from p can get to timeline tli: the path to it passes where p is consistent. Of a
// timeline without a known history it says yes when that may be.
func (t tree) reaches(p point, tli segment.Timeline) bool {
	return t.Path(tli).Passes(p.timeline, p.stop) || !t.Known(tli) && p.timeline < tli
}

// branch is a timeline of an incarnation.
type branch struct {
	sysid uint64
	tli   segment.Timeline
}

// view is a History in the shape that decisions need.
type view struct {
	History
	now          time.Time
	incarnations []uint64       // system identifiers, oldest first
	since, until map[uint64]int // of each, the first and last record that says so: an upgrade may have been taken back
	sizes        map[uint64]segment.Size
	trees        map[uint64]tree
	gone         map[branch][][2]uint64 // ranges of segments that have been deleted
	complete     []*catalog.Entry       // in the order of their commits
	good         []*catalog.Entry       // those of them that count
	sound        []*catalog.Entry       // with those that have damaged pages
	ref          time.Time              // spans count from here back
}

func newView(h History, now time.Time) *view {
	v := &view{History: h, now: now, sizes: map[uint64]segment.Size{}, trees: map[uint64]tree{}, since: map[uint64]int{}, until: map[uint64]int{}}
	for i, s := range h.State.Servers {
		if _, again := v.since[s.SystemID]; !again {
			v.since[s.SystemID] = i
		}
		v.until[s.SystemID] = i
		v.incarnations = slices.DeleteFunc(v.incarnations, func(id uint64) bool { return id == s.SystemID })
		v.incarnations = append(v.incarnations, s.SystemID)
		v.sizes[s.SystemID] = s.SegmentSize
	}
	v.gone = gone(h.State.WAL, v.sizes)
	v.complete = h.State.Complete()
	others := map[uint64][]segment.Timeline{}
	for _, e := range v.complete {
		others[e.Commit.Summary.SystemID] = append(others[e.Commit.Summary.SystemID], e.Commit.Summary.Timeline)
		if h.Unreadable[e.ID] == "" && h.Damaged[e.ID] == "" && !v.future(e) {
			v.sound = append(v.sound, e)
			if e.Commit.Summary.DamagedPages == 0 {
				v.good = append(v.good, e)
			}
		}
	}
	for _, id := range v.incarnations {
		v.trees[id] = newTree(h.Timelines[id], others[id])
	}
	// Spans count from the newest good backup, not from now: so time alone never makes a backup superfluous,
	// neither while backups fail unseen nor under a clock that runs ahead. Only newer good backups do.
	v.ref = now
	if n := len(v.good); n > 0 && v.good[n-1].Commit.Summary.Consistent.Before(now) {
		v.ref = v.good[n-1].Commit.Summary.Consistent
	}
	return v
}

// future says whether a backup is dated where no clock can be yet: such a one, or many, must not push out others.
func (v *view) future(e *catalog.Entry) bool {
	limit := v.now.Add(Tolerance)
	return e.Commit.Summary.Started.After(limit) || e.Commit.Summary.Consistent.After(limit)
}

// tree of an incarnation; one that the log has no server record of has no timelines.
func (v *view) tree(sysid uint64) tree {
	return v.trees[sysid]
}

// gone is the WAL that earlier deletions condemned.
func gone(wal []catalog.WALRange, sizes map[uint64]segment.Size) map[branch][][2]uint64 {
	out := map[branch][][2]uint64{}
	for _, w := range wal {
		size := sizes[w.SystemID]
		if !size.Valid() {
			continue
		}
		first, err1 := segment.ParseName(w.First, size)
		last, err2 := segment.ParseName(w.Last, size)
		if err1 == nil && err2 == nil {
			k := branch{w.SystemID, first.Timeline}
			out[k] = append(out[k], [2]uint64{first.No, last.No})
		}
	}
	for _, ranges := range out { // which never overlap: the log's state joins those that do
		slices.SortFunc(ranges, func(a, b [2]uint64) int { return cmp.Compare(a[0], b[0]) })
	}
	return out
}

// gap says whether some of the segments from..to of a timeline have been deleted.
func (v *view) gap(sysid uint64, tli segment.Timeline, from, to uint64) bool {
	ranges := v.gone[branch{sysid, tli}]
	i, _ := slices.BinarySearchFunc(ranges, from, func(g [2]uint64, from uint64) int { return cmp.Compare(g[1], from) })
	return i < len(ranges) && ranges[i][0] <= to
}

// reaches says whether recovery from backup e can get to a timeline of its own incarnation and along it: it lies
// on the path to it, and no WAL on that has been deleted.
func (v *view) reaches(e *catalog.Entry, tli segment.Timeline) bool {
	s := e.Commit.Summary
	t, p := v.tree(s.SystemID), pointOf(e)
	if !t.reaches(p, tli) {
		return false
	}
	path := t.Path(tli).From(p.timeline, p.start)
	if path == nil {
		return true // along a path that nobody knows
	}
	first, _ := v.segments(e)
	from := first.No
	for _, span := range path[:len(path)-1] { // with the segment in which a timeline is left: the next one may not have its own yet
		if v.gap(s.SystemID, span.Timeline, from, segment.Before(span.Timeline, span.End, v.sizes[s.SystemID]).No) {
			return false
		}
		from = segment.At(span.Timeline, span.End, v.sizes[s.SystemID]).No
	}
	return !v.gap(s.SystemID, tli, from, math.MaxUint64)
}

// anchors are the backups of list that recovery to the times from t on has to begin with: for each timeline on
// which the server may have been at t or later, the newest one that was consistent by t, else the oldest there
// is. Timelines count up with time: those before the newest that has a backup by t are over, and so are the
// incarnations before that of the newest backup by t.
func (v *view) anchors(list []*catalog.Entry, t time.Time) []*catalog.Entry {
	var newest time.Time
	first, firstTLI := 0, map[uint64]segment.Timeline{}
	for _, e := range list {
		s := e.Commit.Summary
		if s.Consistent.After(t) {
			continue
		}
		if !s.Consistent.Before(newest) {
			newest, first = s.Consistent, v.since[s.SystemID]
		}
		firstTLI[s.SystemID] = max(firstTLI[s.SystemID], s.Timeline)
	}
	var out []*catalog.Entry
	for _, sysid := range v.incarnations {
		if v.until[sysid] < first {
			continue
		}
		for _, tli := range v.tree(sysid).Timelines() {
			if tli < firstTLI[sysid] {
				continue
			}
			for _, a := range v.anchor(list, sysid, tli, t) {
				if !slices.Contains(out, a) {
					out = append(out, a)
				}
			}
		}
	}
	return out
}

// anchor is that for one timeline. When nobody tells where that one comes from, it may be any that is older. A
// backup after which WAL was deleted, under another policy, reaches only its own end, and nothing else does:
// it is one more.
func (v *view) anchor(list []*catalog.Entry, sysid uint64, tli segment.Timeline, t time.Time) []*catalog.Entry {
	var before, after, cut *catalog.Entry
	var out []*catalog.Entry
	at := func(e *catalog.Entry) time.Time { return e.Commit.Summary.Consistent }
	for _, e := range list {
		switch {
		case e.Commit.Summary.SystemID != sysid || !v.tree(sysid).reaches(pointOf(e), tli):
		case !v.tree(sysid).Known(tli) && e.Commit.Summary.Timeline < tli:
			out = append(out, e)
		case !v.reaches(e, tli) && at(e).After(t):
			out = append(out, e)
		case !v.reaches(e, tli):
			if cut == nil || !at(e).Before(at(cut)) {
				cut = e
			}
		case at(e).After(t):
			if after == nil || at(e).Before(at(after)) {
				after = e
			}
		case before == nil || !at(e).Before(at(before)):
			before = e
		}
	}
	if cut != nil && (before == nil || at(cut).After(at(before))) {
		out = append(out, cut)
	}
	if a := cmp.Or(before, after); a != nil {
		out = append(out, a)
	}
	return out
}
