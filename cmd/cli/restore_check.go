package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/cluster"
	"github.com/pgobj/pgobj/storage/retry"
)

type restoreCheck struct {
	TargetDir string `arg:"" optional:"" name:"target-dir" help:"The data directory that was restored (default: the one of the server that --dsn leads to)."`
	DSN       string `name:"dsn" placeholder:"DSN" help:"How to connect to its server (default: through its own socket, if it runs)."`
	JSON      bool   `name:"json" help:"Print the result as JSON."`
}

// checked is the result as --json prints it.
type checked struct {
	Backup     string `json:"backup"`
	Goal       string `json:"goal"`
	State      string `json:"state"`
	Reached    bool   `json:"reached"`
	Recovering bool   `json:"recovering"`
	At         string `json:"at,omitempty"`
	Timeline   uint32 `json:"timeline,omitempty"`
	Reason     string `json:"reason,omitempty"`
	ArchiveEnd string `json:"archive_end,omitempty"`
	Missing    string `json:"missing_segment,omitempty"`
	Text       string `json:"text"`
}

func (c *restoreCheck) Run(ctx context.Context, a *app) error {
	req, err := c.request(ctx, a)
	if err != nil {
		return err
	}
	o, err := backup.CheckRestore(ctx, req)
	if o != nil && req.Store != nil && len(o.Restored.Path) > 0 && o.WAL.Last == "" { // is it the archive that was meant?
		if e := a.known(ctx, req.Store); e != nil {
			return e
		}
	}
	switch {
	case o == nil:
		return err
	case c.JSON:
		r := checked{Backup: o.Restored.Backup, Goal: o.Restored.Goal, State: o.State, Reached: err == nil, Recovering: errors.Is(err, backup.ErrRecovering),
			Timeline: uint32(o.Timeline), Reason: o.Reason, Missing: o.WAL.Missing, Text: o.Text}
		if o.At > 0 {
			r.At = o.At.String()
		}
		if o.WAL.End > 0 {
			r.ArchiveEnd = o.WAL.End.String()
		}
		err = cmp.Or(err, printJSON(a.Out, r))
	default:
		printOutcome(a, o, req.Store == nil)
	}
	return err
}

func printOutcome(a *app, o *backup.Outcome, remembered bool) {
	out := &columns{w: a.Out}
	out.row("restored", "from backup %s, at %s", o.Restored.Backup, o.Restored.Time.UTC().Format(time.DateTime+" MST"))
	out.row("goal", "%s", o.Restored.Goal)
	if o.WAL.Last != "" {
		last := o.WAL.Last
		if o.WAL.Received {
			last += ", and what wal-receive has stored of the next segment"
		}
		out.row("archive", "has WAL up to %s (%s)%s", o.WAL.End, last, map[bool]string{true: ", or had it then: no --storage is set"}[remembered])
	}
	out.row("server", "%s", o.State)
	out.row("recovery", "%s", o.Text)
}

// request finds the server and its data directory.
func (c *restoreCheck) request(ctx context.Context, a *app) (r backup.CheckRequest, err error) {
	if c.TargetDir == "" && c.DSN == "" {
		return r, usagef("restore-check needs the data directory, or --dsn for its server")
	}
	if a.Storage != "" {
		if r.Store, err = a.open(retry.Policy{}); err != nil {
			return r, err
		}
	}
	r.Dir = c.TargetDir
	dsn := c.DSN
	if dsn == "" {
		if r.Runs = serverRuns(r.Dir); !r.Runs {
			return r, nil
		}
		dsn = ownDSN(r.Dir)
	}
	s, err := cluster.Connect(ctx, dsn)
	if err != nil && c.DSN != "" {
		return r, err
	} else if err != nil {
		a.log.Warn("the server does not answer, so pg_control has to do (--dsn says how to connect)", "error", err)
		return r, nil
	}
	defer s.Close(context.WithoutCancel(ctx))
	status, err := s.Recovery(ctx)
	if err != nil {
		return r, err
	}
	r.Server = &status
	if r.Dir == "" && status.DataDirectory == "" {
		return r, usagef("this role may not know where the server has its data directory: name it")
	} else if r.Dir == "" {
		r.Dir = status.DataDirectory
	}
	return r, nil
}

// ownDSN leads to the server that runs in a data directory: the fourth and fifth line of its postmaster.pid are
// port and socket folder. The rest is as libpq's environment says.
func ownDSN(dir string) string {
	data, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return ""
	}
	lines := strings.Split(string(data), "\n")
	if len(lines) < 5 || lines[4] == "" {
		return ""
	}
	dsn := fmt.Sprintf("host=%s hostaddr='' port=%s", cluster.Quote(lines[4]), strings.TrimSpace(lines[3]))
	if os.Getenv("PGDATABASE") == "" {
		dsn += " dbname=template1"
	}
	return dsn
}
