package backups

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/drill"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/config"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/storage/retry"
)

type DrillCmd struct {
	Backup string `arg:"" optional:"" default:"LATEST" help:"Id of the backup or its beginning, or LATEST (default): the newest that fits the target."`

	pointFlags `group:"How far to recover (default: to the end of the WAL)"`

	Scratch  string `name:"scratch" env:"PGOBJ_DRILL_SCRATCH" default:"/var/tmp" placeholder:"DIR" help:"Directory for the copy and its tablespaces, which get a directory of their own there. It needs space for the whole cluster."`
	User     string `name:"user" placeholder:"USER" help:"As root: the user who runs the server (default: the owner of --scratch, or of the original)."`
	BinDir   string `name:"bindir" env:"PGOBJ_BINDIR" placeholder:"DIR" help:"Directory of PostgreSQL's programs (default: pgobj searches for those of the backup's version)."`
	SQL      string `name:"sql" placeholder:"FILE" help:"Run this file with psql. At the first error psql stops and the drill fails."`
	Database string `name:"dbname" default:"postgres" placeholder:"NAME" help:"Database for --sql."`
	Role     string `name:"role" placeholder:"NAME" help:"A superuser of the database (default: the name of the original's owner, or postgres)."`
	Preload  string `name:"preload" placeholder:"LIBRARIES" help:"shared_preload_libraries of the copy, if recovery or --sql needs some. The original's are not loaded, because they may run jobs."`
	Keep     bool   `name:"keep" help:"Keep the copy, stopped."`
	NoRecord bool   `name:"no-record" help:"Do not enter the result in the catalog."`
	JSON     bool   `name:"json" help:"Print the result as JSON."`
	app.JobsFlag
}

// drilled is the result as --json prints it.
type drilled struct {
	Backup     string           `json:"backup"`
	OK         bool             `json:"ok"`
	Reason     string           `json:"reason,omitempty"`
	Goal       string           `json:"goal"`
	Recovery   float64          `json:"recovery_seconds"`
	Seconds    float64          `json:"seconds"`
	EndLSN     string           `json:"end_lsn,omitempty"`
	Timeline   uint32           `json:"timeline,omitempty"`
	Steps      []drilledStep    `json:"steps"`
	Overridden []drill.Override `json:"overridden"`
	Directory  string           `json:"directory,omitempty"`
}

type drilledStep struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	Result  string  `json:"result"`
	Text    string  `json:"text,omitempty"`
}

func (c *DrillCmd) Run(ctx context.Context, a *app.App) error {
	req, err := c.request(a)
	if err != nil {
		return err
	}
	req.Step = func(s drill.Step) {
		if !c.JSON {
			printStep(a.Out, s)
		}
	}
	stop := a.Show("drill", req.Fetch.Progress)
	report, err := drill.Run(ctx, req)
	stop()
	if errors.Is(err, catalog.ErrNoBackup) && app.IsPath(c.Backup) {
		err = fmt.Errorf("%w\nGive the directory for the copy with --scratch: pgobj drill --scratch %s", err, show.ShellQuote(c.Backup))
	}
	switch {
	case report == nil:
	case c.JSON:
		err = cmp.Or(err, show.JSON(a.Out, c.result(report, err)))
	default:
		c.print(a.Out, report, err)
	}
	return err
}

func (c *DrillCmd) request(a *app.App) (r drill.Request, err error) {
	f := &r.Fetch
	if f.Workers, err = c.Count(); err != nil {
		return r, err
	}
	if f.Recovery, err = c.recovery(); err != nil {
		return r, err
	}
	if err := f.Recovery.Check(); err != nil {
		return r, app.Usagef("%v", err)
	}
	if f.Store, err = a.Open(retry.Policy{}); err != nil {
		return r, err
	}
	// The server has our environment, with all that --config says, and may not be allowed to read that file.
	command, err := a.RestoreCommand(&config.Config{})
	if err != nil {
		return r, err
	}
	f.Recovery.RestoreCommand, f.Recovery.OwnCommand = orAbort+command, true
	f.Catalog, f.Log, f.Progress, f.Backup = a.Catalog(f.Store), a.Log, &backup.Progress{}, c.Backup
	r.Scratch, r.User, r.BinDir, r.Role, r.Preload = c.Scratch, c.User, c.BinDir, c.Role, c.Preload
	r.SQLFile, r.Database, r.Keep, r.NoRecord = c.SQL, c.Database, c.Keep, c.NoRecord
	r.Env, r.Log = append(os.Environ(), "PGOBJ_CONFIG="+config.None), a.Log
	return r, nil
}

func printStep(w io.Writer, s drill.Step) {
	first, rest, _ := strings.Cut(s.Text, "\n")
	switch {
	case s.Result != "ok" && s.Text == "":
		first = s.Result
	case s.Result != "ok":
		first = s.Result + ": " + first
	case first == "":
		first = "ok"
	}
	fmt.Fprintf(w, "%-15s %7.1f s  %s\n", s.Name, s.Took.Seconds(), first)
	for line := range strings.SplitSeq(rest, "\n") {
		if line != "" {
			fmt.Fprintf(w, "%-27s%s\n", "", line)
		}
	}
}

// print tells how it was, after the steps.
func (c *DrillCmd) print(w io.Writer, r *drill.Report, err error) {
	out := &show.Columns{W: w}
	for _, o := range r.Overridden {
		out.Row("settings", "%s = '%s' instead of '%s'", o.Name, o.Now, show.HidePassword(o.Was))
	}
	if c.Keep {
		out.Row("kept", "%s", r.Directory)
	}
	if err != nil {
		return
	}
	out.Row("drill", "backup %s passed, in %s", r.Backup.ID, show.Words(r.Took))
	out.Row("measured", "restoring it to %s took %s on this host: from the first request until the server accepted connections", r.Goal, show.Words(r.Recovery))
}

func (c *DrillCmd) result(r *drill.Report, err error) drilled {
	d := drilled{Backup: r.Backup.ID, OK: err == nil, Goal: r.Goal, Recovery: r.Recovery.Seconds(), Seconds: r.Took.Seconds(), Timeline: uint32(r.Timeline), Overridden: r.Overridden}
	if r.End > 0 {
		d.EndLSN = r.End.String()
	}
	if err != nil {
		d.Reason, d.Recovery = err.Error(), 0
	}
	if c.Keep {
		d.Directory = r.Directory
	}
	for _, s := range r.Steps {
		d.Steps = append(d.Steps, drilledStep{s.Name, s.Took.Seconds(), s.Result, s.Text})
	}
	return d
}
