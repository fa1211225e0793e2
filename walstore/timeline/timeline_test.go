package timeline

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pgobj/pgobj/walstore/segment"
)

const size = segment.Size(1 << 20)

// world is a random tree of timelines, and what an archive has of them.
type world struct {
	*rand.Rand
	tree Tree
	ends map[segment.Timeline]segment.LSN // how far each timeline was written
	held Held
}

// worlds calls a test with many of them. Switch points often fall into one segment, or on its first byte.
func worlds(t *testing.T, test func(t *testing.T, w *world)) {
	for seed := range uint64(3000) {
		w := &world{rand.New(rand.NewPCG(seed, 1)), Tree{1: nil}, map[segment.Timeline]segment.LSN{}, Held{}}
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
			w.held[tli] = Extend(w.held[tli], no)
		}
	}
}

// has says whether the archive holds a segment.
func (w *world) has(s segment.Segment) bool {
	return slices.ContainsFunc(w.held[s.Timeline], func(r Run) bool { return r.First <= s.No && s.No <= r.Last })
}

// position is where some timeline was at some time.
func (w *world) position() (segment.Timeline, segment.LSN) {
	tli := w.any(w.tree.Timelines())
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
func wanted(p Path, no uint64) segment.Segment {
	for _, s := range slices.Backward(p) {
		if segment.At(0, s.Begin, size).No <= no {
			return segment.Segment{Timeline: s.Timeline, No: no}
		}
	}
	return segment.Segment{Timeline: p[0].Timeline, No: no}
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
		var missing, gap, got []segment.Segment
		var last segment.Segment
		begun, ended := false, false
		for no := segment.At(0, p[0].Begin, size).No; no < 80; no++ {
			s := wanted(p, no)
			if x := p.Segment(no, size); x != s {
				t.Errorf("segment %d is read from %v, want %v", no, x, s)
			}
			if !w.has(s) {
				missing, ended = append(missing, s), true
				continue
			}
			if begun {
				gap = append(gap, missing...)
			}
			missing, begun = nil, true
			if !ended {
				last = s
			}
		}
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
		lost := Tree{}
		for tli, lineage := range w.tree {
			if w.IntN(2) == 0 {
				lost[tli] = lineage
			}
		}
		for tli, lineage := range lost.WithAncestors() {
			if !slices.Equal(lineage, w.tree[tli]) {
				t.Errorf("timeline %d: %v, want %v", tli, lineage, w.tree[tli])
			}
		}
		for tli := range lost {
			for _, s := range w.tree.Path(tli) {
				if _, there := lost.WithAncestors()[s.Timeline]; !there {
					t.Errorf("timeline %d is not there, which is on the path to %d", s.Timeline, tli)
				}
			}
		}
	})
}

func TestOrphansAndNames(t *testing.T) {
	tree := Tree{1: nil, 2: {{Timeline: 1, Switch: 0x500}}, 4: nil, 7: {{Timeline: 1, Switch: 0x700}}}
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
