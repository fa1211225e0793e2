package retention

import (
	"cmp"
	"math"
	"slices"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/walstore/segment"
)

// End is the number of a range's last segment when it has no end.
const End = math.MaxUint64

// WAL is what becomes of the segments From to To (or End) of one timeline, and why. The ranges of a timeline
// follow each other without gap, from segment 0 to End.
type WAL struct {
	SystemID uint64           `json:"system_id,string"`
	Timeline segment.Timeline `json:"timeline"`
	Size     segment.Size     `json:"-"`
	From, To uint64           `json:"-"`
	Keep     bool             `json:"keep"`
	Reason   string           `json:"reason"`
}

// need is a range of segments that something needs.
type need struct {
	from, to uint64
	why      string
}

func (v *view) span(sysid uint64, tli segment.Timeline, from, to uint64, keep bool, why string) WAL {
	return WAL{SystemID: sysid, Timeline: tli, Size: v.sizes[sysid], From: from, To: to, Keep: keep, Reason: why}
}

// wal decides about all WAL of the incarnations that the log knows. WAL of others is not spoken of: what is
// unknown is no garbage.
func (k *keeper) wal(decisions []Decision) []WAL {
	var out []WAL
	for i, sysid := range k.incarnations {
		var kept []Decision
		for _, d := range decisions {
			if d.Keep && d.Entry.Status == catalog.Complete && d.Entry.Commit.Summary.SystemID == sysid {
				kept = append(kept, d)
			}
		}
		current := i == len(k.incarnations)-1
		for _, tli := range k.tree(sysid).Timelines() {
			out = append(out, k.timeline(sysid, tli, kept, current)...)
		}
	}
	return out
}

// timeline decides about one timeline, given the backups of its incarnation that stay.
func (k *keeper) timeline(sysid uint64, tli segment.Timeline, kept []Decision, current bool) []WAL {
	all := func(keep bool, why string) []WAL { return []WAL{k.span(sysid, tli, 0, End, keep, why)} }
	needs, unknown := k.runs(sysid, tli)
	if unknown != "" {
		return all(true, unknown)
	}
	newest := segment.Timeline(0)
	for _, d := range kept {
		needs = append(needs, k.needs(d, tli)...)
		newest = max(newest, d.Entry.Commit.Summary.Timeline)
	}
	follows := slices.ContainsFunc(kept, func(d Decision) bool { return !d.Alone })
	switch {
	case current && !follows:
		return all(true, "no backup exists yet on which this WAL could be replayed")
	case len(needs) > 0:
	case current && tli > newest:
		return all(true, "newer than all backups: it may be the server's current timeline")
	case len(kept) == 0:
		return all(false, "no backup of this incarnation is kept")
	default:
		return all(false, "no backup that is kept can be recovered along this timeline")
	}
	return k.fill(sysid, tli, needs)
}

// needs are the segments of a timeline that a backup which stays needs.
func (k *keeper) needs(d Decision, tli segment.Timeline) []need {
	e := d.Entry
	first, last := k.segments(e)
	var out []need
	if first.Timeline == tli {
		out = append(out, need{first.No, last.No, "makes backup " + e.ID + " consistent"})
	}
	if d.Alone || !k.reaches(e, tli) {
		return out
	}
	from, why := first.No, "recovery from backup "+e.ID+" on"
	if known := k.tree(e.Commit.Summary.SystemID).Known(tli); known && first.Timeline != tli {
		from = 0 // all that is on a timeline comes after what it branched off from
	} else if !known && first.Timeline != tli {
		why += "; the archive does not have the history of this timeline"
	}
	return append(out, need{from, End, why})
}

// runs are the segments that running backups need, as far as the log tells where they began; else why all has
// to stay.
func (k *keeper) runs(sysid uint64, tli segment.Timeline) (needs []need, unknown string) {
	for _, e := range k.State.Entries {
		if !k.running(e) || e.Begin.SystemID != sysid {
			continue
		}
		b := e.Begin
		if b.LSN == 0 {
			return nil, "backup " + e.ID + " is running, and the catalog does not say from where on it needs WAL"
		}
		t := k.tree(sysid)
		from := segment.At(b.Timeline, b.LSN, k.sizes[sysid]).No
		if t.Known(tli) && tli != b.Timeline {
			from = 0
		}
		if t.reaches(point{b.Timeline, b.LSN, b.LSN}, tli) {
			needs = append(needs, need{from, End, "backup " + e.ID + " is running"})
		}
	}
	return needs, ""
}

// fill makes a gapless list of what is needed and what is not.
func (k *keeper) fill(sysid uint64, tli segment.Timeline, needs []need) []WAL {
	slices.SortStableFunc(needs, func(a, b need) int {
		return cmp.Or(cmp.Compare(a.from, b.from), -cmp.Compare(a.to, b.to))
	})
	var out []WAL
	next := uint64(0) // the first segment that is not decided about yet
	for _, n := range needs {
		if len(out) > 0 && out[len(out)-1].To == End || n.to != End && n.to < next {
			continue
		}
		if n.from > next {
			why := "before the WAL that the kept backups need"
			if len(out) > 0 {
				why = "between backups that keep only the WAL that makes them consistent"
			}
			out = append(out, k.span(sysid, tli, next, n.from-1, false, why))
			next = n.from
		}
		out = append(out, k.span(sysid, tli, next, n.to, true, n.why))
		next = n.to + 1 // End wraps, and nothing follows it
	}
	if last := out[len(out)-1]; last.To != End {
		out = append(out, k.span(sysid, tli, next, End, false, "after backups that keep only the WAL that makes them consistent"))
	}
	return out
}
