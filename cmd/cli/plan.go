package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/pgobj/pgobj/backup"
)

// printPlan shows what a restore would do.
func printPlan(a *app, p *backup.Plan) {
	b, out := p.Backup, &columns{w: a.Out}
	out.row("backup", "%s, consistent from %s on; PostgreSQL %s, %s in %s", b.ID, b.Consistent.UTC().Format(time.DateTime+" MST"), b.PGVersionText, size(b.Size), number(b.Files, "file"))
	switch {
	case len(p.Path) == 0 && b.From == "offline":
		out.row("recovery", "none: the server starts as it was shut down")
	case len(p.Path) == 0:
		out.row("recovery", "none is set up")
	case p.Recovery.Standby:
		out.row("recovery", "as a standby, %s", timelines(p))
	default:
		out.row("recovery", "to %s, %s", p.Recovery.Goal(), timelines(p))
	}
	if p.Where != "" {
		out.row("", "%s", p.Where)
	}
	for _, f := range p.Forks {
		out.row("", "not along %s", f)
	}
	if p.WAL.Segments > 0 {
		out.row("WAL", "%s to %s: %s, %s as stored", p.WAL.First, p.WAL.Last, number(p.WAL.Segments, "segment"), size(p.WAL.Bytes))
	}
	if p.LeftOut > 0 {
		out.row("left out", "%s of other databases than the ones that were named", size(p.LeftOut))
	}
	out.row("fetch", "%s %s, besides the WAL", map[bool]string{true: "at most", false: "about"}[p.Delta], size(p.Fetch))
	for _, place := range p.Places {
		out.row("write", "%s to %s (%s free): %s", size(place.Write), place.Path, size(place.Free), place.Name)
	}
	for _, name := range p.Saved {
		out.row("save", "%s, which was never archived", name)
	}
	for _, f := range p.Settings {
		out.row("settings", "%s", f.File)
		for _, l := range f.Lines {
			out.row("", "  %s", hidePassword(l))
		}
	}
	printDangers(out, p)
	for _, w := range p.Warnings {
		out.row("warning", "%s", w)
	}
	a.printCredentials(out, p)
	out.row("do it", "%s", commandLine(a.args))
	out.row("then", "%s", startCommand(p))
}

// printDone tells what was done and how to go on.
func printDone(a *app, p *backup.Plan, progress *backup.Progress, took time.Duration) {
	b, out := p.Backup, &columns{w: a.Out}
	fmt.Fprintf(a.Out, "backup %s is restored to %s: %s, %s in %s\n", b.ID, p.Target, number(b.Files, "file"), size(b.Size-p.LeftOut), took.Round(100*time.Millisecond))
	if p.Delta {
		fmt.Fprintf(a.Out, "%s of it was there already; fetched %s\n", size(progress.Reused.Load()), size(progress.Stored.Load()))
	}
	if p.LeftOut > 0 {
		out.row("left out", "%s of other databases than the ones that were named", size(p.LeftOut))
	}
	for _, name := range p.Saved {
		out.row("saved", "%s, which was never archived", name)
	}
	if len(p.Saved) > 0 {
		out.row("", "archive it before the start, so that the recovery has it: for f in %s/*; do PGDATA=%s %s wal-push \"$f\"; done", shellQuote(p.SavedIn), shellQuote(p.Target), a.invocation())
	}
	if !a.warned() {
		for _, w := range p.Warnings {
			out.row("warning", "%s", w)
		}
	}
	printDangers(out, p)
	a.printCredentials(out, p)
	out.row("start", "%s", startCommand(p))
	r := p.Recovery
	switch {
	case len(p.Path) == 0 && b.From == "offline":
		out.row("", "it starts without a recovery, as it was shut down")
	case len(p.Path) == 0:
	case r.Standby:
		out.row("", "it follows as a standby, %s", timelines(p))
	default:
		out.row("", "it recovers to %s, %s", r.Goal(), timelines(p))
	}
	if p.Where != "" {
		out.row("", "%s", p.Where)
	}
	if p.WAL.Segments > 0 && r.TargetLSN == 0 && !r.TargetImmediate {
		out.row("", "%s WAL up to %s", map[bool]string{true: "with what is saved, the archive will have", false: "the archive has"}[len(p.Saved) > 0], p.WAL.End)
	}
	switch at := r.Goal() != (backup.Recovery{}).Goal(); {
	case at && r.TargetAction == "pause":
		out.row("", "it pauses there, open for reading: look around, then end the recovery with: SELECT pg_wal_replay_resume();")
		out.row("", "a table that a DROP, TRUNCATE or ALTER behind it is about to change is locked until then")
	case at && r.TargetAction == "promote":
		out.row("", "there it opens for work")
	}
	if !r.KeepArchiving && !r.Standby {
		out.row("note", "archiving is off on it, and so are subscriptions. If it takes the original's place: ALTER SYSTEM RESET archive_mode, and max_logical_replication_workers; restart, and take a backup")
	}
}

// warned says that whoever reads results has just read the warnings of the log, on the same terminal.
func (a *app) warned() bool {
	return isTerminal(a.raw.Writer) && isTerminal(a.Err) && a.log.Enabled(context.Background(), slog.LevelWarn)
}

// printCredentials names what of the environment the server needs to read the storage, where no file has it: restore_command
// names no credentials, and a server is not started from this shell.
func (a *app) printCredentials(out *columns, p *backup.Plan) {
	if len(p.Path) == 0 || !p.Recovery.OwnCommand || !strings.HasPrefix(a.Storage, "s3:") {
		return
	}
	var names []string
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_ROLE_ARN",
		"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_REGION", "AWS_DEFAULT_REGION"} {
		if _, filed := a.config.values[name]; !filed && os.Getenv(name) != "" {
			names = append(names, name)
		}
	}
	if names != nil {
		out.row("note", "this environment has %s: the server that recovers needs the same in its own (systemctl edit postgresql, Environment=…), or all of it in a file that its user can read: --config FILE", strings.Join(names, ", "))
	}
}

func printDangers(out *columns, p *backup.Plan) {
	for _, d := range p.Dangers {
		out.row("look at", "%s, line %d: %s (%s)", d.File, d.Line, hidePassword(d.Text), d.Why)
	}
}

// columns prints rows with a word in front; the word of the row before is not repeated.
type columns struct {
	w     io.Writer
	last  string
	width int // of the words, at least 10
}

func (c *columns) row(word, format string, args ...any) {
	show := word
	if word == c.last {
		show = ""
	} else if word != "" {
		c.last = word
	}
	fmt.Fprintf(c.w, "%-*s%s\n", max(10, c.width), show, fmt.Sprintf(format, args...))
}

// timelines is the way of the recovery in words.
func timelines(p *backup.Plan) string {
	var s strings.Builder
	fmt.Fprintf(&s, "along timeline %d", p.Path[0].Timeline)
	for i, leg := range p.Path[1:] {
		fmt.Fprintf(&s, ", from %s on timeline %d", p.Path[i].End, leg.Timeline)
	}
	return s.String()
}

// commandLine is how pgobj was called, without --plan.
func commandLine(args []string) string {
	line := "pgobj"
	for _, arg := range args {
		if arg != "--plan" {
			line += " " + hidePassword(shellQuote(arg))
		}
	}
	return line
}

// hidePassword keeps a connection string's password off the screen, and rather too much with it than too
// little: quotes within quotes make its end hard to tell. A quote that is open there is closed, so that a command line that is
// printed stays one.
func hidePassword(s string) string {
	secretSetting := regexp.MustCompile(`(?i)((?:password|secret)\s*=).+`)
	passwordInURL := regexp.MustCompile(`(://[^/\s:@]*:)\S*@`)
	if at := secretSetting.FindStringSubmatchIndex(s); at != nil {
		hidden := s[at[3]:]
		s = s[:at[3]] + "…"
		if strings.Count(s, "'")%2 == 1 && strings.HasSuffix(hidden, "'") {
			s += "'"
		}
	}
	return passwordInURL.ReplaceAllString(s, "$1…@")
}
