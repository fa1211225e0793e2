package watch

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/walstore/survey"
)

type WalList struct {
	JSON bool `name:"json" help:"Print JSON: an array of objects, one for each timeline."`
}

func (c *WalList) Run(ctx context.Context, a *app.App) error {
	store, all, err := a.Archives(ctx)
	if err != nil {
		return err
	}
	list := []app.ListedWAL{}
	alarm := false
	for _, r := range all {
		for _, v := range r.Surveys {
			l := r.Listed(v)
			list = append(list, l)
			for _, h := range l.Gaps {
				alarm = alarm || !h.Acknowledged
			}
		}
	}
	switch {
	case c.JSON:
		err = show.JSON(a.Out, list)
	case len(list) == 0:
		fmt.Fprintf(a.Err, "server %s has no WAL in %s\n", a.Server, store)
	default:
		err = walTable(a, list)
	}
	if err == nil && alarm {
		return &app.Coded{Code: app.ExitWAL, Err: nil}
	}
	return err
}

func walTable(a *app.App, list []app.ListedWAL) error {
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SYSTEM ID\tTLI\tFIRST\tLAST\tSEGMENTS\tSIZE\tSTORED\tRATIO\tOLDEST (UTC)\tNEWEST (UTC)\tA DAY\tGAPS\tNOTE")
	for _, l := range list {
		var notes []string
		if l.Timeline > 1 && !l.History {
			notes = append(notes, "NO HISTORY FILE")
		}
		if l.Partial {
			notes = append(notes, "ends with a .partial")
		}
		if l.Received > 0 {
			notes = append(notes, fmt.Sprintf("and %s of %s", show.Size(l.Received), l.Receiving))
		}
		var ratio, perDay, oldest, newest string
		if l.Stored > 0 {
			ratio = fmt.Sprintf("%.1f", float64(l.Size)/float64(l.Stored))
		}
		if l.PerDay > 0 {
			perDay = show.Size(l.PerDay)
		}
		if l.Segments > 0 {
			oldest, newest = l.Oldest.UTC().Format(time.DateTime), l.Newest.UTC().Format(time.DateTime)
		}
		fmt.Fprintf(w, "%d\t%d\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", l.SystemID, l.Timeline, l.First, l.Last, l.Segments, show.Size(l.Size), show.Size(l.Stored), ratio,
			oldest, newest, perDay, len(l.Gaps), strings.Join(notes, ", "))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	told := map[survey.Gap]bool{} // several timelines may begin after the same gap
	for _, l := range list {
		for _, h := range l.Gaps {
			if !told[h] {
				fmt.Fprintln(a.Out, describeGap(h))
			}
			told[h] = true
		}
	}
	return nil
}

func describeGap(h survey.Gap) string {
	text := fmt.Sprintf("gap on timeline %d: %s", h.Timeline, h.First)
	if h.Last != h.First {
		text += fmt.Sprintf(" to %s (%s)", h.Last, show.Number(h.Count, "segment"))
	}
	if h.Acknowledged {
		text += ", acknowledged: " + h.Reason
	}
	return text
}
