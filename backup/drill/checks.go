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

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/cluster"
)

const (
	poll    = 100 * time.Millisecond // between two tries to connect
	sayHow  = 30 * time.Second       // how often the user is told where the recovery is
	ownBase = "template1"            // which every cluster has
)

func (d *drill) major() int { return d.Backup.PGVersion / 10000 }

// verifyBackup lets PostgreSQL compare the files with the backup's own list, before a server changes them.
func (d *drill) verifyBackup(ctx context.Context) (string, error) {
	if d.major() < 13 {
		return "", skipped("it came with PostgreSQL 13")
	}
	if !d.has("pg_verifybackup") {
		return "", skipped("it is not in " + d.bin)
	}
	// The WAL is in the archive, and recovery checks it; and the map names the copy's own folders.
	args := []string{"--no-parse-wal", "--ignore=tablespace_map", "--quiet"}
	for _, name := range d.plan.OwnChanged() {
		args = append(args, "--ignore="+name)
	}
	return "", second(d.check(ctx, "pg_verifybackup", append(args, d.plan.Target)...))
}

func second(_ string, err error) error { return err }

// recover starts the server and waits until it takes connections, which is when its recovery is over.
func (d *drill) recover(ctx context.Context) (_ string, err error) {
	if d.srv, err = d.start(d.args); err != nil {
		return "", err
	}
	said := time.Now()
	for {
		select {
		case <-d.srv.done:
			return "", d.gaveUp()
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(poll):
		}
		ready, err := d.connect(ctx)
		if err != nil {
			return "", err
		}
		if ready {
			return d.ended(ctx)
		}
		if time.Since(said) >= sayHow {
			said = time.Now()
			if c, _, err := cluster.ReadControl(d.plan.Target); err == nil {
				d.Log.Info("recovering", "at", c.MinRecoveryPoint, "timeline", c.MinRecoveryTimeline)
			}
		}
	}
}

// gaveUp says why the server ended by itself while it recovered.
func (d *drill) gaveUp() error {
	said := d.srv.said()
	if strings.Contains(said, cluster.ErrTablespace.Error()) { // wal-fetch's words
		return fmt.Errorf("%w: %w. The server's log:\n%s", ErrHost, ErrTablespace, said)
	}
	return fmt.Errorf("%w: the server ended by itself while it recovered (%v). Its log:\n%s", ErrFailed, d.srv.cmd.ProcessState, said)
}

// roles are the superusers that the cluster may have.
func (d *drill) roles() []string {
	if d.Role != "" {
		return []string{d.Role}
	}
	owner, _, _ := strings.Cut(d.Backup.Owner, ":")
	return slices.Compact([]string{owner, "postgres"})
}

// connect tries to ask the server how its recovery was.
func (d *drill) connect(ctx context.Context) (ready bool, err error) {
	for _, role := range d.roles() {
		d.role = role
		var s *cluster.Session
		if s, err = d.session(ctx); err != nil {
			if cluster.IsUnknownRole(err) {
				continue
			}
			return false, nil // it is not ready: if it never will be, it ends
		}
		defer s.Close(context.WithoutCancel(ctx))
		d.Status, err = s.Recovery(ctx)
		return err == nil && !d.Status.InRecovery, err
	}
	return false, fmt.Errorf("%w: the server is up, and has no superuser %s: give --role (%w)", ErrHost, strings.Join(d.roles(), " or "), err)
}

func (d *drill) session(ctx context.Context) (*cluster.Session, error) {
	return cluster.Connect(ctx, fmt.Sprintf("host=%s port=5432 user=%s dbname=%s sslmode=disable", cluster.Quote(filepath.Join(d.Folder, "socket")), cluster.Quote(d.role), ownBase))
}

// ended holds where recovery ended against where it should have.
func (d *drill) ended(ctx context.Context) (string, error) {
	o, err := backup.CheckRestore(ctx, backup.CheckRequest{Dir: d.plan.Target, Server: &d.Status, Store: d.Fetch.Store})
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrFailed, err)
	}
	d.End, d.Timeline = o.At, o.Timeline
	return o.Text, nil
}

// amcheck lets PostgreSQL look at every table and index of every database.
func (d *drill) amcheck(ctx context.Context) (string, error) {
	if d.major() < 14 {
		return "", skipped("it came with PostgreSQL 14")
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
	return "", second(d.check(ctx, "pg_amcheck", append(d.where(), "--all", "--install-missing", "--maintenance-db="+ownBase, "--jobs="+strconv.Itoa(d.Fetch.Workers))...))
}

// where leads libpq's programs to the drill's server.
func (d *drill) where() []string {
	return []string{"--host=" + filepath.Join(d.Folder, "socket"), "--port=5432", "--username=" + d.role, "--no-password"}
}

// sql runs the user's own checks.
func (d *drill) sql(ctx context.Context) (string, error) {
	if d.SQLFile == "" {
		return "", skipped("no --sql FILE is given")
	}
	program := "psql"
	if !d.has(program) {
		var err error
		if program, err = exec.LookPath(program); err != nil {
			return "", fmt.Errorf("%w: --sql needs psql, which is neither in %s nor in PATH", ErrHost, d.bin)
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
	c, _, err := cluster.ReadControl(d.plan.Target)
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
	return "", second(d.check(ctx, program, args...))
}
