package timeline_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/storage/mem"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/survey"
	"github.com/pgobj/pgobj/walstore/timeline"
)

const size = segment.Size(1 << 20)

// world is a random tree of timelines, and what an archive has of them.
type world struct {
	*rand.Rand
	tree timeline.Tree
	ends map[segment.Timeline]segment.LSN // how far each timeline was written
	held timeline.Held
}

// worlds calls a test with many of them. Switch points often fall into one segment, or on its first byte.
func worlds(t *testing.T, test func(t *testing.T, w *world)) {
	for seed := range uint64(3000) {
		w := &world{rand.New(rand.NewPCG(seed, 1)), timeline.Tree{1: nil}, map[segment.Timeline]segment.LSN{}, timeline.Held{}}
		w.ends[1] = w.after(w.begin(1))
		for next := segment.Timeline(2); w.IntN(6) > 0; next += segment.Timeline(1 + w.IntN(8)/7) {
			parent := w.any(w.tree.Timelines())
			begin := w.begin(parent)
			at := begin + segment.LSN(w.Uint64N(uint64(w.ends[parent]-begin)+1))
			if w.IntN(4) == 0 {
				at = max(begin, at/segment.LSN(size)*segment.LSN(size))
			}
			w.tree[next] = append(slices.Clone(w.tree[parent]), segment.Ancestor{Timeline: parent, Switch: at})
			w.ends[next] = w.after(at)
		}
		for _, tli := range w.tree.Timelines() {
			w.archive(tli)
		}
		test(t, w)
		if t.Failed() {
			t.Fatalf("world %d: tree %v, held %v", seed, w.tree, w.held)
		}
	}
}

func (w *world) after(lsn segment.LSN) segment.LSN {
	return lsn + segment.LSN(w.Uint64N(8*uint64(size)))
}

// begin is where a timeline begins: the first at segment 1 (BootStrapXLOG).
func (w *world) begin(tli segment.Timeline) segment.LSN {
	return max(w.tree.Path(tli).Last().Begin, segment.LSN(size))
}

func (w *world) any(all []segment.Timeline) segment.Timeline { return all[w.IntN(len(all))] }

// archive holds the segments of a timeline, but for some.
func (w *world) archive(tli segment.Timeline) {
	share := w.IntN(4)
	begin := segment.At(tli, w.begin(tli), size).No
	for no := begin; segment.LSN(no)*segment.LSN(size) < w.ends[tli]; no++ {
		if w.IntN(4) < share || share == 3 {
			w.held[tli] = timeline.Extend(w.held[tli], no)
		}
	}
}

// has says whether the archive holds a segment.
func (w *world) has(s segment.Segment) bool {
	return slices.ContainsFunc(w.held[s.Timeline], func(r timeline.Run) bool { return r.First <= s.No && s.No <= r.Last })
}

// position is where some timeline was at some time, often when another one came from it.
func (w *world) position() (segment.Timeline, segment.LSN) {
	tli := w.any(w.tree.Timelines())
	if last := w.tree[tli]; len(last) > 0 && w.IntN(4) == 0 {
		return last[len(last)-1].Timeline, last[len(last)-1].Switch
	}
	begin := w.begin(tli)
	return tli, begin + segment.LSN(w.Uint64N(uint64(w.ends[tli]-begin)+1))
}

// ancestry is the timelines from tli back to the first, each with where it was left, by asking each for its parent only.
func (w *world) ancestry(tli segment.Timeline) map[segment.Timeline]segment.LSN {
	left := map[segment.Timeline]segment.LSN{tli: ^segment.LSN(0)}
	for len(w.tree[tli]) > 0 {
		parent := w.tree[tli][len(w.tree[tli])-1]
		left[parent.Timeline] = parent.Switch
		tli = parent.Timeline
	}
	return left
}

// A path passes what an ancestor wrote before it was left for the next, and each byte has one timeline.
func TestPathFollowsParents(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		from, lsn := w.position()
		var reached []segment.Timeline
		for _, to := range w.tree.Timelines() {
			left := w.ancestry(to)
			at, on := left[from]
			if got := w.tree.Path(to).Passes(from, lsn); got != (on && lsn <= at) {
				t.Errorf("the path to %d passes %s on %d: %v", to, lsn, from, got)
			}
			if on && lsn <= at {
				reached = append(reached, to)
			}
			_, x := w.position()
			byteOn := segment.Timeline(0) // the oldest one that was left behind x
			for tli, end := range left {
				if x < end && (byteOn == 0 || tli < byteOn) {
					byteOn = tli
				}
			}
			if got := w.tree.Path(to).TimelineAt(x); got != byteOn {
				t.Errorf("at %s the path to %d is on %d, want %d", x, to, got, byteOn)
			}
		}
		if got := w.tree.Descendants(from, lsn); !slices.Equal(got, reached) {
			t.Errorf("from %s on %d: %v, want %v", lsn, from, got, reached)
		}
	})
}

// wanted is the segment that XLogFileReadAnyTLI asks for first, of those with this number: that of the newest timeline on
// the path which has begun by then.
func wanted(p timeline.Path, no uint64) segment.Segment {
	for _, s := range slices.Backward(p) {
		if segment.At(0, s.Begin, size).No <= no {
			return segment.Segment{Timeline: s.Timeline, No: no}
		}
	}
	return segment.Segment{Timeline: p[0].Timeline, No: no}
}

// gaps are the segments of a path, up to a number, that the archive lacks between others that it has.
func (w *world) gaps(p timeline.Path, end uint64) (gaps []segment.Segment) {
	var missing []segment.Segment
	begun := false
	for no := segment.At(0, p[0].Begin, size).No; no <= end; no++ {
		switch s := wanted(p, no); {
		case !w.has(s):
			missing = append(missing, s)
		case begun:
			gaps, missing = append(gaps, missing...), nil
		default:
			begun, missing = true, nil
		}
	}
	return gaps
}

// A recovery reads one segment of each number, and gets on until one is missing; a gap is what is missing between others.
func TestSegmentsOneByOne(t *testing.T) {
	gaps, reached := 0, 0
	worlds(t, func(t *testing.T, w *world) {
		to := w.any(w.tree.Timelines())
		from, lsn := w.position()
		p := w.tree.Path(to)
		if p.Passes(from, lsn) {
			p = p.From(from, lsn)
		}
		var got []segment.Segment
		var last segment.Segment
		ended := false
		for no := segment.At(0, p[0].Begin, size).No; no < 80; no++ {
			s := wanted(p, no)
			if x := p.Segment(no, size); x != s {
				t.Errorf("segment %d is read from %v, want %v", no, x, s)
			}
			if ended = ended || !w.has(s); !ended {
				last = s
			}
		}
		gap := w.gaps(p, 80)
		for _, r := range p.Gaps(w.held, size) {
			for no := r.First; no <= r.Last; no++ {
				got = append(got, segment.Segment{Timeline: r.Timeline, No: no})
			}
		}
		if !slices.Equal(got, gap) {
			t.Errorf("along %v the gaps are %v, want %v", p, got, gap)
		}
		if x, ok := p.Reach(w.held, size); x != last || ok != (last.Timeline != 0) {
			t.Errorf("along %v %v is reached (%v), want %v", p, x, ok, last)
		}
		gaps, reached = gaps+len(gap), reached+min(1, int(last.Timeline))
	})
	if gaps < 1000 || reached < 300 {
		t.Errorf("only %d missing segments and %d recoveries: the worlds are too tame", gaps, reached)
	}
}

// The ancestors' own history files say nothing that those of their descendants do not.
func TestLostHistories(t *testing.T) {
	worlds(t, func(t *testing.T, w *world) {
		lost, named := timeline.Tree{}, map[segment.Timeline]bool{}
		for _, tli := range w.tree.Timelines() {
			switch w.IntN(3) {
			case 0:
				lost[tli] = w.tree[tli]
				for _, s := range w.tree.Path(tli) {
					named[s.Timeline] = true
				}
			case 1:
				lost[tli] = nil
			}
		}
		whole := lost.WithAncestors()
		for _, tli := range w.tree.Timelines() {
			lineage, there := whole[tli]
			if _, before := lost[tli]; there != (before || named[tli]) || named[tli] && !slices.Equal(lineage, w.tree[tli]) || !named[tli] && len(lineage) > 0 {
				t.Errorf("timeline %d: %v %v, of %v", tli, there, lineage, lost)
			}
		}
	})
}

func TestOrphansAndNames(t *testing.T) {
	tree := timeline.Tree{1: nil, 2: {{Timeline: 1, Switch: 0x500}}, 4: nil, 7: {{Timeline: 1, Switch: 0x700}}}
	for what, got := range map[string]bool{"1 is known": tree.Known(1), "9 is no orphan": !tree.Orphan(9), "4 is an orphan": tree.Orphan(4) && !tree.Known(4),
		"latest": tree.Latest(1) == 2 && tree.Latest(6) == 7, "newest": tree.Newest(1) == 7 && tree.Newest(9) == 9} {
		if !got {
			t.Error(what)
		}
	}
	if got := fmt.Sprint(tree.Path(4), tree.Path(9), tree.Path(2).From(4, 0) == nil); got != "[{4 0/0 0/0}] [{9 0/0 0/0}] true" {
		t.Error(got)
	}
}

// What walstore/survey tells of an archive that has lost histories and whole timelines: together, the timelines tell every gap
// on the path to each, and nothing else; and no timeline tells what its parent does.
func TestSurveyTellsEveryGap(t *testing.T) {
	told := 0
	worlds(t, func(t *testing.T, w *world) {
		var all []*survey.Survey
		for _, tli := range w.tree.Timelines() {
			if w.IntN(6) == 0 { // nothing of it is there
				delete(w.held, tli)
				continue
			}
			v := &survey.Survey{Timeline: tli, SegmentSize: size, Runs: w.held[tli], Lineage: w.tree[tli]}
			if w.IntN(6) == 0 {
				v.Lineage = nil
			}
			all = append(all, v)
		}
		got, want := map[string]bool{}, map[string]bool{}
		own := map[segment.Timeline]map[string]bool{}
		for _, v := range all {
			own[v.Timeline] = map[string]bool{}
			for _, g := range survey.Gaps(all, v) {
				for name := g.First; name <= g.Last; {
					seg, _ := segment.ParseName(name, size)
					got[name], own[v.Timeline][name] = true, true
					name = seg.Next().Name(size)
				}
			}
			if len(v.Runs) == 0 {
				continue
			}
			for _, s := range w.gaps(v.Path(), v.Runs[len(v.Runs)-1].Last) {
				want[s.Name(size)] = true
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("gaps %v, want %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
		}
		for _, v := range all {
			for _, a := range v.Lineage {
				for name := range own[a.Timeline] {
					if parent := w.survey(all, a.Timeline); own[v.Timeline][name] && parent.Lineage != nil && name[8:] < parent.Name(parent.Runs[len(parent.Runs)-1].Last)[8:] {
						t.Errorf("both %d and %d tell of %s", v.Timeline, a.Timeline, name)
					}
				}
			}
		}
		told += len(got)
	})
	if told < 3000 {
		t.Errorf("only %d segments were missing: the worlds are too tame", told)
	}
}

func (w *world) survey(all []*survey.Survey, tli segment.Timeline) *survey.Survey {
	return all[slices.IndexFunc(all, func(v *survey.Survey) bool { return v.Timeline == tli })]
}

// What recovery finds in a listing of the archive: it gets on as long as some timeline of the path has the next segment, and
// what it lacks is a gap when the path has later ones.
func TestRecoveryScansThePath(t *testing.T) {
	gaps := 0
	worlds(t, func(t *testing.T, w *world) {
		from, lsn := w.position()
		p := w.tree.Path(w.any(w.tree.Descendants(from, lsn))).From(from, lsn)
		store := mem.New()
		for tli, runs := range w.held {
			for _, r := range runs {
				for no := r.First; no <= r.Last; no++ {
					name := segment.Segment{Timeline: tli, No: no}.Name(size)
					if err := store.Put(t.Context(), object.Key(7, name), strings.NewReader("1234"), 4); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		found, err := recovery.ScanRange(t.Context(), store, 7, p, size, 0)
		if err != nil {
			t.Fatal(err)
		}
		first := segment.At(0, lsn, size).No
		there, missing, gap := 0, uint64(0), false
		for no := first; no < 80; no++ {
			has := slices.ContainsFunc(p, func(s timeline.Span) bool { // its own bytes, or those that it was begun with
				begun, left := segment.At(0, s.Begin, size).No, s.End > 0 && segment.LSN(no)*segment.LSN(size) >= s.End
				return begun <= no && !left && w.has(segment.Segment{Timeline: s.Timeline, No: no})
			})
			switch {
			case !has && missing == 0:
				missing = no
			case has && missing > 0:
				gap = true
			case has:
				there++
			}
		}
		if found.Segments != there || (found.Missing != "") != gap || gap && found.Missing[8:] != (segment.Segment{No: missing}).Name(size)[8:] {
			t.Errorf("along %v: %+v, want %d segments, gap %v at %d", p, found, there, gap, missing)
		}
		gaps += map[bool]int{true: 1}[gap]
	})
	if gaps < 300 {
		t.Errorf("only %d gaps: the worlds are too tame", gaps)
	}
}
