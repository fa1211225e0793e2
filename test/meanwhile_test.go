package test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// pushWhile takes a backup, and does something between its start and its first look at a file.
func (s *site) pushWhile(t testing.TB, primary *site, do func()) outcome {
	t.Helper()
	primary.Exec(t, `DROP TABLE IF EXISTS much`)
	primary.Exec(t, `CREATE TABLE much AS SELECT i, repeat('x', 1000) FROM generate_series(1, 3000) i`) // for a checkpoint that takes its time
	if s != primary {
		caughtUp(t, primary.Cluster, s.Cluster)
	}
	args := []string{"backup-push", "--wal-timeout=2m", "--checkpoint=spread"}
	if s != primary {
		args = append(args, "--primary-dsn", primary.DSN("postgres"))
	}
	cmd := s.command(args...)
	pushed := make(chan outcome, 1)
	started := make(chan struct{})
	go func() { pushed <- executeWithin(t, generous, cmd, func(*os.Process) { close(started) }) }()
	<-started
	const starting = `SELECT count(*) FROM pg_stat_activity WHERE query ~ '(backup_start|start_backup)' AND pid <> pg_backend_pid() AND state = `
	s.Eventually(t, starting+`'active'`, "1")
	must(t, cmd.Process.Signal(syscall.SIGSTOP))
	defer func() { _ = cmd.Process.Signal(syscall.SIGCONT) }()
	s.Exec(t, `CHECKPOINT`)
	s.Eventually(t, starting+`'idle'`, "1")
	do()
	if s != primary {
		caughtUp(t, primary.Cluster, s.Cluster)
	}
	must(t, cmd.Process.Signal(syscall.SIGCONT))
	return <-pushed
}

// inOld goes before what is done in the database old.
const inOld = "in old: "

// statements executes them.
func (s *site) statements(t testing.TB, all []string) {
	t.Helper()
	for _, q := range all {
		if q, ok := strings.CutPrefix(q, inOld); ok {
			s.SQLIn(t, "old", q)
			continue
		}
		s.Exec(t, q)
	}
}

// copiedMeanwhile is what is done while a backup runs, and whether the backup then holds all databases.
type copiedMeanwhile struct {
	do   []string
	code int
	says string
}

func copiesMeanwhile(major int, space string) []copiedMeanwhile {
	copying := ""
	if major >= 15 {
		copying = " STRATEGY file_copy"
	}
	const lost = 9
	all := []copiedMeanwhile{
		{do: []string{`CREATE DATABASE plain TEMPLATE template0` + copying, `CREATE DATABASE plainer` + copying}},
		{do: []string{`CREATE DATABASE new TEMPLATE old` + copying, `DROP DATABASE old`, `ALTER DATABASE new RENAME TO old`}, code: lost, says: "(old): it was copied"},
		{do: []string{`ALTER DATABASE old SET TABLESPACE ` + space}, code: lost, says: "(old): it was copied"},
		{do: []string{`CREATE DATABASE new TEMPLATE old` + copying, inOld + `CREATE TABLE later AS SELECT 1`}, code: lost, says: "(new): it was copied"},
		{do: []string{`DROP DATABASE new`, `CREATE DATABASE new TEMPLATE old` + copying, `DROP DATABASE old`, `DROP DATABASE new`, `CREATE DATABASE old`}},
	}
	if major >= 15 {
		all = append(all, copiedMeanwhile{do: []string{`CREATE DATABASE new TEMPLATE old`, `DROP DATABASE old`}})
	}
	return all
}

// TestDatabaseCopiedMeanwhile: replay copies a database from the directory as it is in the backup. A backup that lacks it, or has
// another one there than was copied, is not entered; one that replays to what was is.
func TestDatabaseCopiedMeanwhile(t *testing.T) {
	for _, major := range []int{10, 13, 15, 17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, folderStore(t), pgtest.Options{Major: major, Conf: []string{"checkpoint_timeout = '30s'", "autovacuum = off"}})
			s.space(t, testenv.Dir(t), "apart")
			s.Exec(t, `CREATE DATABASE old TEMPLATE template0`)
			for _, c := range copiesMeanwhile(major, "apart") {
				before := len(s.list(t))
				o := s.pushWhile(t, s, func() { s.statements(t, c.do) })
				if o.code != c.code || !strings.Contains(o.err, c.says) || len(s.list(t))-before != map[bool]int{true: 1}[c.code == 0] {
					t.Errorf("%q: %v, want exit code %d and %q", c.do, o, c.code, c.says)
				}
				if c.code == 0 {
					r := s.start(t, s.fetch(t, "--tablespace-map-all", testenv.Dir(t), "--target", "immediate", "--target-action", "promote"), noArchiving...)
					const databases = `SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database`
					if got, want := r.SQL(t, databases), s.SQL(t, databases); got != want {
						t.Errorf("%q: the copy has the databases %s, want %s", c.do, got, want)
					}
					for name := range strings.SplitSeq(s.SQL(t, `SELECT datname FROM pg_database WHERE datallowconn`), "\n") {
						sameContents(t, r, name, contents(t, s.Cluster, name))
					}
					r.Stop(t, "immediate")
				}
			}
		})
	}
}

// TestDatabaseCopiedMeanwhileOnAStandby: the same where the records are replayed.
func TestDatabaseCopiedMeanwhileOnAStandby(t *testing.T) {
	for _, major := range []int{13, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, folderStore(t), pgtest.Options{Major: major, Conf: []string{"checkpoint_timeout = '30s'", "autovacuum = off"}})
			s.Exec(t, `CREATE DATABASE old TEMPLATE template0`)
			s.backup(t)
			standby := standbyOf(t, s)
			for _, c := range copiesMeanwhile(major, "")[:2] {
				o := standby.pushWhile(t, s, func() { s.statements(t, c.do) })
				if o.code != c.code || !strings.Contains(o.err, c.says) {
					t.Errorf("%q: %v, want exit code %d and %q", c.do, o, c.code, c.says)
				}
			}
			standby.Stop(t, "immediate")
		})
	}
}
