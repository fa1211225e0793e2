package retention

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/timeline"
)

const segSize = segment.Size(16 << 20)

// place is a point in the WAL.
type place struct {
	sysid uint64
	tli   segment.Timeline
	lsn   segment.LSN
}

// moment is where the server was at some time.
type moment struct {
	at time.Time
	place
}

// line is one timeline as it really is.
type line struct {
	lineage segment.Lineage
	begin   segment.LSN
	end     segment.LSN
	dropped [][2]uint64 // segments that have been deleted
}

// world is a server with its archive and catalog, and the truth about them: who descends from whom and where
// it was at any time. What Decide is told is in history, which may know less.
type world struct {
	*rand.Rand
	now    time.Time
	here   place
	lines  map[uint64]map[segment.Timeline]*line
	path   []moment
	state  *catalog.State
	lost   map[place]bool // timelines whose history is not in the archive
	broken map[string]string
	// incomplete backups lack a part: as broken, their description is not
	incomplete map[string]string
	forged     map[string]bool // backups whose dates are no server's
	alone      map[string]bool // backups whose WAL has been taken
	running    map[string]place
	n          int
	log        []string // what happened, for people
}

func newWorld(seed uint64) *world {
	w := &world{Rand: rand.New(rand.NewPCG(seed, 7)), now: time.Date(2026, 1, 1, 1, 0, 0, 0, time.UTC), state: &catalog.State{},
		lines: map[uint64]map[segment.Timeline]*line{}, lost: map[place]bool{}, broken: map[string]string{}, incomplete: map[string]string{}, forged: map[string]bool{},
		alone: map[string]bool{}, running: map[string]place{}}
	w.initdb()
	return w
}

func (w *world) note(format string, args ...any) {
	w.log = append(w.log, fmt.Sprintf("%s tli %d at %s: ", stamp(w.now), w.here.tli, w.here.lsn)+fmt.Sprintf(format, args...))
}

func (w *world) chance(p float64) bool { return w.Float64() < p }

func (w *world) line() *line { return w.lines[w.here.sysid][w.here.tli] }

func (w *world) initdb() {
	w.here = place{uint64(100 + len(w.lines)), 1, segment.LSN(segSize)}
	w.lines[w.here.sysid] = map[segment.Timeline]*line{1: {begin: w.here.lsn, end: w.here.lsn}}
	w.state.Servers = append(w.state.Servers, catalog.Server{SystemID: w.here.sysid, SegmentSize: segSize})
	w.note("initdb of %d", w.here.sysid)
}

// work lets some time pass and some WAL be written.
func (w *world) work(most time.Duration) {
	w.now = w.now.Add(time.Minute + time.Duration(w.Int64N(int64(most))))
	w.here.lsn += segment.LSN(1 + w.Uint64N(5*uint64(segSize)))
	w.line().end = w.here.lsn
	w.path = append(w.path, moment{w.now, w.here})
}

// branch makes a new timeline from a point in the WAL.
func (w *world) branch(from place) {
	all := w.lines[from.sysid]
	next := segment.Timeline(0)
	for tli := range all {
		next = max(next, tli+1)
	}
	lineage := append(slices.Clone(all[from.tli].lineage), segment.Ancestor{Timeline: from.tli, Switch: from.lsn})
	all[next] = &line{lineage: lineage, begin: from.lsn, end: from.lsn}
	if w.here.sysid != from.sysid { // back to an older incarnation, and a backup of it has been tried
		w.state.Servers = append(w.state.Servers, catalog.Server{SystemID: from.sysid, SegmentSize: segSize})
	}
	w.here = place{from.sysid, next, from.lsn}
	w.lost[place{from.sysid, next, 0}] = w.chance(0.1)
	w.note("new timeline from %d at %s (its history is lost: %v)", from.tli, from.lsn, w.lost[place{from.sysid, next, 0}])
}

// recover goes back to a point in time from a backup that is there.
func (w *world) recover() {
	complete := w.state.Complete()
	if len(complete) == 0 {
		return
	}
	e := complete[w.IntN(len(complete))]
	var targets []moment
	for _, m := range w.path {
		if w.canReach(e, m.place) {
			targets = append(targets, m)
		}
	}
	if len(targets) > 0 {
		w.branch(targets[w.IntN(len(targets))].place)
	}
}

// backup takes one, or what becomes of one.
func (w *world) backup() {
	w.n++
	e := &catalog.Entry{ID: fmt.Sprintf("b%03d", w.n), Begun: w.now, Status: catalog.Running}
	e.Begin = catalog.Begin{Backup: e.ID, SystemID: w.here.sysid, Timeline: w.here.tli, LSN: w.here.lsn - min(w.here.lsn-w.line().begin, segment.LSN(w.Uint64N(3*uint64(segSize))))}
	if w.chance(0.1) {
		e.Begin.Timeline, e.Begin.LSN = 0, 0
	}
	if c := w.state.Complete(); len(c) > 0 {
		e.Begin.Reuses = []string{c[len(c)-1].ID}
	}
	w.state.Entries = append(w.state.Entries, e)
	start := w.here
	w.work(time.Hour)
	switch {
	case w.chance(0.1):
		e.Status = catalog.Aborted
		w.note("backup %s failed", e.ID)
		return
	case w.chance(0.1):
		w.running[e.ID] = start
		w.note("backup %s runs, or was killed", e.ID)
		return
	}
	w.commit(e, start)
}

func (w *world) commit(e *catalog.Entry, start place) {
	s := catalog.Summary{SystemID: start.sysid, Started: e.Begun, Consistent: w.now, Finished: w.now, Timeline: start.tli, StartLSN: start.lsn, StopLSN: w.here.lsn}
	if w.chance(0.15) {
		s.DamagedPages = 1
	}
	if w.chance(0.05) {
		w.forged[e.ID] = true
		s.Started, s.Consistent, s.Finished = s.Started.AddDate(10, 0, 0), s.Consistent.AddDate(10, 0, 0), s.Finished.AddDate(10, 0, 0)
	}
	if w.chance(0.03) {
		w.broken[e.ID] = "damaged"
	}
	if w.chance(0.03) {
		w.incomplete[e.ID] = "a part is missing"
	}
	if w.chance(0.1) {
		e.Pin = &catalog.Pin{Backup: e.ID}
		if w.chance(0.5) {
			e.Pin.Until = w.now.Add(time.Duration(w.IntN(60)) * 24 * time.Hour)
		}
	}
	e.Status, e.Commit = catalog.Complete, &catalog.Commit{Backup: e.ID, Summary: s}
	w.state.Committed = append(w.state.Committed, e.ID)
	w.note("backup %s from %s to %s, damaged %d, from the future %v, unreadable %q, incomplete %q, pinned %v", e.ID, s.StartLSN, s.StopLSN, s.DamagedPages, w.forged[e.ID], w.broken[e.ID], w.incomplete[e.ID], e.Pin)
}

// finish lets a running backup end, if the server is still where it was.
func (w *world) finish() {
	for id, start := range w.running {
		if start.sysid == w.here.sysid && start.tli == w.here.tli {
			if e := w.state.Entry(id); e.Status == catalog.Running {
				delete(w.running, id)
				w.work(time.Hour)
				w.commit(e, start)
			}
			return
		}
	}
}

// step is one thing that happens.
func (w *world) step() {
	switch p := w.Float64(); {
	case p < 0.45:
		w.backup()
	case p < 0.75:
		w.work(5 * 24 * time.Hour)
	case p < 0.83:
		w.recover()
	case p < 0.90:
		w.branch(w.here) // a failover
	case p < 0.95:
		w.finish()
	case p < 0.97:
		w.initdb()
	}
}

func (w *world) history() History {
	h := History{State: w.state, Timelines: map[uint64]timeline.Tree{}, Unreadable: w.broken, Damaged: w.incomplete}
	for sysid, lines := range w.lines {
		h.Timelines[sysid] = map[segment.Timeline]segment.Lineage{}
		for tli, l := range lines {
			h.Timelines[sysid][tli] = l.lineage
			if w.lost[place{sysid, tli, 0}] {
				h.Timelines[sysid][tli] = nil
			}
		}
	}
	return h
}

// has says whether the segments from..to (LSNs, the second exclusive) of a timeline are in the archive.
func (w *world) has(sysid uint64, tli segment.Timeline, from, to segment.LSN) bool {
	if to <= from {
		return true
	}
	first, last := segment.At(tli, from, segSize).No, segment.Before(tli, to, segSize).No
	for _, d := range w.lines[sysid][tli].dropped {
		if d[0] <= last && first <= d[1] {
			return false
		}
	}
	return true
}

// consistent says whether a backup has the WAL that it needs itself.
func (w *world) consistent(e *catalog.Entry) bool {
	s := e.Commit.Summary
	return w.has(s.SystemID, s.Timeline, s.StartLSN, s.StopLSN)
}

// useless says whether a backup cannot be restored, whatever WAL there is.
func (w *world) useless(id string) bool { return w.broken[id] != "" || w.incomplete[id] != "" }

// canReach replays, as PostgreSQL would: from the backup along its timeline, over to the next where the
// line of descent of the target says so, and on.
func (w *world) canReach(e *catalog.Entry, to place) bool {
	s := e.Commit.Summary
	if w.useless(e.ID) || s.SystemID != to.sysid || !w.consistent(e) {
		return false
	}
	steps := append(slices.Clone(w.lines[to.sysid][to.tli].lineage), segment.Ancestor{Timeline: to.tli, Switch: to.lsn})
	at := s.StartLSN
	on := false
	for _, a := range steps {
		if a.Timeline == s.Timeline {
			if a.Switch < s.StopLSN {
				return false
			}
			on = true
		}
		if !on {
			continue
		}
		if !w.has(to.sysid, a.Timeline, at, a.Switch) {
			return false
		}
		at = a.Switch
	}
	return on
}
