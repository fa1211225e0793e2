// Package pgtest runs real PostgreSQL clusters of any version for tests: it makes them, starts, stops
// and crashes them, starts servers on restored directories, and asks them questions. It refuses to know
// pgobj, and to make a server faster by making it less true: fsync and the like are on unless a test
// turns them off in Options.Conf.
//
// Servers listen on a unix socket in a private directory (and on 127.0.0.1 when asked), run as the user
// postgres, and die with the test process.
//
// Which programs exist: PostgreSQL 15 is Debian's, with all client programs, contrib modules, pgbench,
// pg_basebackup, pg_verifybackup, pg_amcheck, pg_checksums, pg_controldata and pg_waldump in BinDir.
// The other versions have initdb, pg_ctl and postgres only, so tests talk to all of them through SQL.
// pg_verifybackup and pg_waldump of 15 refuse the files of other versions.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/testenv"
)

// patience bounds what a t-form method waits for. Nothing is concluded from it but "it hangs".
const patience = 3 * time.Minute

// Options say what cluster to make. The zero value is PostgreSQL 15 as initdb makes it, with no
// checksums and 16 MB segments.
type Options struct {
	Major      int      // 10..18, and what else is installed; 0 means 15
	Checksums  bool     // data checksums (off is off in 18 too, where initdb's default is on)
	WALSegMB   int      // WAL segment size in MB, a power of two; 0 means 16. From 11 on
	Conf       []string // lines for the end of postgresql.conf, e.g. "archive_mode = on"
	Env        []string // KEY=value for the server, and so for archive_command and restore_command
	DataDir    string   // where to put the data; empty: a directory of its own, which goes away with the cluster
	InitdbArgs []string // further arguments of initdb
	TCP        bool     // listen on 127.0.0.1 too, at the same port
	Process1   bool     // the postmaster is process 1, as in a container

	// Template copies a cached cluster instead of running initdb, which saves a second. All copies
	// then have ONE system identifier: never use it where two clusters share a repository, or where a
	// test tells clusters apart.
	Template bool
}

// Cluster is one data directory and, between Start and Stop, the server on it. It is not for concurrent
// use, SQL excepted.
type Cluster struct {
	Data      string // the data directory (PGDATA)
	Major     int
	BinDir    string
	Port      int
	SocketDir string

	base string // our own directory for the socket and the log; Close removes it
	env  []string
	args []string // further arguments of postgres, stronger than postgresql.conf
	srv  *server

	process1 bool
}

// BinDir finds the programs of a major version: those of the distribution first, because they are
// complete, then those from test/install.
func BinDir(major int) (string, error) {
	m := strconv.Itoa(major)
	places := []string{
		"/usr/lib/postgresql/" + m + "/bin", // Debian
		"/usr/pgsql-" + m + "/bin",          // PGDG's RPMs
		filepath.Join(testenv.CacheDir(), "pg", m, "bin"),
	}
	for _, dir := range places {
		if info, err := os.Stat(filepath.Join(dir, "postgres")); err == nil && info.Mode().IsRegular() {
			return dir, nil
		}
	}
	return "", fmt.Errorf("PostgreSQL %s is missing (looked for %s): run test/install", m, strings.Join(places, ", "))
}

// Create makes a cluster and does not start it. The caller ends it with Close.
func Create(ctx context.Context, o Options) (_ *Cluster, err error) {
	if o.Major == 0 {
		o.Major = 15
	}
	c, err := attach(o.DataDir, o.Major)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	c.env, c.process1 = o.Env, o.Process1
	if o.TCP {
		c.args = []string{"-c", "listen_addresses=127.0.0.1"}
	}
	args, err := initdbArgs(o)
	if err != nil {
		return nil, err
	}
	if err := c.initdb(ctx, args, o.Template); err != nil {
		return nil, fmt.Errorf("make a cluster of PostgreSQL %d: %w", o.Major, err)
	}
	return c, c.AppendConf(o.Conf...)
}

// Attach makes a Cluster of an existing data directory, a restored one for instance, and does not start
// it. args go to postgres, e.g. "-c", "archive_mode=off". The caller ends it with Close, which leaves
// the data directory.
func Attach(dataDir string, major int, args ...string) (*Cluster, error) {
	if dataDir == "" {
		return nil, errors.New("attach to a cluster: no data directory given")
	}
	c, err := attach(dataDir, major)
	if err != nil {
		return nil, err
	}
	c.args = args
	return c, nil
}

func attach(dataDir string, major int) (*Cluster, error) {
	bin, err := BinDir(major)
	if err != nil {
		return nil, err
	}
	port, err := testenv.Port()
	if err != nil {
		return nil, err
	}
	base, err := testenv.MakeDir()
	if err != nil {
		return nil, err
	}
	if dataDir == "" {
		dataDir = filepath.Join(base, "data")
	}
	return &Cluster{Data: dataDir, Major: major, BinDir: bin, Port: port, SocketDir: base, base: base}, nil
}

// Close stops the server, if it runs, and removes what is the cluster's own: its socket, its log, and
// its data unless the caller named the directory.
func (c *Cluster) Close() error {
	var err error
	if c.Running() {
		err = c.Shutdown("immediate")
	}
	return errors.Join(err, os.RemoveAll(c.base))
}

// Bin returns the path of a program of this version. It need not exist: see the package comment.
func (c *Cluster) Bin(name string) string { return filepath.Join(c.BinDir, name) }

// Env tells libpq programs and pgobj which server to use: PGHOST, PGPORT, PGUSER, PGDATABASE and PGDATA.
func (c *Cluster) Env() []string {
	return []string{"PGHOST=" + c.SocketDir, "PGPORT=" + strconv.Itoa(c.Port), "PGUSER=postgres", "PGDATABASE=postgres", "PGDATA=" + c.Data}
}

// AddEnv adds to the environment (KEY=value) that the server, and so archive_command and restore_command,
// gets from its next start on.
func (c *Cluster) AddEnv(kv ...string) { c.env = append(c.env, kv...) }

// AppendConf adds lines to postgresql.conf; the last line for a setting counts. The server reads
// them when it starts, some of them on pg_reload_conf().
func (c *Cluster) AppendConf(lines ...string) error {
	f, err := os.OpenFile(filepath.Join(c.Data, "postgresql.conf"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.Join(append(slices.Clone(lines), ""), "\n"))
	return errors.Join(err, f.Close())
}

// Log returns what the server has written so far, all of its runs since the Cluster was made.
func (c *Cluster) Log() string {
	text, err := os.ReadFile(c.logFile())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Sprintf("(the server's log cannot be read: %v)", err)
	}
	return string(text)
}

func (c *Cluster) logFile() string { return filepath.Join(c.base, "log") }

func initdbArgs(o Options) ([]string, error) {
	// --no-sync: what initdb writes is at risk only when the machine loses power, and then so is the test.
	args := []string{"--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"}
	switch {
	case o.Checksums:
		args = append(args, "--data-checksums")
	case o.Major >= 18:
		args = append(args, "--no-data-checksums")
	}
	if o.WALSegMB != 0 && o.WALSegMB != 16 {
		if o.Major < 11 {
			return nil, fmt.Errorf("the WAL segment size of PostgreSQL %d is fixed when it is compiled, at 16 MB", o.Major)
		}
		args = append(args, "--wal-segsize="+strconv.Itoa(o.WALSegMB))
	}
	return append(args, o.InitdbArgs...), nil
}

func (c *Cluster) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.Bin(name), args...)
	// The developer's own PGDATA, PGPORT, PGOPTIONS or AWS credentials must not change what a test does.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "PG") && !strings.HasPrefix(kv, "PGOBJ_") || strings.HasPrefix(kv, "AWS_")
	})
	cmd.Env = append(cmd.Env, c.env...)
	cmd.Dir = c.base
	return testenv.AsPostgres(cmd)
}

// Start makes a cluster and starts it; it is stopped and removed with the test, which shows the
// server's log when it fails.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := Create(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	cleanup(t, c)
	c.Start(t)
	return c
}

// Open starts a server on an existing data directory and waits as Launch does: until recovery, if any, has
// ended or is paused. When that fails the error says why (an *Ended when the server gave up) and the
// Cluster is still good for Log. The directory stays; it must belong to the user postgres.
func Open(t testing.TB, dataDir string, major int, args ...string) (*Cluster, error) {
	t.Helper()
	c, err := Attach(dataDir, major, args...)
	if err != nil {
		t.Fatal(err)
	}
	cleanup(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return c, c.Launch(ctx)
}

func cleanup(t testing.TB, c *Cluster) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the server on %s:\n%s", c.Data, tail(c.Log(), 60))
		}
		if err := c.Close(); err != nil {
			t.Errorf("clean up the cluster on %s: %v", c.Data, err)
		}
	})
}

func tail(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
