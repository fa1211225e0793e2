package timeline

import (
	"slices"

	"github.com/pgobj/pgobj/walstore/segment"
)

// Span is the WAL of one timeline from Begin up to End (excluded), where the next span of a path begins. The last span
// of a path has no end, and End is 0.
type Span struct {
	Timeline segment.Timeline `json:"timeline"`
	Begin    segment.LSN      `json:"begin"`
	End      segment.LSN      `json:"end,omitzero"`
}

// Path is the WAL that leads to a timeline, the oldest first.
type Path []Span

// To is the path to a timeline with these ancestors. It begins at 0/0 with the oldest.
func To(tli segment.Timeline, ancestors segment.Lineage) Path {
	p, begin := Path{}, segment.LSN(0)
	for _, a := range ancestors {
		p = append(p, Span{a.Timeline, begin, a.Switch})
		begin = a.Switch
	}
	return append(p, Span{Timeline: tli, Begin: begin})
}

// Last is the span of the timeline that the path leads to.
func (p Path) Last() Span { return p[len(p)-1] }

func (p Path) index(tli segment.Timeline) int {
	return slices.IndexFunc(p, func(s Span) bool { return s.Timeline == tli })
}

// Left is where the path leaves a timeline, the highest LSN for the last one, and whether it is on the path at all.
func (p Path) Left(tli segment.Timeline) (at segment.LSN, on bool) {
	switch i := p.index(tli); i {
	case -1:
		return 0, false
	case len(p) - 1:
		return ^segment.LSN(0), true
	default:
		return p[i].End, true
	}
}

// Passes says whether what comes before lsn on a timeline is on the path, so that a recovery which is consistent at
// lsn can follow it. The timeline is on the path, and has not been left before lsn.
func (p Path) Passes(tli segment.Timeline, lsn segment.LSN) bool {
	left, on := p.Left(tli)
	return on && left >= lsn
}

// From is the rest of the path from a position on; nil when the timeline is not on it.
func (p Path) From(tli segment.Timeline, lsn segment.LSN) Path {
	i := p.index(tli)
	if i < 0 {
		return nil
	}
	rest := slices.Clone(p[i:])
	rest[0].Begin = lsn
	return rest
}

// TimelineAt is the timeline of the byte at lsn; 0 when that comes before the path.
func (p Path) TimelineAt(lsn segment.LSN) (tli segment.Timeline) {
	for _, s := range p {
		if s.Begin <= lsn {
			tli = s.Timeline
		}
	}
	return tli
}
