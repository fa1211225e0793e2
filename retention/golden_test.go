package retention

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/walstore/segment"
)

var update = flag.Bool("update", false, "write the golden files again")

// story is a history that is written down by hand, day by day. A backup takes 1 segment of WAL, a day 10.
type story struct {
	name    string
	tell    func(w *world)
	unknown bool
}

var stories = []story{
	{name: "empty", tell: func(w *world) { w.days(3) }},
	{name: "nightly", tell: func(w *world) { w.nights(40) }},
	{name: "failing", tell: func(w *world) { // the newest good backup is 12 days old
		w.nights(8)
		for range 12 {
			w.days(1)
			w.take("").Status = catalog.Aborted
		}
	}},
	{name: "damaged", tell: func(w *world) {
		w.nights(5)
		for range 4 {
			w.days(1)
			w.take("damaged")
		}
		w.nights(1)
		w.days(1)
		w.take("damaged")
	}},
	{name: "forged", tell: func(w *world) { // a host with a clock of its own
		w.nights(5)
		w.take("future")
		w.take("future")
		w.nights(2)
	}},
	{name: "pins", tell: func(w *world) {
		w.nights(10)
		w.state.Entry("b02").Pin = &catalog.Pin{Backup: "b02"}
		w.state.Entry("b04").Pin = &catalog.Pin{Backup: "b04", Until: w.now.AddDate(0, 0, 9)}
		w.state.Entry("b05").Pin = &catalog.Pin{Backup: "b05", Until: w.now.AddDate(0, 0, -1)}
	}},
	{name: "running", tell: func(w *world) {
		w.nights(5)
		w.take("").Status = catalog.Aborted
		w.nights(2)
		e := w.take("")
		e.Status, e.Begun = catalog.Running, w.now.AddDate(0, 0, -5) // killed long ago
		e = w.take("")
		e.Status, e.Begin.Reuses = catalog.Running, []string{"b03"}
		e.Begin.LSN -= 25 * segment.LSN(segSize)
	}},
	{name: "running ahead", tell: func(w *world) { // hosts whose clocks are wrong by a day, and by years
		w.nights(5)
		for _, begun := range []time.Time{w.now.AddDate(0, 0, 1), w.now.AddDate(10, 0, 0)} {
			e := w.take("")
			e.Status, e.Begun = catalog.Running, begun
			e.Begin.Reuses = []string{"b03"}
		}
	}},
	{name: "recovery", tell: func(w *world) { // back to a point before the newest two backups
		w.nights(6)
		at := place{100, 1, w.state.Entry("b04").Commit.Summary.StopLSN + segment.LSN(segSize)}
		w.days(1)
		w.branch(at)
		w.days(2)
	}},
	{name: "failovers", tell: func(w *world) {
		w.nights(3)
		w.branch(w.here)
		w.nights(3)
		w.branch(w.here)
		w.nights(3)
	}},
	{name: "lost history", unknown: true, tell: func(w *world) {
		w.nights(4)
		w.branch(place{100, 1, w.state.Entry("b02").Commit.Summary.StopLSN + segment.LSN(segSize)})
		w.days(1)
	}},
	{name: "upgrade", tell: func(w *world) {
		w.nights(6)
		w.initdb()
		w.nights(2)
	}},
	{name: "unreadable", tell: func(w *world) {
		w.nights(6)
		w.broken["b03"] = "backups/b03/backup.json is missing"
		w.broken["b06"] = "backups/b06/backup.json: its hash is not the one in the catalog's log"
	}},
	{name: "part lost", tell: func(w *world) {
		w.nights(6)
		w.incomplete["b03"] = "parts/b01/00001.tar.zst is missing"
		w.incomplete["b06"] = "parts/b06/00002.tar.zst has 10 bytes instead of 20"
	}},
}

// orders are what each story is asked: a policy, or the words of a deletion by hand.
var orders = []string{
	"REDUNDANCY 3",
	"RECOVERY WINDOW OF 5 DAYS",
	"recovery window of 1 week, pitr 2 days",
	"keep daily 3 weekly 2 monthly 2",
	"keep daily 2 monthly 2, pitr 3d",
	"redundancy 2, pitr 6 days",
	"retain 2", "before b03", "before TIME", "target b02", "oldest", "garbage",
}

func TestGolden(t *testing.T) {
	cases := 0
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			var out strings.Builder
			w := newWorld(1)
			s.tell(w)
			for key := range w.lost {
				w.lost[key] = s.unknown
			}
			fmt.Fprintf(&out, "It is %s.\n", stamp(w.now))
			for _, e := range w.state.Complete() {
				c := e.Commit.Summary
				fmt.Fprintf(&out, "%s  %s  %d/%d  segments %d..%d\n", e.ID, stamp(c.Consistent), c.SystemID, c.Timeline, uint64(c.StartLSN)/uint64(segSize), uint64(c.StopLSN-1)/uint64(segSize))
			}
			for _, words := range orders {
				cases++
				o := w.order(t, words)
				plan, err := Decide(o, w.history(), w.now)
				if err != nil && !errors.Is(err, ErrRefused) && !errors.Is(err, catalog.ErrNoBackup) {
					t.Fatal(err)
				}
				fmt.Fprintf(&out, "\n== %s\n", words)
				write(&out, plan, err)
			}
			file := filepath.Join("testdata", strings.ReplaceAll(s.name, " ", "_")+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if string(want) != out.String() {
				t.Errorf("%s is not what Decide says now (run with -update, and read the difference):\n%s", file, out.String())
			}
		})
	}
	if cases < 60 {
		t.Errorf("%d cases, planned were 60", cases)
	}
}

// order reads a policy or the words of a deletion.
func (w *world) order(t *testing.T, words string) Order {
	o := Order{Minimum: 1, Running: 72 * time.Hour}
	kind, arg, _ := strings.Cut(words, " ")
	switch o.Kind = Kind(kind); {
	case arg == "TIME":
		o.Time = w.now.AddDate(0, 0, -3)
	case o.Kind == Retain:
		o.N = 2
	case o.Kind == Before, o.Kind == Target:
		o.Backup = arg
	case o.Kind != Oldest && o.Kind != Garbage:
		var err error
		if o.Policy, err = ParsePolicy(words); err != nil {
			t.Fatal(err)
		}
		o.Kind = ByPolicy
	}
	return o
}

// write is a plan for people who compare.
func write(out *strings.Builder, p Plan, err error) {
	if err != nil {
		fmt.Fprintln(out, err)
	}
	for _, d := range p.Backups {
		verdict := "GOES"
		if d.Keep {
			verdict = "stays"
		}
		if d.Alone {
			verdict = "alone"
		}
		fmt.Fprintf(out, "%s   %-5s  %s\n", d.ID, verdict, strings.Join(d.Reasons, "; "))
	}
	for _, x := range p.WAL {
		verdict, last := "GOES", "end"
		if x.Keep {
			verdict = "stays"
		}
		if x.To != End {
			last = fmt.Sprint(x.To)
		}
		fmt.Fprintf(out, "%d/%d  %-5s  %d..%s: %s\n", x.SystemID, x.Timeline, verdict, x.From, last, x.Reason)
	}
}

// days lets days pass.
func (w *world) days(n int) {
	for range n {
		w.now = w.now.AddDate(0, 0, 1)
		w.here.lsn += 10 * segment.LSN(segSize)
		w.line().end = w.here.lsn
	}
}

// nights are days with a backup at the end of each.
func (w *world) nights(n int) {
	for range n {
		w.days(1)
		w.take("")
	}
}

// take makes a backup of which all is known.
func (w *world) take(kind string) *catalog.Entry {
	w.n++
	e := &catalog.Entry{ID: fmt.Sprintf("b%02d", w.n), Begun: w.now, Status: catalog.Complete}
	e.Begin = catalog.Begin{Backup: e.ID, SystemID: w.here.sysid, Timeline: w.here.tli, LSN: w.here.lsn}
	s := catalog.Summary{SystemID: w.here.sysid, Timeline: w.here.tli, Started: w.now, StartLSN: w.here.lsn}
	w.now = w.now.Add(time.Hour)
	w.here.lsn += segment.LSN(segSize)
	w.line().end = w.here.lsn
	s.Consistent, s.Finished, s.StopLSN = w.now, w.now, w.here.lsn
	switch kind {
	case "damaged":
		s.DamagedPages = 3
	case "future":
		s.Started, s.Consistent, s.Finished = s.Started.AddDate(10, 0, 0), s.Consistent.AddDate(10, 0, 0), s.Finished.AddDate(10, 0, 0)
	}
	e.Commit = &catalog.Commit{Backup: e.ID, Summary: s}
	w.state.Entries = append(w.state.Entries, e)
	w.state.Committed = append(w.state.Committed, e.ID)
	return e
}

func TestPolicies(t *testing.T) {
	for text, want := range map[string]string{
		"REDUNDANCY 3":                                 "redundancy 3",
		"recovery window of 4 WEEKS":                   "recovery window of 4 weeks",
		"RECOVERY WINDOW OF 1 MONTH":                   "recovery window of 1 month",
		"Recovery Window Of 10d":                       "recovery window of 10 days",
		"keep daily 14 weekly 8 monthly 12; pitr: 14d": "keep daily 14 weekly 8 monthly 12, pitr 14 days",
		"pitr 12h,keep yearly=1, redundancy 2":         "redundancy 2, keep yearly 1, pitr 12 hours",
		"":                                             "", "pitr 14d": "", "redundancy 0": "", "redundancy": "", "redundancy three": "", "redundancy 3 redundancy 4": "", "redundancy -1": "",
		"recovery window 3 days": "", "recovery window of 3": "", "recovery window of 3 fortnights": "", "recovery window of days": "",
		"keep": "", "keep 3": "", "keep daily": "", "keep daily 3 daily 4": "", "redundancy 99999999999999999999": "", "3": "", "redundancy 3 days": "",
	} {
		p, err := ParsePolicy(text)
		if want == "" {
			if !errors.Is(err, ErrPolicy) {
				t.Errorf("%q: %v, %v, want an error", text, p, err)
			}
			continue
		}
		if err != nil || p.String() != want {
			t.Errorf("%q: %q, %v, want %q", text, p, err, want)
		}
		if again, err := ParsePolicy(p.String()); err != nil || again != p {
			t.Errorf("%q is not read as what it was made from: %v, %v", p.String(), again, err)
		}
	}
	at := time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{"1 month": "2026-02-28", "3m": "2025-12-31", "1 year": "2025-03-31", "2w": "2026-03-17", "25 months": "2024-02-29", "36h": "2026-03-30"} {
		s, err := ParseSpan(text)
		if got := s.Before(at).Format("2006-01-02"); err != nil || got != want {
			t.Errorf("%s before 31 March 2026 is %s (%v), want %s", text, got, err, want)
		}
	}
}

// TestTimeAloneDeletesNothing: a clock that runs ahead must not make anything superfluous.
func TestTimeAloneDeletesNothing(t *testing.T) {
	w := newWorld(1)
	w.nights(30)
	for _, words := range orders[:6] {
		o := w.order(t, words)
		var first []string
		for _, years := range []int{0, 1, 10} {
			plan, err := Decide(o, w.history(), w.now.AddDate(years, 0, 0))
			if err != nil {
				t.Fatal(err)
			}
			if got := plan.Dropped(); years == 0 {
				first = got
			} else if !slices.Equal(got, first) {
				t.Errorf("%s: %d years later %q go, now %q", words, years, got, first)
			}
		}
	}
}

func FuzzParsePolicy(f *testing.F) {
	f.Add("keep daily 14 weekly 8 monthly 12, pitr 14d")
	f.Add("RECOVERY WINDOW OF 4 WEEKS")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePolicy(text)
		if err != nil {
			return
		}
		if again, err := ParsePolicy(p.String()); err != nil || again != p {
			t.Errorf("%q is %q, which is %q, %v", text, p, again, err)
		}
	})
}

func TestRunning(t *testing.T) {
	now := time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		limit, begun time.Duration
		want         bool
	}{
		{72 * time.Hour, -71 * time.Hour, true}, {72 * time.Hour, -72 * time.Hour, false},
		{72 * time.Hour, 5 * time.Hour, true}, {72 * time.Hour, 72 * time.Hour, false}, {72 * time.Hour, 87600 * time.Hour, false},
		{time.Minute, 50 * time.Minute, true}, {time.Minute, 70 * time.Minute, false},
		{0, 0, false}, {0, 50 * time.Minute, false}, {0, -time.Minute, false},
	} {
		k := &keeper{view: &view{now: now}, o: Order{Running: c.limit}}
		if got := k.running(&catalog.Entry{Status: catalog.Running, Begun: now.Add(c.begun)}); got != c.want {
			t.Errorf("begun %v from now, limit %v: running is %v", c.begun, c.limit, got)
		}
	}
}
