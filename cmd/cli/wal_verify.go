package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/survey"
)

// walVerify reads archived WAL and says which backups what is wrong hurts.
type walVerify struct {
	Range       string     `name:"range" placeholder:"FROM..TO" help:"Check only files whose names are in this range."`
	Sample      percentage `name:"sample" default:"100" placeholder:"PERCENT" help:"Check only so many in a hundred, picked at random. Holes are always found."`
	Acknowledge string     `name:"acknowledge" placeholder:"FROM[..TO]" help:"Read nothing: record that these segments are known to be lost, so that their hole is no error any more."`
	Reason      string     `name:"reason" help:"With --acknowledge: why."`
	JSON        bool       `name:"json" help:"Print JSON: one object."`
	jobsFlag
}

// walVerified is the result as --json prints it.
type walVerified struct {
	Checked int64        `json:"checked"`
	Stored  int64        `json:"stored"` // bytes read
	Damaged []damagedWAL `json:"damaged"`
	Holes   []heldHole   `json:"holes"`
	Orphans []orphan     `json:"orphans"`
	Backups []hurtBackup `json:"backups"`
}

// orphan is a timeline without its history file.
type orphan struct {
	SystemID uint64           `json:"system_id,string"`
	Timeline segment.Timeline `json:"timeline"`
	History  string           `json:"history"` // the file that is missing
}

type damagedWAL struct {
	SystemID uint64 `json:"system_id,string"`
	Name     string `json:"name"`
	Error    string `json:"error"`
	segment  string // that it is, or is a piece of
}

type heldHole struct {
	SystemID uint64 `json:"system_id,string"`
	survey.Hole
}

// hurtBackup is a backup that a missing or damaged segment is in the way of.
type hurtBackup struct {
	Backup  string `json:"backup"`
	Segment string `json:"segment"`
	Usable  bool   `json:"usable"` // it can be restored, but not recovered past the segment
}

func (c *walVerify) Run(ctx context.Context, a *app) error {
	store, all, err := a.archives(ctx)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("%w, and no WAL: server %s has nothing to check in %s", catalog.ErrNoBackup, a.Server, store)
	}
	if c.Acknowledge != "" {
		return c.acknowledge(ctx, a, store, all)
	}
	from, to, err := c.bounds()
	if err != nil {
		return err
	}
	v := walVerified{Damaged: []damagedWAL{}, Holes: []heldHole{}, Orphans: []orphan{}, Backups: []hurtBackup{}}
	for _, r := range all {
		if err := c.read(ctx, store, r, from, to, &v); err != nil {
			return err
		}
		for _, s := range r.surveys {
			for _, h := range r.holes(s) {
				if held := (heldHole{r.sysid, h}); !slices.Contains(v.Holes, held) { // several timelines may begin behind the same one
					v.Holes = append(v.Holes, held)
				}
			}
			if s.Orphan() {
				v.Orphans = append(v.Orphans, orphan{r.sysid, s.Timeline, segment.HistoryName(s.Timeline)})
			}
		}
		v.hurt(r)
	}
	if c.JSON {
		err = show.JSON(a.Out, v)
	} else {
		v.print(a)
	}
	return cmp.Or(err, v.verdict())
}

func (c *walVerify) bounds() (from, to string, err error) {
	if c.Range == "" {
		return "", "", nil
	}
	from, to, ok := strings.Cut(c.Range, "..")
	if !ok || segment.Classify(from) != segment.Full || segment.Classify(to) != segment.Full {
		return "", "", usagef("--range is %q: use FROM..TO, two names of WAL segments", c.Range)
	}
	if from > to {
		return "", "", usagef("--range is %q: its end comes before its beginning", c.Range)
	}
	return from, to, nil
}

// read checks the content of the files, several at once.
func (c *walVerify) read(ctx context.Context, store storage.Store, r archive, from, to string, v *walVerified) error {
	jobs, err := c.count()
	if err != nil {
		return err
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(jobs)
	for o, err := range walstore.List(ctx, store, r.sysid, 0, "") {
		if err != nil {
			return errors.Join(g.Wait(), err)
		}
		if from != "" && (o.Name < from || o.Name > to) || c.Sample < 100 && 100*rand.Float64() >= float64(c.Sample) {
			continue
		}
		if o.Type == segment.Received && r.obsolete(o.Piece) {
			continue
		}
		g.Go(func() error {
			err := walstore.Verify(ctx, store, o)
			if err != nil && !errors.Is(err, object.ErrDamaged) {
				return fmt.Errorf("check %s: %w", o.Name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			v.Checked++
			v.Stored += o.Size
			if err != nil {
				d := damagedWAL{r.sysid, o.Name, err.Error(), o.Name}
				if o.Type == segment.Received {
					d.Name = o.Piece.String()
				}
				v.Damaged = append(v.Damaged, d)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	slices.SortFunc(v.Damaged, func(a, b damagedWAL) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// obsolete: the piece's segment is archived, so that nobody reads the piece any more.
func (r archive) obsolete(p object.Piece) bool {
	return slices.ContainsFunc(r.surveys, func(s *survey.Survey) bool { return slices.Contains(s.Obsolete, p) })
}

// hurt finds the first bad segment in the way of each backup of an incarnation.
func (v *walVerified) hurt(r archive) {
	type bad struct{ first, last string }
	var all []bad
	for _, d := range v.Damaged {
		if d.SystemID == r.sysid && segment.Classify(d.segment) == segment.Full {
			all = append(all, bad{d.segment, d.segment})
		}
	}
	for _, h := range v.Holes {
		if h.SystemID == r.sysid {
			all = append(all, bad{h.First, h.Last})
		}
	}
	for _, e := range r.state.Complete() {
		b := e.Commit.Summary
		if b.SystemID != r.sysid {
			continue
		}
		if i := v.orphan(r.sysid, b.Timeline); i >= 0 && b.From != "offline" {
			v.Backups = append(v.Backups, hurtBackup{Backup: e.ID, Segment: v.Orphans[i].History})
			continue
		}
		lines := r.linesOf(b)
		found := r.missing(e.ID, b)
		for _, x := range all {
			// Behind the backup's first segment, by place, and on a timeline that it can be recovered along.
			if !slices.Contains(lines, x.last[:8]) || x.last[8:] < b.FirstWAL[8:] {
				continue
			}
			name := x.first
			if x.last[:8] == b.FirstWAL[:8] {
				name = max(x.first, b.FirstWAL)
			}
			if found.Segment == "" || name[8:] < found.Segment[8:] {
				usable := name[:8] != b.LastWAL[:8] || name > b.LastWAL || b.From == "offline"
				found = hurtBackup{Backup: e.ID, Segment: name, Usable: usable}
			}
		}
		if found.Segment != "" {
			v.Backups = append(v.Backups, found)
		}
	}
}

func (v *walVerified) orphan(sysid uint64, tli segment.Timeline) int {
	return slices.IndexFunc(v.Orphans, func(o orphan) bool { return o.SystemID == sysid && o.Timeline == tli })
}

// missing is the first segment that the backup itself needs and the archive does not have.
func (r archive) missing(id string, b catalog.Summary) hurtBackup {
	if b.From == "offline" { // what it needs is among its files
		return hurtBackup{}
	}
	i := slices.IndexFunc(r.surveys, func(s *survey.Survey) bool { return s.Timeline == b.Timeline && len(s.Runs) > 0 })
	if i < 0 {
		return hurtBackup{Backup: id, Segment: b.FirstWAL}
	}
	size := r.surveys[i].SegmentSize
	first, err1 := segment.ParseName(b.FirstWAL, size)
	last, err2 := segment.ParseName(b.LastWAL, size)
	if err1 != nil || err2 != nil {
		return hurtBackup{}
	}
	end, ok := survey.Reach(r.surveys, b.Timeline, first.No, r.surveys[i])
	switch {
	case !ok:
		return hurtBackup{Backup: id, Segment: b.FirstWAL}
	case end.No < last.No:
		return hurtBackup{Backup: id, Segment: end.Next().Name(size)}
	}
	return hurtBackup{}
}

// linesOf are the timelines, in the form of file names, that recovery of a backup can get to: its own, and those that left it
// when the backup was complete.
func (r archive) linesOf(b catalog.Summary) []string {
	lines := []string{b.Timeline.Hex()}
	for _, s := range r.surveys {
		if left, ok := s.Lineage.Left(b.Timeline); !ok || left < b.StopLSN {
			continue
		}
		for _, a := range s.Lineage { // nothing else may be left of one on the way
			if a.Timeline > b.Timeline {
				lines = append(lines, a.Timeline.Hex())
			}
		}
		lines = append(lines, s.Timeline.Hex())
	}
	return lines
}

func (v *walVerified) print(a *app) {
	fmt.Fprintf(a.Out, "checked %s, %s as stored: %d damaged\n", show.Number(v.Checked, "file"), show.Size(v.Stored), len(v.Damaged))
	for _, d := range v.Damaged {
		fmt.Fprintln(a.Out, d.Error)
	}
	for _, h := range v.Holes {
		fmt.Fprintln(a.Out, describeHole(h.Hole))
	}
	for _, o := range v.Orphans {
		fmt.Fprintf(a.Out, "timeline %d has WAL, and no history file: no recovery gets to it. On a server that is on it, or was: pgobj wal-push pg_wal/%s\n", o.Timeline, o.History)
	}
	for _, b := range v.Backups {
		if b.Usable {
			fmt.Fprintf(a.Out, "backup %s cannot be recovered past %s\n", b.Backup, b.Segment)
		} else {
			fmt.Fprintf(a.Out, "backup %s CANNOT BE RESTORED: it needs %s\n", b.Backup, b.Segment)
		}
	}
}

// verdict is the command's exit code; the text has been printed.
func (v *walVerified) verdict() error {
	if len(v.Damaged) > 0 {
		return &coded{exitDamaged, nil}
	}
	if len(v.Orphans) > 0 {
		return &coded{exitWAL, nil}
	}
	for _, h := range v.Holes {
		if !h.Acknowledged {
			return &coded{exitWAL, nil}
		}
	}
	for _, b := range v.Backups {
		if !b.Usable && !v.acknowledged(b.Segment) {
			return &coded{exitWAL, nil}
		}
	}
	return nil
}

func (c *walVerify) acknowledge(ctx context.Context, a *app, store storage.Store, all []archive) error {
	first, last, ranged := strings.Cut(c.Acknowledge, "..")
	if !ranged {
		last = first
	}
	if segment.Classify(first) != segment.Full || segment.Classify(last) != segment.Full {
		return usagef("--acknowledge is %q: use FROM..TO, two names of WAL segments", c.Acknowledge)
	}
	if c.Reason == "" {
		return usagef("--acknowledge needs a --reason: wal-list and wal-verify show why the segments are lost")
	}
	done := 0
	for _, r := range all {
		for _, s := range r.surveys {
			for _, h := range r.holes(s) {
				if h.Acknowledged || h.First < first || h.Last > last {
					continue
				}
				if err := survey.Acknowledge(ctx, store, r.sysid, survey.Lost{First: h.First, Last: h.Last, Reason: c.Reason, Time: time.Now().UTC()}); err != nil {
					return err
				}
				done++
				fmt.Fprintf(a.Out, "acknowledged: %s to %s\n", h.First, h.Last)
			}
		}
	}
	if done == 0 {
		return usagef("there is no hole between %s and %s that is not acknowledged yet: pgobj wal-list shows them", first, last)
	}
	return nil
}

func (v *walVerified) acknowledged(name string) bool {
	return slices.ContainsFunc(v.Holes, func(h heldHole) bool { return h.Acknowledged && h.First <= name && name <= h.Last })
}
