package retention

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/walstore/segment"
)

// Kind is what was asked for.
type Kind string

const (
	ByPolicy   Kind = "policy"
	Before     Kind = "before"     // Backup, or Time: what is not needed from there on goes
	Retain     Kind = "retain"     // the newest N stay
	Target     Kind = "target"     // Backup goes
	Oldest     Kind = "oldest"     // the oldest goes
	Garbage    Kind = "garbage"    // only what no backup needs goes
	Everything Kind = "everything" // all goes
)

// Order is what was asked for, and the limits within which it is done.
type Order struct {
	Kind   Kind
	Policy Policy
	Backup string // id
	Time   time.Time
	N      int

	// Minimum is how many good backups have to be left, whatever was asked for (Everything excepted).
	Minimum int
	// Running is how long a backup that has begun is taken to be running.
	Running time.Duration
}

// ErrRefused says that a rule forbids what was asked for.
var ErrRefused = errors.New("refused")

// Decision is what becomes of one backup, and why.
type Decision struct {
	ID      string
	Keep    bool
	Reasons []string
	// Alone: the backup keeps only the WAL that makes it consistent, not what comes after it.
	Alone   bool
	Running bool
	// Counts: a rule has counted it, so that others may go.
	Counts bool
	Entry  *catalog.Entry
}

// Plan is what a Decide has come to. Backups come in the order in which they began, WAL by incarnation,
// timeline and place.
type Plan struct {
	Backups []Decision
	WAL     []WAL
}

// Dropped are the ids of the backups that go.
func (p *Plan) Dropped() []string {
	var ids []string
	for _, d := range p.Backups {
		if !d.Keep {
			ids = append(ids, d.ID)
		}
	}
	return ids
}

// keeper collects reasons.
type keeper struct {
	*view
	o       Order
	reasons map[string][]string
	follow  map[string]bool // they keep the WAL from their start on
	counts  map[string]bool // for them others may go
}

func (k *keeper) keep(e *catalog.Entry, reason string) {
	if !slices.Contains(k.reasons[e.ID], reason) {
		k.reasons[e.ID] = append(k.reasons[e.ID], reason)
	}
}

// root keeps a backup with the WAL that follows it.
func (k *keeper) root(e *catalog.Entry, reason string) {
	k.keep(e, reason)
	k.follow[e.ID] = true
}

// count keeps a backup, with the WAL that follows it, for which others may go.
func (k *keeper) count(e *catalog.Entry, reason string) {
	k.root(e, reason)
	k.counts[e.ID] = true
}

// Decide tells for every backup and all WAL whether it stays, and why.
func Decide(o Order, h History, now time.Time) (Plan, error) {
	k := &keeper{view: newView(h, now), o: o, reasons: map[string][]string{}, follow: map[string]bool{}, counts: map[string]bool{}}
	if o.Kind == Everything {
		return k.everything()
	}
	if o.Kind == ByPolicy && !o.Policy.keeps() {
		return Plan{}, fmt.Errorf("%w: the policy keeps no backup", ErrPolicy)
	}
	if e := k.asked(); e == nil && (o.Kind == Target || o.Kind == Before && o.Backup != "") {
		return Plan{}, fmt.Errorf("%w: %q", catalog.ErrNoBackup, o.Backup)
	}
	k.ask()
	k.minimum()
	k.always()
	k.pitr()
	plan := Plan{Backups: k.decisions()}
	if e := k.asked(); e != nil && (o.Kind == Target || o.Kind == Oldest) && len(k.reasons[e.ID]) > 0 {
		return plan, fmt.Errorf("%w: backup %s stays: %s", ErrRefused, e.ID, k.reasons[e.ID][0])
	}
	plan.WAL = k.wal(plan.Backups)
	return plan, nil
}

// asked is the backup that the order is about, or nil.
func (k *keeper) asked() *catalog.Entry {
	for _, e := range k.complete {
		if k.o.Kind == Oldest || e.ID == k.o.Backup {
			return e
		}
	}
	return nil
}

// ask keeps what the order itself leaves.
func (k *keeper) ask() {
	switch k.o.Kind {
	case ByPolicy:
		k.policy(k.o.Policy)
	case Retain:
		k.policy(Policy{Redundancy: k.o.N})
	case Before:
		if k.o.Backup == "" {
			k.twice(func(list []*catalog.Entry, note string) {
				k.window(list, k.o.Time, "to restore to "+stamp(k.o.Time)+note)
			})
			return
		}
		e := k.asked()
		for _, e := range k.complete[slices.Index(k.complete, e):] {
			k.root(e, "not before backup "+k.o.Backup)
		}
	case Target, Oldest:
		asked := k.asked()
		for _, e := range k.complete {
			if e != asked {
				k.root(e, "not named")
			}
		}
	case Garbage:
		for _, e := range k.complete {
			k.root(e, "a complete backup is not garbage")
		}
	}
}

// twice applies a rule to the good backups, and once more to those with damaged pages among them: so a
// damaged backup stays as long as any other, and never takes the place of a good one.
func (k *keeper) twice(rule func(list []*catalog.Entry, note string)) {
	rule(k.good, "")
	if len(k.sound) > len(k.good) {
		rule(k.sound, ", damaged pages or not")
	}
}

func (k *keeper) policy(p Policy) {
	k.twice(func(list []*catalog.Entry, note string) {
		if p.Redundancy > 0 {
			for i, e := range list[max(0, len(list)-p.Redundancy):] {
				nth := min(len(list), p.Redundancy) - i
				k.count(e, fmt.Sprintf("redundancy %d: number %d%s", p.Redundancy, nth, note))
			}
		}
		if p.Window.N > 0 {
			k.window(list, p.Window.Before(k.ref), "recovery window of "+p.Window.String()+note)
		}
		for _, c := range p.calendar() {
			k.calendar(list, c, note)
		}
	})
	if p.PITR.N > 0 {
		from := p.PITR.Before(k.ref)
		for _, e := range k.anchors(k.good, from) {
			k.count(e, fmt.Sprintf("pitr %s: recovery to times from %s on begins here", p.PITR, stamp(from)))
		}
	}
}

// window keeps what recovery to any time from t on needs.
func (k *keeper) window(list []*catalog.Entry, t time.Time, why string) {
	for _, e := range k.anchors(list, t) {
		if !e.Commit.Summary.Consistent.After(t) {
			k.count(e, fmt.Sprintf("%s: it begins here (%s)", why, stamp(t)))
		}
	}
	for _, e := range list {
		if e.Commit.Summary.Consistent.After(t) {
			k.count(e, why)
		}
	}
}

// calendar keeps the newest backup of each of the latest c.n days, weeks, months or years that have one. Days
// without a backup do not count: a policy keeps what it promises also after backups have failed for a while.
func (k *keeper) calendar(list []*catalog.Entry, c period, note string) {
	seen := map[string]bool{}
	for _, e := range slices.Backward(list) {
		name := c.of(e.Commit.Summary.Consistent.UTC())
		if len(seen) < c.n && !seen[name] {
			seen[name] = true
			k.count(e, fmt.Sprintf("%s %d: the newest of %s %s%s", c.name, c.n, c.what, name, note))
		}
	}
}

// always keeps what no order but Everything may take.
func (k *keeper) always() {
	if n := len(k.good); n > 0 {
		k.count(k.good[n-1], "the newest good backup")
	}
	k.currentLines()
	asked := k.asked()
	for _, e := range k.complete {
		named := e == asked && (k.o.Kind == Target || k.o.Kind == Oldest)
		switch {
		case k.future(e) && !named:
			k.root(e, "dated in the future, so it does not count; delete target removes it")
		case k.Unreadable[e.ID] != "" && !named:
			k.keep(e, "its description cannot be read, so it does not count; delete target removes it: "+k.Unreadable[e.ID])
		case k.Damaged[e.ID] != "" && !named:
			k.keep(e, "it cannot be restored, so it does not count; delete target removes it: "+k.Damaged[e.ID])
		}
		if p := e.Pin; p != nil && (p.Until.IsZero() || p.Until.After(k.now)) {
			until := ""
			if !p.Until.IsZero() {
				until = " until " + stamp(p.Until)
			}
			k.keep(e, "pinned"+until)
		}
	}
	for _, r := range k.State.Entries {
		if !k.running(r) {
			continue
		}
		for _, id := range r.Begin.Reuses {
			if e := k.State.Entry(id); e != nil && e.Status == catalog.Complete {
				k.keep(e, fmt.Sprintf("backup %s, which began at %s and is not complete, reuses it", r.ID, stamp(r.Begun)))
			}
		}
	}
}

// currentLines keeps, of every incarnation of which something stays, the newest good backup from which its newest
// timeline can be reached: after a recovery to a point in time newer backups may all be of a future that was
// left behind. An old incarnation counts, too: an upgrade may have been taken back.
func (k *keeper) currentLines() {
	for i, sysid := range k.incarnations {
		stays := func(e *catalog.Entry) bool { return e.Commit.Summary.SystemID == sysid && k.follow[e.ID] }
		if i == len(k.incarnations)-1 || slices.ContainsFunc(k.complete, stays) {
			k.currentLine(sysid, k.tree(sysid).Newest(0))
		}
	}
}

func (k *keeper) currentLine(sysid uint64, tli segment.Timeline) {
	for _, e := range slices.Backward(k.good) {
		s := e.Commit.Summary
		switch {
		case s.SystemID != sysid || !k.reaches(e, tli):
		case !k.tree(sysid).Known(tli) && s.Timeline < tli:
			k.count(e, fmt.Sprintf("timeline %d may descend from it: that timeline has no backup, and the archive does not have its history", tli))
		default:
			k.count(e, fmt.Sprintf("the newest good backup from which timeline %d can be reached", tli))
			return
		}
	}
}

// minimum keeps the newest good backups until there are enough.
func (k *keeper) minimum() {
	left := 0
	for _, e := range slices.Backward(k.good) {
		if len(k.reasons[e.ID]) > 0 && left < k.o.Minimum {
			k.counts[e.ID] = true
			left++
		}
	}
	for _, e := range slices.Backward(k.good) {
		if left >= k.o.Minimum {
			return
		}
		if len(k.reasons[e.ID]) == 0 {
			k.count(e, fmt.Sprintf("minimum redundancy of %d", k.o.Minimum))
			left++
		}
	}
}

// pitr takes the WAL that follows from those backups with which no recovery within the policy's span begins.
func (k *keeper) pitr() {
	if k.o.Kind != ByPolicy || k.o.Policy.PITR.N == 0 || len(k.good) == 0 {
		return
	}
	from := k.o.Policy.PITR.Before(k.ref)
	begins := k.anchors(k.good, from)
	for _, e := range k.complete {
		if !e.Commit.Summary.Consistent.After(from) && !slices.Contains(begins, e) {
			delete(k.follow, e.ID)
		}
	}
}

// running says whether a backup that has begun may still be on its way. The clock decides, which is no danger: the
// log does not let a backup be committed whose parts have been condemned.
//
// A start in the future is as far away as one in the past: else a backup that was killed ran for ten years where its
// host's clock was that far ahead. Up to the limit it is believed, for the clock of a host that does back up may be wrong
// by hours.
func (k *keeper) running(e *catalog.Entry) bool {
	age := k.now.Sub(e.Begun)
	if -Tolerance <= age && age < 0 {
		age = 0
	}
	return e.Status == catalog.Running && age.Abs() < k.o.Running
}

func (k *keeper) decisions() []Decision {
	var out []Decision
	last := 0 // of the complete backups: what began after it and failed is what the next run can take over
	for i, e := range k.State.Entries {
		if e.Status == catalog.Complete {
			last = i
		}
	}
	for i, e := range k.State.Entries {
		d := Decision{ID: e.ID, Keep: true, Entry: e}
		switch {
		case e.Status == catalog.Deleted:
			continue
		case e.Status == catalog.Complete:
			d.Reasons = k.reasons[e.ID]
			d.Keep = len(d.Reasons) > 0
			d.Alone = d.Keep && !k.follow[e.ID]
			d.Counts = k.counts[e.ID]
			if !d.Keep {
				d.Reasons = []string{k.why()}
			}
		case k.running(e):
			d.Running, d.Reasons = true, []string{fmt.Sprintf("running since %s", stamp(e.Begun))}
		case k.borrowed(e.ID):
			d.Reasons = []string{"not complete, but a running backup reuses its parts"}
		case k.o.Kind == Garbage || k.o.Kind == ByPolicy && i < last:
			d.Keep, d.Reasons = false, []string{"not complete: " + k.ended(e)}
		default:
			d.Reasons = []string{"not complete, " + k.ended(e) + "; the next backup can reuse its parts, delete garbage removes them"}
		}
		out = append(out, d)
	}
	return out
}

// borrowed says whether a running backup reuses the parts of backup id.
func (k *keeper) borrowed(id string) bool {
	return slices.ContainsFunc(k.State.Entries, func(r *catalog.Entry) bool { return k.running(r) && slices.Contains(r.Begin.Reuses, id) })
}

func (k *keeper) ended(e *catalog.Entry) string {
	if e.Status == catalog.Aborted {
		return "it failed"
	}
	if e.Begun.After(k.now) {
		return fmt.Sprintf("its start is dated %s, in the future", stamp(e.Begun))
	}
	return fmt.Sprintf("it began at %s, more than %s ago", stamp(e.Begun), k.o.Running)
}

// why a backup goes.
func (k *keeper) why() string {
	switch k.o.Kind {
	case Before:
		if k.o.Backup != "" {
			return "before backup " + k.o.Backup
		}
		return "not needed to restore to " + stamp(k.o.Time) + " or later"
	case Retain:
		return fmt.Sprintf("not one of the newest %d", k.o.N)
	case Target:
		return "named"
	case Oldest:
		return "the oldest"
	}
	return "no rule keeps it"
}

// everything takes all that there is, unless somebody said that it has to stay.
func (k *keeper) everything() (Plan, error) {
	var p Plan
	for _, e := range k.State.Entries {
		switch {
		case e.Status == catalog.Deleted:
			continue
		case k.running(e):
			return p, fmt.Errorf("%w: backup %s has been running since %s: stop it, or give a shorter --running-limit if it was killed", ErrRefused, e.ID, stamp(e.Begun))
		case e.Pin != nil && e.Status == catalog.Complete && (e.Pin.Until.IsZero() || e.Pin.Until.After(k.now)):
			return p, fmt.Errorf("%w: backup %s is pinned: first run pgobj backup-mark %s --unpin", ErrRefused, e.ID, e.ID)
		}
		p.Backups = append(p.Backups, Decision{ID: e.ID, Entry: e, Reasons: []string{"everything goes"}})
	}
	for _, sysid := range k.incarnations {
		for _, tli := range k.tree(sysid).Timelines() {
			p.WAL = append(p.WAL, k.span(sysid, tli, 0, End, false, "everything goes"))
		}
	}
	return p, nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

// segments is the first and last segment that make a backup consistent; of an incarnation that the log has no
// server record of, nothing is known.
func (v *view) segments(e *catalog.Entry) (first, last segment.Segment) {
	s := e.Commit.Summary
	size := v.sizes[s.SystemID]
	if !size.Valid() {
		return segment.Segment{Timeline: s.Timeline}, segment.Segment{Timeline: s.Timeline, No: math.MaxUint64}
	}
	return segment.At(s.Timeline, s.StartLSN, size), segment.Before(s.Timeline, s.StopLSN, size)
}
