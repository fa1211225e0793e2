package backups

import (
	"fmt"
	"strings"
	"time"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/backup/restore"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/show"
)

// printPlan shows what a restore would do.
func printPlan(a *app.App, p *restore.Plan) {
	b, out := p.Backup, &show.Columns{W: a.Out}
	out.Row("backup", "%s, consistent from %s on; PostgreSQL %s, %s in %s", b.ID, b.Consistent.UTC().Format(time.DateTime+" MST"), b.PGVersionText, show.Size(b.Size), show.Number(b.Files, "file"))
	switch {
	case len(p.Path) == 0 && b.From == "offline":
		out.Row("recovery", "none: the server starts in the state in which it was shut down")
	case len(p.Path) == 0:
		out.Row("recovery", "none is set up")
	case p.Recovery.Standby:
		out.Row("recovery", "as a standby, %s", timelines(p))
	default:
		out.Row("recovery", "to %s, %s", p.Recovery.Goal(), timelines(p))
	}
	if p.Where != "" {
		out.Row("", "%s", p.Where)
	}
	for _, f := range p.Forks {
		out.Row("", "not along %s", f)
	}
	if p.WAL.Segments > 0 {
		out.Row("WAL", "%s to %s: %s, %s as stored", p.WAL.First, p.WAL.Last, show.Number(p.WAL.Segments, "segment"), show.Size(p.WAL.Bytes))
	}
	if p.LeftOut > 0 {
		out.Row("left out", "%s of databases that were not named", show.Size(p.LeftOut))
	}
	out.Row("fetch", "%s %s, besides the WAL", map[bool]string{true: "at most", false: "about"}[p.Delta], show.Size(p.Fetch))
	for _, place := range p.Places {
		out.Row("write", "%s to %s (%s free): %s", show.Size(place.Write), place.Path, show.Size(place.Free), place.Name)
	}
	for _, name := range p.Saved {
		out.Row("save", "%s, which was never archived", name)
	}
	for _, f := range p.Settings {
		out.Row("settings", "%s", f.File)
		for _, l := range f.Lines {
			out.Row("", "  %s", show.HidePassword(l))
		}
	}
	printDangers(out, p)
	for _, w := range p.Warnings {
		out.Row("warning", "%s", w)
	}
	a.PrintCredentials(out, p)
	out.Row("do it", "%s", show.CommandLine(a.Args))
	out.Row("then", "%s", startCommand(p))
}

// printDone tells what was done and how to go on.
func printDone(a *app.App, p *restore.Plan, progress *backup.Progress, took time.Duration) {
	b, out := p.Backup, &show.Columns{W: a.Out}
	fmt.Fprintf(a.Out, "backup %s is restored to %s: %s, %s in %s\n", b.ID, p.Target, show.Number(b.Files, "file"), show.Size(b.Size-p.LeftOut), took.Round(100*time.Millisecond))
	if p.Delta {
		fmt.Fprintf(a.Out, "%s of it was there already; fetched %s\n", show.Size(progress.Reused.Load()), show.Size(progress.Stored.Load()))
	}
	if p.LeftOut > 0 {
		out.Row("left out", "%s of databases that were not named", show.Size(p.LeftOut))
	}
	for _, name := range p.Saved {
		out.Row("saved", "%s, which was never archived", name)
	}
	if len(p.Saved) > 0 {
		out.Row("", "archive it before the start, so that the recovery can use it: for f in %s/*; do PGDATA=%s %s wal-push \"$f\"; done", show.ShellQuote(p.SavedIn), show.ShellQuote(p.Target), a.Invocation())
	}
	if !a.Warned() {
		for _, w := range p.Warnings {
			out.Row("warning", "%s", w)
		}
	}
	printDangers(out, p)
	a.PrintCredentials(out, p)
	out.Row("start", "%s", startCommand(p))
	r := p.Recovery
	switch {
	case len(p.Path) == 0 && b.From == "offline":
		out.Row("", "it starts without a recovery, in the state in which it was shut down")
	case len(p.Path) == 0:
	case r.Standby:
		out.Row("", "it follows as a standby, %s", timelines(p))
	default:
		out.Row("", "it recovers to %s, %s", r.Goal(), timelines(p))
	}
	if p.Where != "" {
		out.Row("", "%s", p.Where)
	}
	if p.WAL.Segments > 0 && r.TargetLSN == 0 && !r.TargetImmediate {
		out.Row("", "%s WAL up to %s", map[bool]string{true: "with the saved files, the archive will have", false: "the archive has"}[len(p.Saved) > 0], p.WAL.End)
	}
	switch at := r.Goal() != (recovery.Recovery{}).Goal(); {
	case at && r.TargetAction == "pause":
		out.Row("", "it pauses there, open for reading: look around, then end the recovery with: SELECT pg_wal_replay_resume();")
		out.Row("", "a table that a DROP, TRUNCATE or ALTER changes just after the target is locked until then")
	case at && r.TargetAction == "promote":
		out.Row("", "there it is promoted")
	}
	if !r.KeepArchiving && !r.Standby {
		out.Row("note", "archiving and subscriptions are off. If this server replaces the original: ALTER SYSTEM RESET archive_mode and max_logical_replication_workers, restart it, and take a backup")
	}
}

func printDangers(out *show.Columns, p *restore.Plan) {
	for _, d := range p.Dangers {
		out.Row("look at", "%s, line %d: %s (%s)", d.File, d.Line, show.HidePassword(d.Text), d.Why)
	}
}

// timelines is the path of the recovery in words.
func timelines(p *restore.Plan) string {
	var s strings.Builder
	fmt.Fprintf(&s, "along timeline %d", p.Path[0].Timeline)
	for i, span := range p.Path[1:] {
		fmt.Fprintf(&s, ", from %s on timeline %d", p.Path[i].End, span.Timeline)
	}
	return s.String()
}
