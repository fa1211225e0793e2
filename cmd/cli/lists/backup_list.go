package lists

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/show"
)

type BackupList struct {
	All  bool `name:"all" help:"Also list backups that are running or have failed, after the others."`
	JSON bool `name:"json" help:"Print JSON: an array of objects, oldest backup first."`
}

func (c *BackupList) Run(ctx context.Context, a *app.App) error {
	r, err := a.LoadKnown(ctx)
	if err != nil {
		return err
	}
	strangers, err := r.Cat.Strangers(ctx, r.State)
	if err != nil {
		return err
	}
	if n := len(strangers); n > 0 {
		a.Log.Warn("the storage has newer backups that the catalog does not list, so its newest records may be lost: see pgobj catalog-rebuild", "backups", n, "first", strangers[0], "last", strangers[n-1])
	}
	for _, p := range r.State.Problems {
		a.Log.Warn("the catalog is damaged; backups may be missing from this list: see pgobj catalog-rebuild", "problem", p)
	}
	list := []app.Listed{}
	for _, e := range r.State.Complete() {
		list = append(list, a.Listed(e))
	}
	for _, e := range r.State.Entries {
		if !c.All || e.Status != catalog.Running && e.Status != catalog.Aborted {
			continue
		}
		list = append(list, a.Listed(e))
	}
	if c.JSON {
		return show.JSON(a.Out, list)
	}
	if len(list) == 0 {
		fmt.Fprintf(a.Err, "server %s has no backup in %s\n", a.Server, r.Store)
		return nil
	}
	return table(a, list)
}

func table(a *app.App, list []app.Listed) error {
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
func note(b app.Listed) string {
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
func unfinished(b app.Listed) string {
	if b.Status == catalog.Running {
		return "RUNNING, or killed; begun by " + b.By
	}
	reason, _, _ := strings.Cut(b.Reason, "\n")
	return "FAILED: " + reason
}
