package timeline

import (
	"cmp"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/walstore/segment"
)

// What follows is the code that this package takes the place of, as it stood in seven packages. It goes with them.

func left(h segment.Lineage, t segment.Timeline) (segment.LSN, bool) {
	for _, a := range h {
		if a.Timeline == t {
			return a.Switch, true
		}
	}
	return 0, false
}

// backup/recovery: Reach, without its words; known: it has a history file, or is timeline 1.
func oldReach(lineages map[segment.Timeline]segment.Lineage, from segment.Timeline, lsn segment.LSN, to segment.Timeline) bool {
	if from == to {
		return true
	}
	l, known := lineages[to]
	if !known {
		return false
	}
	at, ok := left(l, from)
	return ok && at >= lsn
}

func oldDescendant(lineages map[segment.Timeline]segment.Lineage, from segment.Timeline, lsn segment.LSN) segment.Timeline {
	best := from
	for t := range lineages {
		if t > best && oldReach(lineages, from, lsn, t) {
			best = t
		}
	}
	return best
}

func oldPath(lineages map[segment.Timeline]segment.Lineage, from segment.Timeline, lsn segment.LSN, to segment.Timeline) []Span {
	var legs []Span
	for _, a := range lineages[to] {
		if a.Timeline >= from {
			legs = append(legs, Span{a.Timeline, lsn, a.Switch})
			lsn = a.Switch
		}
	}
	return append(legs, Span{Timeline: to, Begin: lsn})
}

func oldNameOf(legs []Span, no uint64) segment.Segment {
	s := segment.Segment{Timeline: legs[0].Timeline, No: no}
	for _, leg := range legs[1:] {
		if segment.At(0, leg.Begin, size).No <= no {
			s.Timeline = leg.Timeline
		}
	}
	return s
}

// retention: tree.
type oldTree struct {
	lineages map[segment.Timeline]segment.Lineage
	all      map[segment.Timeline]bool
}

func newOldTree(known map[segment.Timeline]segment.Lineage) *oldTree {
	t := &oldTree{lineages: map[segment.Timeline]segment.Lineage{1: nil}, all: map[segment.Timeline]bool{}}
	for tli, lineage := range known {
		t.all[tli] = true
		if len(lineage) > 0 {
			t.lineages[tli] = lineage
		}
		for i, a := range lineage {
			t.all[a.Timeline] = true
			if _, ok := t.lineages[a.Timeline]; !ok {
				t.lineages[a.Timeline] = lineage[:i]
			}
		}
	}
	return t
}

func (t *oldTree) reaches(from segment.Timeline, stop segment.LSN, tli segment.Timeline) bool {
	if from == tli {
		return true
	}
	lineage, known := t.lineages[tli]
	if !known {
		return from < tli
	}
	at, ancestor := left(lineage, from)
	return ancestor && at >= stop
}

// walstore: Between and unlessForked.
func oldBetween(line segment.Lineage, last segment.Timeline, no uint64) segment.Segment {
	for _, a := range line {
		if no < segment.At(0, a.Switch, size).No {
			return segment.Segment{Timeline: a.Timeline, No: no}
		}
	}
	return segment.Segment{Timeline: last, No: no}
}

func oldForkedBehind(history segment.Lineage, missing segment.Segment) bool {
	at, ok := left(history, missing.Timeline)
	return ok && missing.No < segment.At(missing.Timeline, at, size).No
}

// backup/push: lineage.
func oldLineage(line segment.Lineage, of segment.Timeline, begin, stop segment.LSN, tli segment.Timeline, lsn segment.LSN) []Span {
	var wal []Span
	from := begin
	for _, a := range line {
		if a.Timeline < of {
			continue
		}
		if len(wal) == 0 && (a.Timeline != of || a.Switch < stop) {
			return nil
		}
		wal = append(wal, Span{a.Timeline, from, a.Switch})
		from = a.Switch
	}
	if len(wal) == 0 {
		return nil
	}
	return append(wal, Span{tli, from, lsn})
}

// walstore/receive: position.
func oldPosition(next map[segment.Timeline]uint64, tli segment.Timeline, ancestors segment.Lineage) (segment.Segment, bool) {
	if next, ok := next[tli]; ok {
		return segment.Segment{Timeline: tli, No: next}, true
	}
	for i := len(ancestors) - 1; i >= 0; i-- {
		a := ancestors[i]
		begin := segment.At(a.Timeline, a.Switch, size).No
		if next, ok := next[a.Timeline]; ok {
			if next < begin {
				return segment.Segment{Timeline: a.Timeline, No: next}, true
			}
			return segment.Segment{Timeline: tli, No: begin}, true
		}
		tli = a.Timeline
	}
	return segment.Segment{}, false
}

// walstore/survey: Reach and Gaps.
type oldSurvey struct {
	Timeline segment.Timeline
	Runs     []Run
	Lineage  segment.Lineage
}

func oldSurveyReach(all []*oldSurvey, from segment.Timeline, no uint64, to *oldSurvey) (segment.Segment, bool) {
	stretch := append(slices.Clone(to.Lineage), segment.Ancestor{Timeline: to.Timeline, Switch: ^segment.LSN(0)})
	i := slices.IndexFunc(stretch, func(a segment.Ancestor) bool { return a.Timeline == from })
	if i < 0 {
		return segment.Segment{}, false
	}
	last, found := segment.Segment{}, false
	for ; i < len(stretch); i++ {
		end := ^uint64(0)
		if i < len(stretch)-1 {
			end = segment.At(0, stretch[i].Switch, size).No - 1
		}
		if no > end {
			continue
		}
		v := slices.IndexFunc(all, func(v *oldSurvey) bool { return v.Timeline == stretch[i].Timeline })
		if v < 0 {
			return last, found
		}
		r := slices.IndexFunc(all[v].Runs, func(r Run) bool { return r.First <= no && no <= r.Last })
		if r < 0 {
			return last, found
		}
		last, found = segment.Segment{Timeline: stretch[i].Timeline, No: min(end, all[v].Runs[r].Last)}, true
		if all[v].Runs[r].Last < end {
			return last, found
		}
		no = end + 1
	}
	return last, found
}

func oldGaps(all []*oldSurvey, v *oldSurvey) []Range {
	var gaps []Range
	runs := v.Runs
	for i := 1; i < len(runs); i++ {
		if first, next := runs[i-1].Last+1, runs[i].First; first < next {
			gaps = append(gaps, v.gap(first, next-1))
		}
	}
	if len(runs) > 0 {
		gaps = append(gaps, v.gapsBefore(all, runs[0].First)...)
	}
	slices.SortFunc(gaps, byName)
	return gaps
}

func byName(a, b Range) int {
	return strings.Compare(segment.Segment{Timeline: a.Timeline, No: a.First}.Name(size), segment.Segment{Timeline: b.Timeline, No: b.First}.Name(size))
}

func (v *oldSurvey) gap(first, last uint64) Range { return Range{v.Timeline, Run{first, last}} }

func (v *oldSurvey) gapsBefore(all []*oldSurvey, no uint64) (gaps []Range) {
	line := make([]oldStretch, len(v.Lineage))
	oldest := len(line)
	for i := len(line) - 1; i >= 0; i-- {
		if line[i] = v.stretch(all, v.Lineage[i]); line[i].any() {
			oldest = i
		}
	}
	for i := len(line) - 1; i >= oldest; i-- {
		a := line[i]
		if a.end < no {
			gaps = append(gaps, v.gap(a.end, no-1))
		}
		v, no = a.oldSurvey, a.end
		if a.any() {
			no = a.Runs[0].First
			if last := a.Runs[len(a.Runs)-1].Last; last+1 < a.end {
				gaps = append(gaps, a.gap(last+1, a.end-1))
			}
		}
		if len(a.Runs) > 0 && a.Lineage != nil {
			break
		}
	}
	return gaps
}

type oldStretch struct {
	*oldSurvey
	end uint64
}

func (v *oldSurvey) stretch(all []*oldSurvey, a segment.Ancestor) oldStretch {
	end := segment.At(a.Timeline, a.Switch, size).No
	if i := slices.IndexFunc(all, func(s *oldSurvey) bool { return s.Timeline == a.Timeline }); i >= 0 {
		return oldStretch{all[i], end}
	}
	return oldStretch{&oldSurvey{Timeline: a.Timeline}, end}
}

func (s oldStretch) any() bool { return len(s.Runs) > 0 && s.Runs[0].First < s.end }

// cmd/cli/app: LinesOf, as a set.
func oldLinesOf(all []*oldSurvey, tli segment.Timeline, stop segment.LSN) []segment.Timeline {
	lines := []segment.Timeline{tli}
	for _, s := range all {
		if at, ok := left(s.Lineage, tli); !ok || at < stop {
			continue
		}
		for _, a := range s.Lineage {
			if a.Timeline > tli {
				lines = append(lines, a.Timeline)
			}
		}
		lines = append(lines, s.Timeline)
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

// newGaps is how walstore/survey is to do it: the gaps on the path that no ancestor tells of.
func newGaps(all []*oldSurvey, v *oldSurvey, held Held) (gaps []Range) {
	if len(v.Runs) == 0 {
		return nil
	}
	p := To(v.Timeline, v.Lineage)
	for _, g := range p.Gaps(held, size) {
		if !slices.ContainsFunc(all, func(a *oldSurvey) bool { return a != v && p.index(a.Timeline) >= 0 && a.tells(g) }) {
			gaps = append(gaps, g)
		}
	}
	return gaps
}

func (v *oldSurvey) tells(g Range) bool {
	n := len(v.Runs)
	if n == 0 || g.Timeline > v.Timeline || g.Timeline == v.Timeline && g.First > v.Runs[n-1].Last {
		return false
	}
	return v.Lineage != nil || g.Timeline == v.Timeline && g.First > v.Runs[0].First
}

// Old and new answer alike, for random trees and archives in which history files and whole timelines are missing.
func TestOldAndNewAnswerAlike(t *testing.T) {
	counts := map[string]int{}
	worlds(t, func(t *testing.T, w *world) {
		lost := Tree{1: nil}
		own := map[segment.Timeline]segment.Lineage{1: nil}
		known := map[segment.Timeline]segment.Lineage{}
		var all []*oldSurvey
		for _, tli := range w.tree.Timelines() {
			if w.IntN(6) == 0 { // nothing of it is there
				delete(w.held, tli)
				continue
			}
			lost[tli] = w.tree[tli]
			if w.IntN(6) == 0 {
				lost[tli] = nil
			}
			if len(lost[tli]) > 0 {
				own[tli] = lost[tli]
			}
			known[tli] = lost[tli]
			all = append(all, &oldSurvey{tli, w.held[tli], lost[tli]})
		}
		whole := lost.WithAncestors()
		old := newOldTree(known)
		from, lsn := w.position()
		same := func(what string, got, want bool) {
			counts[what+map[bool]string{true: " yes", false: " no"}[want]]++
			if got != want {
				t.Errorf("%s: %v, was %v (from %s on %d; lost %v)", what, got, want, lsn, from, lost)
			}
		}
		if got, want := slices.Max(lost.Descendants(from, lsn)), oldDescendant(own, from, lsn); got != want {
			t.Errorf("descendant %d, was %d", got, want)
		}
		if got, want := whole.Descendants(from, lsn), oldLinesOf(all, from, lsn); !slices.Equal(got, want) {
			t.Errorf("lines %v, were %v", got, want)
		}
		for tli := segment.Timeline(1); tli < 12; tli++ {
			same("reach", lost.Path(tli).Passes(from, lsn), oldReach(own, from, lsn, tli))
			_, knownBefore := old.lineages[tli]
			same("known", whole.Known(tli), knownBefore)
			same("there", slices.Contains(whole.Timelines(), tli), old.all[tli] || tli == 1)
			same("retention", whole.Path(tli).Passes(from, lsn) || !whole.Known(tli) && from < tli, old.reaches(from, lsn, tli))
		}
		for _, to := range w.tree.Timelines() {
			p := w.tree.Path(to)
			no := w.Uint64N(30)
			if got, want := p.Segment(no, size), oldBetween(w.tree[to], to, no); got != want {
				t.Errorf("between: %v, was %v", got, want)
			}
			missing := segment.Segment{Timeline: from, No: no}
			if first := segment.At(0, w.tree.Path(from).Last().Begin, size).No; from < to && no >= first { // before that it is no segment
				same("forked behind", p.Segment(no, size) == missing, oldForkedBehind(w.tree[to], missing))
			}
			next := map[segment.Timeline]uint64{}
			for tli, runs := range w.held {
				next[tli] = runs[len(runs)-1].Last + 1
			}
			got, ok := newPosition(p, next)
			if want, found := oldPosition(next, to, w.tree[to]); got != want || ok != found {
				t.Errorf("position %v %v, was %v %v", got, ok, want, found)
			}
			if !p.Passes(from, lsn) {
				if from != to && oldLineage(w.tree[to], from, lsn, lsn, to, w.ends[to]) != nil {
					t.Errorf("there was a lineage")
				}
				continue
			}
			if got, want := p.From(from, lsn), Path(oldPath(w.tree, from, lsn, to)); !slices.Equal(got, want) {
				t.Errorf("path %v, was %v", got, want)
			}
			no += segment.At(0, lsn, size).No
			if got, want := p.From(from, lsn).Segment(no, size), oldNameOf(p.From(from, lsn), no); got != want {
				t.Errorf("name %v, was %v", got, want)
			}
			if from != to {
				wal := p.From(from, lsn)
				wal[len(wal)-1].End = w.ends[to]
				if want := oldLineage(w.tree[to], from, lsn, lsn, to, w.ends[to]); !slices.Equal(wal, Path(want)) {
					t.Errorf("lineage %v, was %v", wal, want)
				}
			}
		}
		for _, v := range all {
			gaps, want := newGaps(all, v, w.held), oldGaps(all, v)
			counts["gaps"] += len(want)
			if !slices.Equal(gaps, want) {
				t.Errorf("gaps of %d %v, were %v (lost %v)", v.Timeline, gaps, want, lost)
			}
			p := To(v.Timeline, v.Lineage)
			if !p.Passes(from, lsn) {
				continue
			}
			first := segment.At(0, lsn, size).No
			got, ok := p.From(from, segment.Segment{No: first}.Start(size)).Reach(w.held, size)
			if x, found := oldSurveyReach(all, from, first, v); got != x || ok != found {
				t.Errorf("reach of %d %v, was %v", v.Timeline, got, x)
			}
			counts["reach"] += cmp.Compare(int(got.Timeline), 0)
		}
	})
	t.Log(counts)
}

func newPosition(p Path, next map[segment.Timeline]uint64) (segment.Segment, bool) {
	for i, s := range slices.Backward(p) {
		no, ok := next[s.Timeline]
		if ok && i < len(p)-1 && no >= segment.At(0, s.End, size).No {
			return segment.At(p[i+1].Timeline, s.End, size), true
		}
		if ok {
			return segment.Segment{Timeline: s.Timeline, No: no}, true
		}
	}
	return segment.Segment{}, false
}
