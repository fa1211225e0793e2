package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage/retry"
)

type backupList struct {
	JSON bool `name:"json" help:"Print JSON: an array of objects, oldest backup first."`
}

// listed is one backup as --json prints it.
type listed struct {
	Backup string `json:"backup"`
	catalog.Summary
	Drill *catalog.Drill `json:"drill,omitempty"` // the last one
}

func (c *backupList) Run(ctx context.Context, a *app) error {
	store, err := a.open(retry.Policy{})
	if err != nil {
		return err
	}
	state, err := a.catalog(store).Load(ctx)
	if err != nil {
		return err
	}
	for _, p := range state.Problems {
		a.log.Warn("the catalog is damaged; backups may be missing from this list", "problem", p)
	}
	list := []listed{}
	for _, e := range state.Complete() {
		list = append(list, listed{e.ID, e.Commit.Summary, e.Drill})
	}
	if c.JSON {
		return printJSON(a.Out, list)
	}
	if len(list) == 0 {
		fmt.Fprintf(a.Err, "server %s has no backup in %s\n", a.Server, store)
		return nil
	}
	return table(a, list)
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func table(a *app, list []listed) error {
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "BACKUP\tSTARTED (UTC)\tTOOK\tPG\tTLI\tWAL NEEDED\tLSN\tSIZE\tREUSED\tSTORED\tNOTE")
	for _, b := range list {
		note := b.Label
		if b.DamagedPages > 0 {
			note = fmt.Sprintf("%d DAMAGED PAGES %s", b.DamagedPages, note)
		}
		note = strings.TrimSpace(note + " " + drillNote(b.Drill))
		wal := b.FirstWAL
		if b.LastWAL != b.FirstWAL {
			wal += " .. " + b.LastWAL[8:]
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s .. %s\t%s\t%s\t%s\t%s\n", b.Backup, b.Started.UTC().Format("2006-01-02 15:04:05"),
			b.Finished.Sub(b.Started).Round(100*time.Millisecond), pgVersion(b.PGVersion), b.Timeline, wal, b.StartLSN, b.StopLSN, size(b.Size), percent(b.Reused, b.Size), size(b.Stored), note)
	}
	return w.Flush()
}

// drillNote says how the last drill of a backup went.
func drillNote(d *catalog.Drill) string {
	switch {
	case d == nil:
		return ""
	case !d.OK:
		return "DRILL FAILED " + d.Started.UTC().Format(time.DateOnly)
	}
	return fmt.Sprintf("drilled %s: %s", d.Started.UTC().Format(time.DateOnly), words(time.Duration(d.Recovery*float64(time.Second))))
}

// pgVersion is a server_version_num as people say it: 15.4.
func pgVersion(n int) string { return fmt.Sprintf("%d.%d", n/10000, n%10000) }

// percent is how much n is of all.
func percent(n, all int64) string { return fmt.Sprintf("%.1f %%", 100*float64(n)/float64(max(all, 1))) }

// size is a number of bytes in the unit that fits, as PostgreSQL's pg_size_pretty counts (1 kB = 1024).
func size(n int64) string {
	f, unit := float64(n), "B"
	for _, u := range []string{"kB", "MB", "GB", "TB", "PB"} {
		if f < 1024 {
			break
		}
		f, unit = f/1024, u
	}
	if unit == "B" || f >= 100 {
		return fmt.Sprintf("%.0f %s", f, unit)
	}
	return fmt.Sprintf("%.1f %s", f, unit)
}
