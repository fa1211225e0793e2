package retention

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/walstore/segment"
)

// TestEveryPromiseInRandomHistories lets worlds happen, deletes in them as Decide says, and asks the model
// what can still be restored. With PGOBJ_TORTURE=1 it goes through 100,000 of them.
func TestEveryPromiseInRandomHistories(t *testing.T) {
	worlds := 3000
	if os.Getenv("PGOBJ_TORTURE") != "" {
		worlds = 100_000
	}
	dropped, kept := 0, 0
	for seed := range uint64(worlds) {
		w := newWorld(seed)
		d, k, err := w.live()
		if err != nil {
			t.Fatalf("world %d: %v\n%s", seed, err, strings.Join(w.log, "\n"))
		}
		dropped, kept = dropped+d, kept+k
	}
	if dropped < worlds || kept < worlds {
		t.Errorf("only %d backups were dropped and %d kept: the worlds are too tame", dropped, kept)
	}
}

// live is a world's whole life: things happen, and now and then something is deleted.
func (w *world) live() (dropped, kept int, err error) {
	o := randomOrder(w.Rand)
	for range 10 + w.IntN(30) {
		w.step()
		if !w.chance(0.15) {
			continue
		}
		if w.chance(0.3) {
			o = randomOrder(w.Rand)
		}
		d, k, err := w.delete(w.aim(o))
		if err != nil {
			return 0, 0, err
		}
		dropped, kept = dropped+d, kept+k
	}
	return dropped, kept, nil
}

func randomOrder(r *rand.Rand) Order {
	o := Order{Kind: []Kind{ByPolicy, ByPolicy, ByPolicy, Retain, Before, Target, Oldest, Garbage}[r.IntN(8)], Minimum: 1 + r.IntN(3), N: 1 + r.IntN(4), Running: 72 * time.Hour}
	p := &o.Policy
	for !p.keeps() {
		if r.IntN(3) == 0 {
			p.Redundancy = 1 + r.IntN(5)
		}
		if r.IntN(3) == 0 {
			p.Window = Span{1 + r.IntN(20), "day"}
		}
		if r.IntN(3) == 0 {
			p.Daily, p.Weekly, p.Monthly = r.IntN(7), r.IntN(4), r.IntN(3)
		}
	}
	if r.IntN(2) == 0 {
		p.PITR = Span{1 + r.IntN(15), "day"}
	}
	return o
}

// aim picks the backup or time that an order is about.
func (w *world) aim(o Order) Order {
	o.Backup, o.Time = "", time.Time{}
	switch c := w.state.Complete(); {
	case len(c) == 0 && (o.Kind == Target || o.Kind == Before):
		o.Kind = Garbage
	case o.Kind == Target, o.Kind == Before && w.chance(0.5):
		o.Backup = c[w.IntN(len(c))].ID
	case o.Kind == Before:
		o.Time = w.now.Add(-time.Duration(w.IntN(30*24)) * time.Hour)
	}
	return o
}

// delete does what Decide says, and holds it against what was promised.
func (w *world) delete(o Order) (dropped, kept int, err error) {
	clock := w.now
	if w.chance(0.1) {
		clock = clock.Add(-2 * time.Hour)
	}
	if w.chance(0.05) && len(w.forged) == 0 {
		clock = clock.AddDate(1, 0, 0)
	}
	maps.DeleteFunc(w.running, func(id string, _ place) bool { // taken for dead, by the clock there is; it cannot be committed
		age := clock.Sub(w.state.Entry(id).Begun)
		return age >= o.Running || age < -Tolerance && -age >= o.Running
	})
	w.note("delete %+v by a clock that says %s", o, stamp(clock))
	before := w.survey(o, clock)
	plan, err := Decide(o, w.history(), clock)
	if errors.Is(err, ErrRefused) {
		w.note("%v", err)
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	for _, d := range plan.Backups {
		w.note("  %s keep %v alone %v: %v", d.ID, d.Keep, d.Alone, d.Reasons)
		if len(d.Reasons) == 0 {
			return 0, 0, fmt.Errorf("backup %s: no reason", d.ID)
		}
		if d.Keep {
			kept++
			w.alone[d.ID] = w.alone[d.ID] || d.Alone
			continue
		}
		if d.Entry.Status == catalog.Complete {
			dropped++
		}
		d.Entry.Status = catalog.Deleted
		w.state.Committed = slices.DeleteFunc(w.state.Committed, func(id string) bool { return id == d.ID })
		delete(w.running, d.ID)
	}
	for _, r := range plan.WAL {
		w.note("  WAL %d/%d %d..%d keep %v: %s", r.SystemID, r.Timeline, r.From, r.To, r.Keep, r.Reason)
		if l := w.lines[r.SystemID][r.Timeline]; !r.Keep {
			last := min(r.To, uint64(l.end-1)/uint64(segSize)) // what is there when it is done
			if r.From <= last {
				l.dropped = append(l.dropped, [2]uint64{r.From, last})
				name := func(no uint64) string { return segment.Segment{Timeline: r.Timeline, No: no}.Name(segSize) }
				w.state.WAL = append(w.state.WAL, catalog.WALRange{SystemID: r.SystemID, First: name(r.From), Last: name(last)})
			}
		}
	}
	return dropped, kept, w.check(o, clock, plan, before)
}

// survey is what is true before a deletion.
type survey struct {
	good    []*catalog.Entry // complete, without damage, readable, not from the future
	times   []moment         // that the policy promises and that could be restored
	current bool             // where the server is now could be reached
	wal     map[string]bool  // by backup: everything after it could be reached
}

func (w *world) survey(o Order, clock time.Time) survey {
	s := survey{wal: map[string]bool{}}
	for _, e := range w.state.Complete() {
		if e.Commit.Summary.DamagedPages == 0 && !w.useless(e.ID) && !w.forged[e.ID] && !e.Commit.Summary.Consistent.After(clock.Add(Tolerance)) {
			s.good = append(s.good, e)
		}
	}
	var from time.Time
	switch {
	case o.Kind == Before && o.Backup == "":
		from = o.Time
	case o.Kind == ByPolicy && (o.Policy.Window.N > 0 || o.Policy.PITR.N > 0):
		from = clock
		for _, span := range []Span{o.Policy.Window, o.Policy.PITR} {
			if t := span.Before(clock); span.N > 0 && t.Before(from) {
				from = t
			}
		}
		if o.Policy.PITR.N > 0 {
			from = o.Policy.PITR.Before(clock) // older backups may keep only their own WAL
		}
	default:
		from = w.now.AddDate(100, 0, 0)
	}
	for _, m := range w.path {
		if !m.at.Before(from) && w.reachable(s.good, m.place) {
			s.times = append(s.times, m)
		}
	}
	s.current = w.reachable(s.good, w.here)
	return s
}

func (w *world) reachable(from []*catalog.Entry, to place) bool {
	return slices.ContainsFunc(from, func(e *catalog.Entry) bool { return w.canReach(e, to) })
}

// check is what has to be true after a deletion.
func (w *world) check(o Order, clock time.Time, plan Plan, before survey) error {
	var left []*catalog.Entry
	for _, e := range before.good {
		if e.Status == catalog.Complete {
			left = append(left, e)
		}
	}
	if len(left) < min(o.Minimum, len(before.good)) {
		return fmt.Errorf("%d good backups are left of %d, the minimum is %d", len(left), len(before.good), o.Minimum)
	}
	if n := len(before.good); n > 0 && before.good[n-1].Status != catalog.Complete {
		return fmt.Errorf("the newest good backup is gone")
	}
	redundancy := map[Kind]int{ByPolicy: o.Policy.Redundancy, Retain: o.N}[o.Kind]
	for _, e := range before.good[max(0, len(before.good)-redundancy):] {
		if e.Status != catalog.Complete {
			return fmt.Errorf("backup %s is gone, one of the newest %d good ones", e.ID, redundancy)
		}
	}
	for _, e := range w.state.Entries {
		if e.Pin != nil && e.Status == catalog.Deleted && e.Commit != nil && (e.Pin.Until.IsZero() || e.Pin.Until.After(clock)) && slices.Contains(plan.Dropped(), e.ID) {
			return fmt.Errorf("backup %s is gone, which is pinned", e.ID)
		}
	}
	for _, m := range before.times {
		if !w.reachable(left, m.place) {
			return fmt.Errorf("%s (%+v) was promised and could be restored before", stamp(m.at), m.place)
		}
	}
	if before.current && !w.reachable(left, w.here) {
		return fmt.Errorf("where the server is (%+v) could be restored before", w.here)
	}
	if err := w.checkRunning(); err != nil {
		return err
	}
	return w.checkKept(plan)
}

// checkKept: every backup that stays has the WAL that it is said to have.
func (w *world) checkKept(plan Plan) error {
	for _, d := range plan.Backups {
		if !d.Keep || d.Entry.Status != catalog.Complete {
			continue
		}
		if !w.consistent(d.Entry) {
			return fmt.Errorf("backup %s lacks WAL that makes it consistent", d.ID)
		}
		if w.alone[d.ID] || w.useless(d.ID) {
			continue
		}
		s := d.Entry.Commit.Summary
		for tli, l := range w.lines[s.SystemID] {
			if tli == s.Timeline || slices.ContainsFunc(l.lineage, func(a segment.Ancestor) bool { return a.Timeline == s.Timeline && a.Switch >= s.StopLSN }) {
				if !w.canReach(d.Entry, place{s.SystemID, tli, l.end}) {
					return fmt.Errorf("backup %s cannot be recovered to the end of timeline %d", d.ID, tli)
				}
			}
		}
	}
	return nil
}

// checkRunning: what runs keeps what it reuses, and its WAL.
func (w *world) checkRunning() error {
	for id, start := range w.running {
		e := w.state.Entry(id)
		if e.Status != catalog.Running {
			return fmt.Errorf("backup %s is running, and is gone", id)
		}
		if !w.has(start.sysid, start.tli, start.lsn, w.lines[start.sysid][start.tli].end) {
			return fmt.Errorf("backup %s is running, and its WAL is gone", id)
		}
		for _, r := range e.Begin.Reuses {
			if w.state.Entry(r).Status == catalog.Deleted {
				return fmt.Errorf("backup %s is running, and %s, which it reuses, is gone", id, r)
			}
		}
	}
	return nil
}
