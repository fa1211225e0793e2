package backups

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/outcome"
	"github.com/pgobj/pgobj/backup/server"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/storage/retry"
)

type RestoreCheck struct {
	TargetDir string `arg:"" optional:"" name:"target-dir" help:"The restored data directory (default: the one of the server at --dsn)."`
	DSN       string `name:"dsn" placeholder:"DSN" help:"How to connect to its server (default: through its own socket, if it runs)."`
	JSON      bool   `name:"json" help:"Print the result as JSON."`
}

// CheckedRestore is the result as --json prints it.
type CheckedRestore struct {
	Backup     string    `json:"backup"`
	Goal       string    `json:"goal"`
	State      string    `json:"state"`
	Reached    bool      `json:"reached"`
	Recovering bool      `json:"recovering"`
	At         string    `json:"at,omitempty"`
	Timeline   uint32    `json:"timeline,omitempty"`
	Reason     string    `json:"reason,omitempty"`
	ArchiveEnd string    `json:"archive_end,omitempty"`
	Missing    string    `json:"missing_segment,omitempty"`
	Lacking    []lacking `json:"lacking_settings,omitempty"`
	Text       string    `json:"text"`
}

// lacking is a setting of which the server needs at least so much.
type lacking struct {
	Name   string `json:"name"`
	Needed int    `json:"needed"`
}

func (c *RestoreCheck) Run(ctx context.Context, a *app.App) error {
	req, err := c.request(ctx, a)
	if err != nil {
		return err
	}
	o, err := outcome.Check(ctx, req)
	if o != nil && req.Store != nil && len(o.Restored.Path) > 0 && o.WAL.Last == "" { // is it the archive that was meant?
		if e := a.Known(ctx, req.Store); e != nil {
			return e
		}
	}
	switch {
	case o == nil:
		return err
	case c.JSON:
		r := CheckedRestore{Backup: o.Restored.Backup, Goal: o.Restored.Goal, State: o.State, Reached: err == nil, Recovering: errors.Is(err, outcome.ErrRecovering),
			Timeline: uint32(o.Timeline), Reason: o.Reason, Missing: o.WAL.Missing, Text: o.Text}
		if o.At > 0 {
			r.At = o.At.String()
		}
		if o.WAL.End > 0 {
			r.ArchiveEnd = o.WAL.End.String()
		}
		for _, l := range o.Lacking {
			needed, _ := strconv.Atoi(l.Value) // a number
			r.Lacking = append(r.Lacking, lacking{l.Name, needed})
		}
		err = cmp.Or(err, show.JSON(a.Out, r))
	default:
		printOutcome(a, o, req.Store == nil)
	}
	return err
}

func printOutcome(a *app.App, o *outcome.Outcome, remembered bool) {
	out := &show.Columns{W: a.Out}
	out.Row("restored", "from backup %s, at %s", o.Restored.Backup, o.Restored.Time.UTC().Format(time.DateTime+" MST"))
	out.Row("goal", "%s", o.Restored.Goal)
	if o.WAL.Last != "" {
		last := o.WAL.Last
		if o.WAL.Received {
			last += ", and a part of the next segment, stored by wal-receive"
		}
		out.Row("archive", "has WAL up to %s (%s)%s", o.WAL.End, last, map[bool]string{true: ", at the time of the restore: no --storage is set"}[remembered])
	}
	out.Row("server", "%s", o.State)
	out.Row("recovery", "%s", o.Text)
}

// request finds the server and its data directory.
func (c *RestoreCheck) request(ctx context.Context, a *app.App) (r outcome.Request, err error) {
	if c.TargetDir == "" && c.DSN == "" {
		return r, app.Usagef("restore-check needs the data directory, or --dsn of its server")
	}
	if a.Storage != "" {
		if r.Store, err = a.Open(retry.Policy{}); err != nil {
			return r, err
		}
	}
	r.Dir = c.TargetDir
	var running datadir.Server // as it was before it is asked: it may open meanwhile
	if c.DSN == "" {
		if running, err = datadir.Running(r.Dir); err != nil || running.Run() == "" {
			return r, err
		}
	}
	status, err := c.ask(ctx, running)
	switch {
	case err == nil:
	case r.Dir == "" && server.IsStarting(err):
		return r, fmt.Errorf("%w: %w", outcome.ErrRecovering, err)
	case server.IsStarting(err), c.DSN == "" && !running.Status.Open():
		r.Runs = true
		return r, nil
	case c.DSN != "":
		return r, err
	default:
		r.Runs, r.Unasked = true, err
		return r, nil
	}
	r.Server = &status
	if r.Dir = cmp.Or(r.Dir, status.DataDirectory); r.Dir == "" {
		return r, app.Usagef("this role may not read the server's data_directory: name the directory")
	}
	return r, nil
}

// askTimeout is how long a server may take to say where its recovery is.
const askTimeout = time.Minute

// ask asks the server where its recovery is: as --dsn says, or as the one who owns the data directory, in any database.
func (c *RestoreCheck) ask(ctx context.Context, running datadir.Server) (status server.Recovery, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, fmt.Errorf("the server has not answered within %v", askTimeout))
	defer cancel()
	var s *server.Session
	if c.DSN != "" {
		s, err = server.Connect(ctx, c.DSN)
	} else {
		s, err = server.ConnectAny(ctx, ownSocket(c.TargetDir, running), ownRoles(c.TargetDir), databasesOf(c.TargetDir))
	}
	if err != nil {
		return status, err
	}
	defer s.Close(context.WithoutCancel(ctx))
	return s.Recovery(ctx)
}

// ownSocket leads to the server that runs in a data directory. The rest is as libpq's environment says; for root also the
// passwords are those of the owner.
func ownSocket(dir string, running datadir.Server) string {
	dsn := ""
	if host := running.Host(); host != "" {
		dsn = fmt.Sprintf("host=%s hostaddr='' port=%s", server.Quote(host), running.Port)
	}
	if owner := ownerForRoot(dir); owner != nil && os.Getenv("PGPASSFILE") == "" {
		dsn += " passfile=" + server.Quote(filepath.Join(owner.HomeDir, ".pgpass"))
	}
	return dsn
}

// ownRoles are the roles as which a server is asked about itself: the one that the environment names, or, by root, that of
// the directory's owner. None: whoever asks.
func ownRoles(dir string) []string {
	owner := ownerForRoot(dir)
	if owner == nil || os.Getenv("PGUSER") != "" {
		return nil
	}
	return slices.Compact([]string{owner.Username, "postgres"})
}

// ownerForRoot is the owner of a data directory, when root asks.
func ownerForRoot(dir string) *user.User {
	if os.Geteuid() != 0 {
		return nil
	}
	return server.FileOwner(dir)
}

// databasesOf are the databases that a restored server may let somebody into.
func databasesOf(dir string) []string {
	if os.Getenv("PGDATABASE") != "" {
		return nil
	}
	names := []string{"postgres", "template1"}
	if x, err := outcome.ReadRestored(dir); err == nil {
		names = append(names, x.Databases...)
	}
	return names
}
