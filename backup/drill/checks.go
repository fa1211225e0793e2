package drill

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/outcome"
	"github.com/pgobj/pgobj/backup/server"
)

const (
	poll   = 100 * time.Millisecond // between two looks at a server that recovers
	sayHow = 30 * time.Second       // how often the user is told what goes on
)

func (d *drill) major() int { return d.Backup.PGVersion / 10000 }

// verifyBackup lets PostgreSQL compare the files with the backup's own list, before a server changes them.
func (d *drill) verifyBackup(ctx context.Context) (string, error) {
	if d.major() < 13 {
		return "", skipped("it exists since PostgreSQL 13")
	}
	if !d.has("pg_verifybackup") {
		return "", skipped("it is not in " + d.bin)
	}
	// The WAL is in the archive, and recovery checks it; and the map names the copy's own directories.
	args := []string{"--no-parse-wal", "--ignore=tablespace_map", "--quiet"}
	for _, name := range d.plan.OwnChanged() {
		args = append(args, "--ignore="+name)
	}
	return "", d.check(ctx, "pg_verifybackup", append(args, d.plan.Target)...)
}

// recover starts the server and waits until it takes connections, which is when its recovery is over.
func (d *drill) recover(ctx context.Context) (_ string, err error) {
	if d.srv, err = d.start(d.args); err != nil {
		return "", err
	}
	for {
		select {
		case <-d.srv.done:
			return "", d.gaveUp()
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(poll):
		}
		if ready, err := d.connect(ctx); err != nil {
			return "", err
		} else if ready {
			return d.ended(ctx)
		}
	}
}

// gaveUp says why the server ended by itself while it recovered.
func (d *drill) gaveUp() error {
	said := d.srv.said()
	if strings.Contains(said, datadir.ErrTablespace.Error()) { // wal-fetch's words
		return fmt.Errorf("%w: %w. The server's log:\n%s", ErrHost, ErrTablespace, said)
	}
	if strings.Contains(said, "shared_preload_libraries") { // the hint of RmgrNotFound (rmgr.c), in every language
		return fmt.Errorf("%w: %w. The server's log:\n%s", ErrHost, ErrPreload, said)
	}
	return fmt.Errorf("%w: the server stopped by itself during recovery (%v). Its log:\n%s", ErrFailed, d.srv.cmd.ProcessState, said)
}

// roles are the superusers that the cluster may have.
func (d *drill) roles() []string {
	if d.Role != "" {
		return []string{d.Role}
	}
	owner, _, _ := strings.Cut(d.Backup.Owner, ":")
	return slices.Compact([]string{owner, "postgres"})
}

// mostCuts is how many sessions may end without an answer: a server that goes away cuts a few, one that is up cuts none.
const mostCuts = 50

// connect asks the server how its recovery was, once it says that it takes connections. Until then its recovery goes on, or
// it ends. An answer that comes afterwards is its last one: waiting does not change it.
func (d *drill) connect(ctx context.Context) (ready bool, err error) {
	postmaster, err := datadir.ReadPostmaster(d.plan.Target)
	status := postmaster.Status
	if err != nil || !status.Open() { // it may be writing the file
		return false, nil
	}
	s, err := server.ConnectAny(ctx, d.dsn(), d.roles(), d.databases())
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case status == datadir.Standby, server.IsStarting(err), server.IsCut(err) && d.cuts < mostCuts:
		d.cuts++
		return false, nil // not everything is there yet, or it ends at this moment: the next look tells
	default:
		return false, d.closed(err)
	}
	defer s.Close(context.WithoutCancel(ctx))
	d.role, d.base = s.Role, s.Database
	d.Status, err = s.Recovery(ctx)
	if server.IsCut(err) && d.cuts < mostCuts {
		d.cuts++
		return false, nil
	}
	if err == nil && d.Status.InRecovery && d.Status.Paused { // it was not told to pause
		_, err = d.ended(ctx)
	}
	return err == nil && !d.Status.InRecovery, err
}

// closed says of a server that has recovered that it lets nobody in.
func (d *drill) closed(err error) error {
	why := ErrHost
	if server.IsCorruption(err) {
		why = ErrFailed
	}
	if server.IsUnknownRole(err) {
		return fmt.Errorf("%w: the server runs, but refuses the superuser %s: give --role (%w)", why, strings.Join(d.roles(), " or "), err)
	}
	return fmt.Errorf("%w: the server runs, but refuses connections to all databases that the drill knows (%s):\n%w", why, strings.Join(d.databases(), ", "), err)
}

// databases may take connections: the usual ones first.
func (d *drill) databases() []string {
	names := []string{"template1", "postgres", d.Database}
	for _, db := range d.Backup.Databases {
		names = append(names, db.Name)
	}
	var once []string
	for _, name := range names {
		if name != "" && !slices.Contains(once, name) {
			once = append(once, name)
		}
	}
	return once
}

// options are stronger than what the cluster has for a role or a database (ALTER ROLE … SET): the drill runs nobody's code but
// --sql, and its checks may take their time and may write.
func (d *drill) options() string {
	options := "-c session_preload_libraries= -c local_preload_libraries= -c role=none -c default_transaction_read_only=off -c statement_timeout=0 -c lock_timeout=0"
	if d.major() >= 17 {
		options += " -c event_triggers=off -c transaction_timeout=0"
	}
	return options
}

// dsn leads to the server.
func (d *drill) dsn() string {
	return fmt.Sprintf("host=%s hostaddr='' port=5432 sslmode=disable options=%s", server.Quote(filepath.Join(d.Directory, "socket")), server.Quote(d.options()))
}

func (d *drill) session(ctx context.Context) (*server.Session, error) {
	return server.ConnectAny(ctx, d.dsn(), []string{d.role}, []string{d.base})
}

// ended holds where recovery ended against where it should have.
func (d *drill) ended(ctx context.Context) (string, error) {
	o, err := outcome.Check(ctx, outcome.Request{Dir: d.plan.Target, Server: &d.Status, Store: d.Fetch.Store})
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrFailed, err)
	}
	d.End, d.Timeline = o.At, o.Timeline
	return o.Text, nil
}

// amcheck lets PostgreSQL look at every table and index of every database.
func (d *drill) amcheck(ctx context.Context) (string, error) {
	if d.major() < 14 {
		return "", skipped("it exists since PostgreSQL 14")
	}
	if !d.has("pg_amcheck") {
		return "", skipped("it is not in " + d.bin)
	}
	s, err := d.session(ctx)
	if err != nil {
		return "", err
	}
	has, err := s.HasExtension(ctx, "amcheck")
	s.Close(context.WithoutCancel(ctx))
	if err != nil {
		return "", err
	}
	if !has {
		return "", skipped("the extension amcheck is not installed here")
	}
	return "", d.check(ctx, "pg_amcheck", append(d.where(), "--all", "--install-missing", "--maintenance-db="+d.base, "--jobs="+strconv.Itoa(d.Fetch.Workers))...)
}

// where leads libpq's programs to the drill's server.
func (d *drill) where() []string {
	return []string{"--host=" + filepath.Join(d.Directory, "socket"), "--port=5432", "--username=" + d.role, "--no-password"}
}

// sql runs the user's own checks.
func (d *drill) sql(ctx context.Context) (string, error) {
	if d.SQLFile == "" {
		return "", skipped("no --sql FILE was given")
	}
	program := "psql"
	if !d.has(program) {
		var err error
		if program, err = exec.LookPath(program); err != nil {
			return "", fmt.Errorf("%w: --sql needs psql, but neither %s nor PATH has it", ErrHost, d.bin)
		}
	}
	f, err := os.Open(d.SQLFile) // by us: the server's user may not be allowed to
	if err != nil {
		return "", fmt.Errorf("%w: --sql: %w", ErrHost, err)
	}
	defer f.Close()
	cmd := d.command(ctx, program, append(d.where(), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname="+d.Database, "--file=-")...)
	cmd.Stdin = f
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	text := lastLines(string(out), 20)
	if err != nil {
		return "", fmt.Errorf("%w: %s (run by psql: %w)\n%s", ErrFailed, d.SQLFile, err, text)
	}
	return text, nil
}

// stop ends the server as an operator would, so that its files are at rest.
func (d *drill) stop(ctx context.Context) (string, error) {
	if err := d.srv.stop(ctx, syscall.SIGINT); ctx.Err() != nil {
		return "", err
	} else if err != nil {
		return "", fmt.Errorf("%w: the server did not stop cleanly: %w. Its log:\n%s", ErrFailed, err, d.srv.said())
	}
	return "", nil
}

// checksums lets PostgreSQL look at every page.
func (d *drill) checksums(ctx context.Context) (string, error) {
	c, _, err := datadir.ReadControl(d.plan.Target)
	if err != nil {
		return "", err
	}
	program := "pg_checksums"
	args := []string{"--check", "--pgdata=" + d.plan.Target}
	if d.major() < 12 {
		program, args = "pg_verify_checksums", []string{"--pgdata=" + d.plan.Target}
	}
	switch {
	case !c.Partial && c.ChecksumVersion == 0:
		return "", skipped("the cluster has no page checksums")
	case !d.has(program):
		return "", skipped("it is not in " + d.bin)
	}
	return "", d.check(ctx, program, args...)
}
