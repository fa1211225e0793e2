package recovery

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage/mem"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// family is a tree of timelines: 1 was left for 2 at 0/500, 2 for 4 at 0/900, and 1 for 3 at 0/700.
func family() timeline.Tree {
	return timeline.Tree{
		1: nil,
		2: {{Timeline: 1, Switch: 0x500}},
		3: {{Timeline: 1, Switch: 0x700}},
		4: {{Timeline: 1, Switch: 0x500}, {Timeline: 2, Switch: 0x900}},
		5: nil,
	}
}

func span(t segment.Timeline, begin, end segment.LSN) timeline.Span {
	return timeline.Span{Timeline: t, Begin: begin, End: end}
}

func TestReach(t *testing.T) {
	for _, c := range []struct {
		from segment.Timeline
		lsn  segment.LSN
		to   segment.Timeline
		why  string // empty: it can be reached
	}{
		{1, 0x100, 1, ""}, {1, 0x100, 4, ""}, {1, 0x500, 2, ""}, {2, 0x900, 4, ""}, {4, 0x999, 4, ""}, {1, 0x600, 3, ""},
		{1, 0x501, 2, "0/501"},
		{1, 0x600, 4, "left the backup's timeline 1 at 0/500"},
		{3, 0x800, 4, "descend from timeline 3"},
		{4, 0x999, 2, "descend from timeline 4"},
		{1, 0x100, 5, "00000005.history"},
		{1, 0x100, 9, "timeline 9 (it has 1, 2, 3, 4)"},
	} {
		err := Reach(family(), c.from, c.lsn, c.to)
		if (err == nil) != (c.why == "") || err != nil && (!strings.Contains(err.Error(), c.why) || !errors.Is(err, ErrUnreachable)) {
			t.Errorf("from %s on timeline %d to timeline %d: %v, want %q", c.lsn, c.from, c.to, err, c.why)
		}
	}
	if got := descendant(family(), 1, 0x600); got != 3 {
		t.Errorf("from 0/600 the newest timeline is %d, want 3", got)
	}
	if got, want := family().Path(4).From(1, 0x100), (timeline.Path{span(1, 0x100, 0x500), span(2, 0x500, 0x900), span(4, 0x900, 0)}); !slices.Equal(got, want) {
		t.Errorf("the way to timeline 4 is %v, want %v", got, want)
	}
	if got := fmt.Sprint(Forks(family(), 4)); got != "[timeline 3 (left timeline 1 at 0/700)]" {
		t.Errorf("forks: %s", got)
	}
}

// The archive of a cluster with 1 MB segments: what recovery finds there on its way over two timelines.
func TestCover(t *testing.T) {
	const size, mb = segment.Size(1 << 20), segment.LSN(1 << 20)
	path := timeline.Path{span(1, 3*mb+5, 6*mb+100), span(2, 6*mb+100, 0)}
	for name, c := range map[string]struct {
		have          string // TIMELINE/NUMBER …
		until         segment.LSN
		last, missing string
		segments      int
		end           segment.LSN
	}{
		"all":                           {"1/3 1/4 1/5 2/6 2/7", 0, "2/7", "", 5, 8 * mb},
		"the parent's copy of the last": {"1/3 1/4 1/5 1/6 2/7", 0, "2/7", "", 5, 8 * mb},
		"the parent went on":            {"1/3 1/4 1/5 1/6 1/7 1/8 2/6 2/7", 0, "2/7", "", 5, 8 * mb},
		"gap in the child":              {"1/3 1/4 1/5 2/6 2/8", 0, "2/6", "2/7", 4, 7 * mb},
		"gap at the switch":             {"1/3 1/4 1/5 2/7", 0, "1/5", "2/6", 3, 6 * mb},
		"gap in the parent":             {"1/3 1/5 2/6", 0, "1/3", "1/4", 1, 4 * mb},
		"gap at the parent's end":       {"1/3 1/4 2/6", 0, "1/4", "1/5", 2, 5 * mb},
		"the first is missing":          {"1/4 1/5", 0, "", "1/3", 0, 3 * mb},
		"the child has not begun":       {"1/3 1/4 1/5", 0, "1/5", "", 3, 6 * mb},
		"until the parent's middle":     {"1/3 1/4 1/5 2/6", 5 * mb, "1/4", "", 2, 5 * mb},
		"a gap after the end":           {"1/3 1/4 2/6", 4*mb + 1, "1/4", "", 2, 5 * mb},
		"nothing":                       {"", 0, "", "", 0, 3 * mb},
	} {
		t.Run(name, func(t *testing.T) {
			s := mem.New()
			file := func(x string) string {
				if x == "" {
					return ""
				}
				var seg segment.Segment
				if _, err := fmt.Sscanf(x, "%d/%d", &seg.Timeline, &seg.No); err != nil {
					t.Fatal(err)
				}
				return seg.Name(size)
			}
			for x := range strings.FieldsSeq(c.have) {
				if err := s.Put(t.Context(), object.Key(7, file(x)), bytes.NewReader([]byte("1234")), 4); err != nil {
					t.Fatal(err)
				}
			}
			w, err := ScanRange(t.Context(), s, 7, path, size, c.until)
			if err != nil {
				t.Fatal(err)
			}
			if w.Last != file(c.last) || w.Missing != file(c.missing) || w.Segments != c.segments || w.End != c.end || w.Bytes != int64(4*c.segments) {
				t.Errorf("%+v, want last %s, missing %s, %d segments, end %s", w, file(c.last), file(c.missing), c.segments, c.end)
			}
		})
	}
}

// A gap stops what has to cross it, lets through what does not, and warns where nobody can know.
func TestGap(t *testing.T) {
	noon := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	b := &catalog.Backup{ID: "A", SegmentSize: 1 << 20}
	b.StopLSN, b.SystemID = 0x300100, 7
	s := &catalog.State{Committed: []string{"B"}, Entries: []*catalog.Entry{{ID: "B", Status: catalog.Complete,
		Commit: &catalog.Commit{Summary: catalog.Summary{SystemID: 7, StartLSN: 0x900000, Consistent: noon}}}}}
	w := WALRange{End: 0x500000, Missing: "000000010000000000000005", Beyond: "000000010000000000000006", Before: 0x4ffe00, Archived: noon}
	for name, c := range map[string]struct {
		r    Recovery
		warn bool
		err  bool
	}{
		"to the end":              {Recovery{}, false, true},
		"LSN before":              {Recovery{TargetLSN: 0x4ffe00}, false, false},
		"LSN after":               {Recovery{TargetLSN: 0x4ffe01}, false, true},
		"time after, surely":      {Recovery{TargetTime: noon}, false, true},
		"time, nobody knows":      {Recovery{TargetTime: noon.Add(-time.Second)}, true, false},
		"xid, nobody knows":       {Recovery{TargetXID: 77}, true, false},
		"as soon as consistent":   {Recovery{TargetImmediate: true}, false, false},
		"a time that is to come":  {Recovery{TargetTime: noon.Add(2 * time.Hour)}, false, true},
		"restore point, any time": {Recovery{TargetName: "x"}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			warnings, err := (&Selector{Recovery: c.r}).CheckWAL(false, b, w, s, noon.Add(time.Hour))
			if (len(warnings) > 0) != c.warn || (err != nil) != c.err || err != nil && !errors.Is(err, ErrUnreachable) {
				t.Errorf("warnings %q, error %v", warnings, err)
			}
			if c.err && c.r.TargetTime.Before(noon.Add(time.Minute)) && !strings.Contains(err.Error(), "Backup B ") {
				t.Errorf("it does not name the backup after the gap: %v", err)
			}
		})
	}
}
