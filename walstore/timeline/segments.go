package timeline

import (
	"math"
	"slices"

	"github.com/pgobj/pgobj/walstore/segment"
)

// Run is segments of one timeline that follow each other, by the numbers of the first and the last.
type Run struct{ First, Last uint64 }

// Range is the segments First to Last of a timeline.
type Range struct {
	Timeline segment.Timeline
	Run
}

// Held is the segments that somebody has of each timeline: runs in rising order, each after a gap.
type Held map[segment.Timeline][]Run

// Extend adds a segment that comes after all in runs.
func Extend(runs []Run, no uint64) []Run {
	if n := len(runs); n > 0 && runs[n-1].Last+1 == no {
		runs[n-1].Last = no
		return runs
	}
	return append(runs, Run{no, no})
}

// Ranges are the segments that a recovery along the path reads: of each timeline those up to the one before the segment
// in which it is left, which is read from the next one. The last Range ends at the highest number. A timeline
// that is left in the segment in which it begins has none.
func (p Path) Ranges(size segment.Size) (all []Range) {
	for i, s := range p {
		first, end := segment.At(s.Timeline, s.Begin, size).No, uint64(math.MaxUint64)
		if i < len(p)-1 {
			end = segment.At(s.Timeline, s.End, size).No
		}
		if first < end {
			all = append(all, Range{s.Timeline, Run{first, end - 1}})
		}
	}
	return all
}

// Segment is the one that has a number and is read along the path. Of numbers before the path it is the first timeline's.
func (p Path) Segment(no uint64, size segment.Size) segment.Segment {
	all := p.Ranges(size)
	i := slices.IndexFunc(all, func(r Range) bool { return no <= r.Last })
	return segment.Segment{Timeline: all[i].Timeline, No: no}
}

// Gaps are the segments of the path that are not held and lie between two that are, in the order of the path.
func (p Path) Gaps(held Held, size segment.Size) (gaps []Range) {
	var missing []Range // since the last one that is held
	begun := false
	for _, need := range p.Ranges(size) {
		for _, run := range held[need.Timeline] {
			run = Run{max(run.First, need.First), min(run.Last, need.Last)}
			if run.First > run.Last {
				continue
			}
			if need.First < run.First {
				missing = append(missing, Range{need.Timeline, Run{need.First, run.First - 1}})
			}
			if begun {
				gaps = append(gaps, missing...)
			}
			missing, begun, need.First = nil, true, run.Last+1
		}
		if need.First <= need.Last {
			missing = append(missing, need)
		}
	}
	return gaps
}

// Reach is the last segment that a recovery from the beginning of the path on gets to without a gap; false when not
// even the first one is held.
func (p Path) Reach(held Held, size segment.Size) (last segment.Segment, ok bool) {
	for _, need := range p.Ranges(size) {
		runs := held[need.Timeline]
		i := slices.IndexFunc(runs, func(r Run) bool { return r.First <= need.First && need.First <= r.Last })
		if i < 0 {
			break
		}
		last, ok = segment.Segment{Timeline: need.Timeline, No: min(runs[i].Last, need.Last)}, true
		if runs[i].Last < need.Last {
			break
		}
	}
	return last, ok
}
