// Package drill proves that a backup can be restored, by restoring it: into a directory of its own, with a real
// server that recovers and that nobody else can reach, PostgreSQL's own checkers, and the user's SQL. It owns that
// server and that directory, and leaves neither behind. It refuses flags and printing, and to touch anything outside
// of the directory: the copy does not archive, replicate, listen on a network or run jobs.
package drill

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/backup/restore"
	"github.com/pgobj/pgobj/backup/server"
	"github.com/pgobj/pgobj/backup/target"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/walstore/segment"
)

// ErrFailed says that a backup did not pass its drill: it was restored, and then something was wrong.
var ErrFailed = errors.New("the drill failed")

// ErrHost says that this host cannot hold a drill. It says nothing about the backup.
var ErrHost = errors.New("the drill cannot run on this host")

// ErrTablespace says that the drill would have made a tablespace, which PostgreSQL makes where the original has it: outside
// of the drill's directory, and on the original's host in its files.
var ErrTablespace = errors.New("the backup does not have a tablespace that recovery creates")

// ErrPreload says that recovery needs a library that the drill has not loaded.
var ErrPreload = errors.New("the WAL has records of an extension whose library is not loaded")

// Request says what to try.
type Request struct {
	Fetch    restore.Request // Target, Layout and what the server is told are the drill's own
	Scratch  string          // the drill makes a directory of its own in it
	User     string          // who runs the server, when root calls: empty: owner of Scratch, or of the original
	BinDir   string          // PostgreSQL's programs; empty: those of the backup's version are looked for
	Role     string          // a superuser of the database; empty: as the original's owner was called, or postgres
	Database string          // for SQLFile
	SQLFile  string          // psql runs it, and stops at the first error; empty: none
	Preload  string          // shared_preload_libraries; the original's are not loaded
	Keep     bool            // the directory stays, with the server stopped
	NoRecord bool            // the result is not entered in the catalog
	Env      []string        // of the server and the programs
	Log      *slog.Logger
	Step     func(Step) // is called after each step
}

// Step is one thing that was done.
type Step struct {
	Name   string
	Took   time.Duration
	Result string // ok, failed or skipped
	Text   string // what was found, for people
}

// Report is how a drill went.
type Report struct {
	Backup     *catalog.Backup
	Goal       string
	Directory  string // where the copy was, or is
	Steps      []Step
	Overridden []Override    // what the server was told otherwise than the original
	Recovery   time.Duration // from the beginning of the restore until the server took connections
	Took       time.Duration
	Status     server.Recovery  // of the server, when it took connections
	Timeline   segment.Timeline // that recovery left
	End        segment.LSN      // where it ended; 0: there was nothing to recover
}

// drill is one in progress.
type drill struct {
	Request
	Report
	host
	began time.Time
	plan  *restore.Plan
	args  []string // of the server
	role  string   // that was let in
	base  string   // database that it was let into
	cuts  int      // sessions that ended without an answer
	srv   *scratchServer
}

// Run holds a drill. When it fails the report tells how far it came; it is nil when nothing was begun.
func Run(ctx context.Context, r Request) (_ *Report, err error) {
	if r.Scratch, err = filepath.Abs(r.Scratch); err != nil {
		return nil, err
	}
	d := &drill{Request: r, began: time.Now()}
	d.Directory = filepath.Join(r.Scratch, directoryPrefix+rand.Text()[:8])
	if len(d.Directory) > maxDirectory {
		return nil, fmt.Errorf("%w: the path of the scratch directory is too long for a socket in it: give another one (--scratch)", ErrHost)
	}
	if err := d.sweep(); err != nil {
		return nil, err
	}
	if err := d.prepare(ctx); err != nil {
		return nil, err
	}
	defer d.plan.Close()
	err = d.hold(ctx)
	if e := d.cleanUp(); err == nil {
		err = e
	}
	d.Took = time.Since(d.began)
	if ctx.Err() == nil && !r.NoRecord && !errors.Is(err, ErrHost) { // which says nothing about the backup
		if e := d.record(ctx, err); e != nil && err == nil {
			err = fmt.Errorf("the drill passed, but its result could not be entered in the catalog (--no-record skips that): %w", e)
		} else if e != nil {
			r.Log.Warn("the result could not be entered in the catalog", "error", e)
		}
	}
	return &d.Report, err
}

// prepare thinks the restore through, and finds what it takes. Nothing is made but the directory.
func (d *drill) prepare(ctx context.Context) (err error) {
	f := &d.Fetch
	f.Target = filepath.Join(d.Directory, "data")
	f.Recovery.TargetAction, f.Recovery.NoTablespaces = "promote", true
	if f.Recovery.Goal() == (recovery.Recovery{}).Goal() {
		f.Recovery.TargetAction = ""
	}
	f.Layout = target.Layout{TablespaceRoot: filepath.Join(d.Directory, "tablespaces"), ConfigDir: filepath.Join(d.Directory, "config"), Owner: d.owner()}
	if d.plan, err = restore.NewPlan(ctx, *f); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			d.plan.Close()
		}
	}()
	d.Backup, d.Goal = d.plan.Backup, d.plan.Recovery.Goal()
	if d.host, err = newHost(d.plan, d.Directory, d.Env); err != nil {
		return err
	}
	d.env = append(d.env, "PGOPTIONS="+d.options()) // for the programs that check
	return d.findPrograms(ctx, d.BinDir, d.Backup.PGVersion/10000)
}

// owner is whom root gives the copy to; empty where the plan decides.
func (d *drill) owner() string {
	if d.User != "" || os.Geteuid() != 0 {
		return d.User
	}
	if u := server.FileOwner(d.Scratch); u != nil {
		return u.Username
	}
	return ""
}

// hold does the steps, one after the other, up to the first that fails.
func (d *drill) hold(ctx context.Context) error {
	if err := d.makeDirectory(); err != nil {
		return err
	}
	planned := time.Since(d.began)
	err := d.step("restore", func() (string, error) {
		if err := d.plan.Run(ctx); err != nil {
			return "", err
		}
		return fmt.Sprintf("%d files", d.Backup.Files), nil
	})
	if err != nil {
		return err
	}
	d.Recovery = planned + d.Steps[0].Took
	for _, s := range []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{"pg_verifybackup", d.verifyBackup}, {"settings", d.chooseSettings}, {"recover", d.recover},
		{"pg_amcheck", d.amcheck}, {"sql", d.sql}, {"stop", d.stop}, {"pg_checksums", d.checksums},
	} {
		if err := d.step(s.name, func() (string, error) { return s.do(ctx) }); err != nil {
			return err
		}
		if s.name == "recover" {
			d.Recovery += d.Steps[len(d.Steps)-1].Took
		}
	}
	return nil
}

// skipped is the error of a step that cannot be done here, which is no failure.
type skipped string

func (s skipped) Error() string { return string(s) }

func (d *drill) step(name string, do func() (string, error)) error {
	start := time.Now()
	quiet := d.tell(name)
	text, err := do()
	quiet()
	s := Step{Name: name, Took: time.Since(start), Result: "ok", Text: text}
	if why, ok := errors.AsType[skipped](err); ok {
		s.Result, s.Text, err = "skipped", string(why), nil
	}
	if err != nil {
		s.Result, s.Text = "failed", ""
	}
	d.Steps = append(d.Steps, s)
	d.Step(s)
	return err
}

// tell says now and then what a step waits for that takes long, until it is told to be quiet. The restore has a progress of
// its own.
func (d *drill) tell(name string) (quiet func()) {
	if name == "restore" {
		return func() {}
	}
	start, done := time.Now(), make(chan struct{})
	go func() { // ends with done
		tick := time.NewTicker(sayHow)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			said := []any{"step", name, "took", time.Since(start).Round(time.Second)}
			if c, _, err := datadir.ReadControl(d.plan.Target); err == nil && name == "recover" {
				said = append(said, "at", c.MinRecoveryPoint, "timeline", c.MinRecoveryTimeline)
			}
			d.Log.Info("the drill is waiting for this step to end", said...)
		}
	}()
	return func() { close(done) }
}

// record enters the result in the catalog.
func (d *drill) record(ctx context.Context, failure error) error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	r := &catalog.Drill{Backup: d.Backup.ID, OK: failure == nil, Host: host, Goal: d.Goal, Started: d.began.UTC(), Seconds: d.Took.Seconds(), Timeline: d.Timeline, End: d.End}
	if failure != nil {
		r.Reason, _, _ = strings.Cut(failure.Error(), "\n")
	} else {
		r.Recovery = d.Recovery.Seconds()
	}
	for _, s := range d.Steps {
		r.Steps = append(r.Steps, catalog.DrillStep{Name: s.Name, Seconds: s.Took.Seconds(), Result: s.Result})
	}
	c := d.Fetch.Catalog
	state, err := c.Load(ctx)
	if err != nil {
		return err
	}
	_, err = c.Append(ctx, state, func(*catalog.State) (catalog.Record, error) {
		return catalog.Record{Type: "drill", Drill: r}, nil
	})
	return err
}
