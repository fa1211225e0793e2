package lists

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/pgobj/pgobj/backup/rebuild"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/storage/retry"
)

type RebuildCmd struct {
	Confirm bool `name:"confirm" help:"Carry out the plan. Without this flag the plan is printed and nothing is changed. No deletion may run at the same time."`
	JSON    bool `name:"json" help:"Print the plan as JSON."`
}

// rebuildReport is what --json prints.
type rebuildReport struct {
	Records  int64          `json:"records"`  // of the log
	Problems []string       `json:"problems"` // what of it cannot be read
	Same     int            `json:"same"`     // backups that are listed and stay so
	Backups  []rebuildFound `json:"backups"`  // the others of which something is known
	Done     bool           `json:"done"`
}

type rebuildFound struct {
	Backup string       `json:"backup"`
	Fate   rebuild.Fate `json:"fate"` // back, described, lost, damaged or unknown
	Why    string       `json:"why"`
}

func (c *RebuildCmd) Run(ctx context.Context, a *app.App) error {
	store, err := a.Open(retry.Policy{})
	if err != nil {
		return err
	}
	if err := a.Known(ctx, store); err != nil {
		return err
	}
	plan, err := rebuild.NewPlan(ctx, store, a.Catalog(store))
	if err != nil {
		return err
	}
	report := rebuildReport{Records: plan.Records, Problems: append([]string{}, plan.Problems...), Same: plan.Same, Backups: []rebuildFound{}}
	for _, f := range plan.Found {
		report.Backups = append(report.Backups, rebuildFound{f.Backup, f.Fate, f.Why})
	}
	if !c.JSON {
		printRebuild(a, plan, report)
	}
	if c.Confirm && !plan.Empty() {
		if err := plan.Run(ctx); err != nil {
			return err
		}
		report.Done = true
	}
	switch {
	case c.JSON:
		return show.JSON(a.Out, report)
	case plan.Empty():
		fmt.Fprintln(a.Out, "There is nothing to rebuild.")
	case report.Done:
		fmt.Fprintln(a.Out, "\ndone. List the backups (pgobj backup-list), and check them once: pgobj backup-verify all")
	default:
		fmt.Fprintln(a.Out, "\nNothing has been changed. To carry out this plan, check that no deletion is running, and give the same command with --confirm.")
	}
	return nil
}

// fates are the words for what becomes of a backup.
var fates = map[rebuild.Fate]string{rebuild.Back: "COMES BACK", rebuild.Described: "IS MENDED", rebuild.Lost: "NOT LISTED", rebuild.Damaged: "STAYS DAMAGED", rebuild.Unknown: "left alone"}

func printRebuild(a *app.App, p *rebuild.Plan, r rebuildReport) {
	fmt.Fprintf(a.Out, "The log has %s; nothing changes for %s.\n", show.Number(r.Records, "record"), show.Number(r.Same, "listed backup"))
	for _, problem := range p.Problems {
		fmt.Fprintf(a.Out, "  cannot be read: %s\n", problem)
	}
	if len(r.Backups) > 0 {
		w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "BACKUP\t\tWHY")
		for _, f := range r.Backups {
			fmt.Fprintf(w, "%s\t%s\t%s\n", f.Backup, fates[f.Fate], f.Why)
		}
		w.Flush()
	}
	if !p.Empty() && (len(p.Problems) > 0 || p.Records == 0) {
		fmt.Fprintln(a.Out, "Pins, failures and deletions that only lost records told are gone. A backup that such a deletion took comes back if all its objects\nare still there: delete it again if it is not wanted. What the log still tells of deletions holds.")
	}
}
