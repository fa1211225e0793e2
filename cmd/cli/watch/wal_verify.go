package watch

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
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/survey"
)

// WalVerify reads archived WAL and says which backups a damaged or missing segment affects.
type WalVerify struct {
	Range       string         `name:"range" placeholder:"FROM..TO" help:"Check only files whose names are in this range."`
	Sample      app.Percentage `name:"sample" default:"100" placeholder:"PERCENT" help:"Check only this percentage of the files, chosen at random. Gaps are always found."`
	Acknowledge string         `name:"acknowledge" placeholder:"FROM[..TO]" help:"Read nothing: record that these segments are lost, so that their gap is not an error any more."`
	Reason      string         `name:"reason" help:"With --acknowledge: why."`
	JSON        bool           `name:"json" help:"Print JSON: one object."`
	app.JobsFlag
}

// walVerified is the result as --json prints it.
type walVerified struct {
	Checked int64                `json:"checked"`
	Stored  int64                `json:"stored"` // bytes read
	Damaged []damagedWAL         `json:"damaged"`
	Gaps    []heldGap            `json:"gaps"`
	Orphans []orphan             `json:"orphans"`
	Backups []app.AffectedBackup `json:"backups"`
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
	segment  string // that it is, or is a piece of; empty: recovery does not need it
}

type heldGap struct {
	SystemID uint64 `json:"system_id,string"`
	survey.Gap
}

func (c *WalVerify) Run(ctx context.Context, a *app.App) error {
	store, all, err := a.Archives(ctx)
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
	v := walVerified{Damaged: []damagedWAL{}, Gaps: []heldGap{}, Orphans: []orphan{}, Backups: []app.AffectedBackup{}}
	for _, r := range all {
		if err := c.read(ctx, store, r, from, to, &v); err != nil {
			return err
		}
		for _, s := range r.Surveys {
			for _, h := range r.Gaps(s) {
				if held := (heldGap{r.Sysid, h}); !slices.Contains(v.Gaps, held) { // several timelines may begin after the same one
					v.Gaps = append(v.Gaps, held)
				}
			}
			if s.Orphan() {
				v.Orphans = append(v.Orphans, orphan{r.Sysid, s.Timeline, segment.HistoryName(s.Timeline)})
			}
		}
		v.affected(r)
	}
	if c.JSON {
		err = show.JSON(a.Out, v)
	} else {
		v.print(a)
	}
	return cmp.Or(err, v.verdict())
}

func (c *WalVerify) bounds() (from, to string, err error) {
	if c.Range == "" {
		return "", "", nil
	}
	from, to, ok := strings.Cut(c.Range, "..")
	if !ok || segment.Classify(from) != segment.Full || segment.Classify(to) != segment.Full {
		return "", "", app.Usagef("--range is %q: use FROM..TO, two names of WAL segments", c.Range)
	}
	if from > to {
		return "", "", app.Usagef("--range is %q: its end is before its beginning", c.Range)
	}
	return from, to, nil
}

// read checks the content of the files, several at once.
func (c *WalVerify) read(ctx context.Context, store storage.Store, r app.Archive, from, to string, v *walVerified) error {
	jobs, err := c.Count()
	if err != nil {
		return err
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(jobs)
	for o, err := range walstore.List(ctx, store, r.Sysid, 0, "") {
		if err != nil {
			return errors.Join(g.Wait(), err)
		}
		if from != "" && (o.Name < from || o.Name > to) || c.Sample < 100 && 100*rand.Float64() >= float64(c.Sample) {
			continue
		}
		if o.Type == segment.Received && r.Unread(o.Piece) {
			continue
		}
		g.Go(func() error {
			verify := walstore.Verify
			if o.Type == segment.Full {
				verify = walstore.VerifyNoted
			}
			err := verify(ctx, store, o)
			if err != nil && !errors.Is(err, object.ErrDamaged) {
				return fmt.Errorf("check %s: %w", o.Name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			v.Checked++
			v.Stored += o.Size
			if err != nil {
				d := damagedWAL{r.Sysid, o.Name, err.Error(), o.Name}
				if o.Type == segment.Received {
					d.Name = o.Piece.String()
				}
				if e, ok := errors.AsType[*object.DamagedError](err); ok && e.Key != o.Key && o.Type == segment.Full { // a note: recovery gets past it
					d.segment = ""
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

// affected finds the first bad segment in the way of each backup of an incarnation.
func (v *walVerified) affected(r app.Archive) {
	type bad struct{ first, last string }
	var all []bad
	for _, d := range v.Damaged {
		if d.SystemID == r.Sysid && segment.Classify(d.segment) == segment.Full {
			all = append(all, bad{d.segment, d.segment})
		}
	}
	for _, h := range v.Gaps {
		if h.SystemID == r.Sysid {
			all = append(all, bad{h.First, h.Last})
		}
	}
	for _, e := range r.State.Complete() {
		b := e.Commit.Summary
		if b.SystemID != r.Sysid {
			continue
		}
		if i := v.orphan(r.Sysid, b.Timeline); i >= 0 && b.From != "offline" {
			v.Backups = append(v.Backups, app.AffectedBackup{Backup: e.ID, Segment: v.Orphans[i].History})
			continue
		}
		descendants := r.Descendants(b)
		found := r.Missing(e.ID, b)
		for _, x := range all {
			// Behind the backup's first segment, by place, and on a timeline that it can be recovered along.
			tli, _ := segment.TimelineOf(x.last)
			if !slices.Contains(descendants, tli) || x.last[8:] < b.FirstWAL[8:] {
				continue
			}
			name := x.first
			if x.last[:8] == b.FirstWAL[:8] {
				name = max(x.first, b.FirstWAL)
			}
			if found.Segment == "" || name[8:] < found.Segment[8:] {
				usable := name[:8] != b.LastWAL[:8] || name > b.LastWAL || b.From == "offline"
				found = app.AffectedBackup{Backup: e.ID, Segment: name, Usable: usable}
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

func (v *walVerified) print(a *app.App) {
	fmt.Fprintf(a.Out, "checked %s, %s as stored: %d damaged\n", show.Number(v.Checked, "file"), show.Size(v.Stored), len(v.Damaged))
	for _, d := range v.Damaged {
		fmt.Fprintln(a.Out, d.Error)
	}
	for _, h := range v.Gaps {
		fmt.Fprintln(a.Out, describeGap(h.Gap))
	}
	for _, o := range v.Orphans {
		fmt.Fprintf(a.Out, "timeline %d has WAL, but no history file: no recovery can reach it. Run in the data directory of a server that is or was on it: pgobj wal-push pg_wal/%s\n", o.Timeline, o.History)
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
		return &app.Coded{Code: app.ExitDamaged, Err: nil}
	}
	if len(v.Orphans) > 0 {
		return &app.Coded{Code: app.ExitWAL, Err: nil}
	}
	for _, h := range v.Gaps {
		if !h.Acknowledged {
			return &app.Coded{Code: app.ExitWAL, Err: nil}
		}
	}
	for _, b := range v.Backups {
		if !b.Usable && !v.acknowledged(b.Segment) {
			return &app.Coded{Code: app.ExitWAL, Err: nil}
		}
	}
	return nil
}

func (c *WalVerify) acknowledge(ctx context.Context, a *app.App, store storage.Store, all []app.Archive) error {
	first, last, ranged := strings.Cut(c.Acknowledge, "..")
	if !ranged {
		last = first
	}
	if segment.Classify(first) != segment.Full || segment.Classify(last) != segment.Full {
		return app.Usagef("--acknowledge is %q: use FROM..TO, two names of WAL segments", c.Acknowledge)
	}
	if c.Reason == "" {
		return app.Usagef("--acknowledge needs --reason: wal-list and wal-verify will print why the segments are lost")
	}
	done := 0
	for _, r := range all {
		for _, s := range r.Surveys {
			for _, h := range r.Gaps(s) {
				if h.Acknowledged || h.First < first || h.Last > last {
					continue
				}
				if err := survey.Acknowledge(ctx, store, r.Sysid, survey.Lost{First: h.First, Last: h.Last, Reason: c.Reason, Time: time.Now().UTC()}); err != nil {
					return err
				}
				done++
				fmt.Fprintf(a.Out, "acknowledged: %s to %s\n", h.First, h.Last)
			}
		}
	}
	if done == 0 {
		return app.Usagef("there is no unacknowledged gap between %s and %s. To see the gaps: pgobj wal-list", first, last)
	}
	return nil
}

func (v *walVerified) acknowledged(name string) bool {
	return slices.ContainsFunc(v.Gaps, func(h heldGap) bool { return h.Acknowledged && h.First <= name && name <= h.Last })
}
