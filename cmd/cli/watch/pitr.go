package watch

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/show"
)

// PitrWindows tells which points in time can be restored. A window begins where its first backup is consistent,
// and ends a microsecond before the last transaction in the WAL that can be got to from there without a gap
// ended: PostgreSQL knows that it has reached a target time only from a transaction that ended after it
// (recoveryStopsBefore in xlogrecovery.c), and fails when there is none. That last transaction is had by recovery
// to the end of the WAL. A backup after it has a window of its own, without an end: no time at all can be its target.
type PitrWindows struct {
	JSON bool `name:"json" help:"Print JSON: an array of objects, one for each window."`
}

func (c *PitrWindows) Run(ctx context.Context, a *app.App) error {
	store, all, err := a.Archives(ctx)
	if err != nil {
		return err
	}
	windows := []*app.PitrWindow{}
	for _, r := range all {
		for _, s := range r.Surveys {
			found, err := r.Windows(ctx, store, s)
			if err != nil {
				return err
			}
			windows = append(windows, found...)
		}
	}
	if c.JSON {
		return show.JSON(a.Out, windows)
	}
	if len(windows) == 0 {
		fmt.Fprintf(a.Err, "nothing can be restored: server %s has no backup with all its WAL in %s\n", a.Server, store)
		return nil
	}
	drawWindows(a, windows)
	return nil
}

const windowWidth = 60

// drawWindows shows time from left to right: = can be restored, B a backup is consistent here, . nothing.
func drawWindows(a *app.App, windows []*app.PitrWindow) {
	begin, end := windows[0].From, windows[0].From
	for _, w := range windows {
		for _, t := range append(w.At, w.To) {
			if t.Before(begin) && !t.IsZero() {
				begin = t
			}
			if t.After(end) {
				end = t
			}
		}
	}
	place := func(t time.Time) int {
		return int(float64(windowWidth-1) * float64(t.Sub(begin)) / float64(max(end.Sub(begin), 1)))
	}
	fmt.Fprintf(a.Out, "%s to %s UTC   = can be restored   B backup   . cannot\n", begin.UTC().Format(time.DateTime), end.UTC().Format(time.DateTime))
	for i := 0; i < len(windows); {
		bar := []byte(strings.Repeat(".", windowWidth))
		j := i
		for ; j < len(windows) && windows[j].Timeline == windows[i].Timeline && windows[j].SystemID == windows[i].SystemID; j++ {
			w := windows[j]
			for x := place(w.From); !w.To.IsZero() && x <= place(w.To); x++ {
				bar[x] = '='
			}
			for _, t := range w.At {
				bar[place(t)] = 'B'
			}
		}
		fmt.Fprintf(a.Out, "\nsystem %d, timeline %d\n%s\n", windows[i].SystemID, windows[i].Timeline, bar)
		for ; i < j; i++ {
			w := windows[i]
			backups := show.Plural(len(w.Backups), "backup") + " " + strings.Join(w.Backups, ", ")
			if w.To.IsZero() {
				fmt.Fprintf(a.Out, "  %s UTC, no later time, because no transaction has ended since (%s). Use --target immediate, or no target: %s\n", w.From.UTC().Format(time.DateTime), w.Why, backups)
				continue
			}
			fmt.Fprintf(a.Out, "  %s to %s UTC (%s): %s\n", w.From.UTC().Format(time.DateTime), w.To.UTC().Format("2006-01-02 15:04:05.000000"), w.Why, backups)
		}
	}
}
