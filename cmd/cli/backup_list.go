package cli

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/show"
)

type backupList struct {
	All  bool `name:"all" help:"Also list backups that are running or have failed, behind the others."`
	JSON bool `name:"json" help:"Print JSON: an array of objects, oldest backup first."`
}

// listed is one backup as --json prints it. One that is not complete has only what is known of its start.
type listed struct {
	Backup string         `json:"backup"`
	Status catalog.Status `json:"status"`
	*catalog.Summary
	Pin    *pin           `json:"pin,omitempty"`
	Drill  *catalog.Drill `json:"drill,omitempty"`  // the last one
	Begun  time.Time      `json:"begun,omitzero"`   // of those that are not complete
	By     string         `json:"by,omitempty"`     // HOST/PID/RANDOM
	Reason string         `json:"reason,omitempty"` // why it failed
}

// pin keeps a backup from deletion.
type pin struct {
	Until time.Time `json:"until,omitzero"` // none: for good
}

func (a *app) listed(e *catalog.Entry) listed {
	if e.Status == catalog.Complete {
		return listed{Backup: e.ID, Status: e.Status, Summary: &e.Commit.Summary, Pin: a.pinOf(e), Drill: e.Drill}
	}
	l := listed{Backup: e.ID, Status: e.Status, Begun: e.Begun, By: e.By}
	if e.Abort != nil {
		l.Reason = e.Abort.Reason
	}
	return l
}

// pinOf is the pin of a backup that holds now, or nil.
func (a *app) pinOf(e *catalog.Entry) *pin {
	if e.Pin == nil || !e.Pin.Until.IsZero() && !e.Pin.Until.After(a.now()) {
		return nil
	}
	return &pin{e.Pin.Until}
}

func (p *pin) String() string {
	switch {
	case p == nil:
		return ""
	case p.Until.IsZero():
		return "pinned"
	}
	return "pinned until " + p.Until.UTC().Format(time.DateTime+" MST")
}

func (c *backupList) Run(ctx context.Context, a *app) error {
	r, err := a.loadKnown(ctx)
	if err != nil {
		return err
	}
	strangers, err := r.cat.Strangers(ctx, r.state)
	if err != nil {
		return err
	}
	if n := len(strangers); n > 0 {
		a.log.Warn("there are newer backups that the catalog does not know, so its newest records may be lost: see pgobj catalog-rebuild", "backups", n, "first", strangers[0], "last", strangers[n-1])
	}
	for _, p := range r.state.Problems {
		a.log.Warn("the catalog is damaged; backups may be missing from this list: see pgobj catalog-rebuild", "problem", p)
	}
	list := []listed{}
	for _, e := range r.state.Complete() {
		list = append(list, a.listed(e))
	}
	for _, e := range r.state.Entries {
		if !c.All || e.Status != catalog.Running && e.Status != catalog.Aborted {
			continue
		}
		list = append(list, a.listed(e))
	}
	if c.JSON {
		return show.JSON(a.Out, list)
	}
	if len(list) == 0 {
		fmt.Fprintf(a.Err, "server %s has no backup in %s\n", a.Server, r.store)
		return nil
	}
	return table(a, list)
}

func table(a *app, list []listed) error {
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "BACKUP\tSTARTED (UTC)\tTOOK\tPG\tTLI\tWAL NEEDED\tLSN\tSIZE\tREUSED\tSTORED\tNOTE")
	for _, b := range list {
		if b.Summary == nil {
			fmt.Fprintf(w, "%s\t%s\t\t\t\t\t\t\t\t\t%s\n", b.Backup, b.Begun.UTC().Format(time.DateTime), unfinished(b))
			continue
		}
		wal := b.FirstWAL
		if b.From == "offline" {
			wal = "none"
		} else if b.LastWAL != b.FirstWAL {
			wal += " .. " + b.LastWAL[8:]
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s .. %s\t%s\t%s\t%s\t%s\n", b.Backup, b.Started.UTC().Format(time.DateTime),
			b.Finished.Sub(b.Started).Round(100*time.Millisecond), show.PGVersion(b.PGVersion), b.Timeline, wal, b.StartLSN, b.StopLSN, show.Size(b.Size), show.Percent(b.Reused, b.Size), show.Size(b.Stored), note(b))
	}
	return w.Flush()
}

// drillNote says how the last drill of a backup went.
func drillNote(d *catalog.Drill) string {
	if !d.OK {
		return "DRILL FAILED " + d.Started.UTC().Format(time.DateOnly)
	}
	return fmt.Sprintf("drilled %s: %s", d.Started.UTC().Format(time.DateOnly), show.Words(time.Duration(d.Recovery*float64(time.Second))))
}

// note is what has to be known of a complete backup besides the figures.
func note(b listed) string {
	var notes []string
	if b.DamagedPages > 0 {
		notes = append(notes, strings.ToUpper(show.Number(b.DamagedPages, "damaged page")))
	}
	if b.From == "standby" || b.From == "offline" {
		notes = append(notes, "from "+where(b.Summary))
	}
	if b.Pin != nil {
		notes = append(notes, b.Pin.String())
	}
	if b.Drill != nil {
		notes = append(notes, drillNote(b.Drill))
	}
	if len(b.Labels) > 0 {
		notes = append(notes, labelText(b.Labels))
	}
	return strings.Join(notes, ", ")
}

// unfinished says of a backup that is not complete what became of it, in one line.
func unfinished(b listed) string {
	if b.Status == catalog.Running {
		return "RUNNING, or killed; begun by " + b.By
	}
	reason, _, _ := strings.Cut(b.Reason, "\n")
	return "FAILED: " + reason
}
