package test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// raised is a server that has started with more of everything after its backup, and has archived a row since.
func raised(t testing.TB, major int) *site {
	t.Helper()
	s := newSite(t, folderStore(t), pgtest.Options{Major: major})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	s.backup(t)
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	must(t, s.AppendConf("max_connections = 217", "max_worker_processes = 13", "max_wal_senders = 12", "max_prepared_transactions = 7", "max_locks_per_transaction = 71"))
	s.Stop(t, "fast")
	s.Start(t)
	s.Exec(t, `INSERT INTO steps VALUES (3)`)
	s.archived(t)
	return s
}

// TestParametersOfRecovery: what was raised after the backup is set for the recovery, which then gets to its end; where somebody
// sets less on the command line restore-check names it, whichever way PostgreSQL has of stopping.
func TestParametersOfRecovery(t *testing.T) {
	for _, major := range []int{10, 13, 15, 17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := raised(t, major)
			dir := s.fetch(t)
			auto := string(readFile(t, dir+"/postgresql.auto.conf"))
			for name, value := range map[string]string{"max_connections": "217", "max_worker_processes": "13", "max_prepared_transactions": "7", "max_locks_per_transaction": "71"} {
				if !strings.Contains(auto, name+" = '"+value+"'") {
					t.Errorf("postgresql.auto.conf does not set %s:\n%s", name, auto)
				}
			}
			if strings.Contains(auto, "max_wal_senders = '12'") != (major >= 12) {
				t.Errorf("max_wal_senders:\n%s", auto)
			}
			c := s.start(t, dir, noArchiving...)
			if got := steps(t, c); got != "1 2 3" {
				t.Errorf("the copy has the steps %s", got)
			}
			c.Stop(t, "fast")

			late := s.SQL(t, `SELECT now() + interval '1 second'`)
			s.Exec(t, `SELECT pg_sleep(1.1)`)
			s.Exec(t, `INSERT INTO steps VALUES (4)`)
			s.archived(t)
			less := s.fetch(t, "--target-time", late)
			paused, err := pgtest.Attach(less, major, "-c", "max_connections=150")
			must(t, err)
			t.Cleanup(func() { _ = paused.Close() })
			paused.AddEnv(s.credentials...)
			_ = paused.Launch(t.Context())
			if major >= 14 {
				paused.Eventually(t, `SELECT pg_get_wal_replay_pause_state()`, "paused")
			}
			s.restoreCheck(t, exitNotReached, "max_connections = '217'", less)
			if o := s.run(t, "restore-check", less); strings.Contains(o.out+o.err, "SELECT pg_wal_replay_resume()") || strings.Contains(o.out, "max_worker_processes") {
				t.Errorf("restore-check: %v", o)
			}
			s.drill(t, 0)
		})
	}
}

// TestMinimalBetween: where wal_level was minimal a window ends, and no way leads across, whether PostgreSQL would stop there or go
// on without what was done.
func TestMinimalBetween(t *testing.T) {
	for _, major := range []int{10, 13, 15, 17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, folderStore(t), pgtest.Options{Major: major})
			s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
			old := s.backup(t)
			s.Exec(t, `INSERT INTO steps VALUES (2)`)
			s.Exec(t, `INSERT INTO steps VALUES (3)`)
			s.archived(t)
			for _, conf := range [][]string{{"archive_mode = off", "wal_level = minimal", "max_wal_senders = 0"}, {"archive_mode = on", "wal_level = replica", "max_wal_senders = 10"}} {
				s.Stop(t, "immediate") // a clean stop would end the segment
				must(t, s.AppendConf(conf...))
				s.Start(t)
				s.Exec(t, `INSERT INTO steps VALUES (4)`)
			}
			s.archived(t)
			if o := s.run(t, "backup-fetch", "--plan", testenv.Dir(t)+"/x"); o.code != exitUnreachable || !strings.Contains(o.err, "wal_level = minimal") {
				t.Errorf("a way across: %v", o)
			}
			if o := s.must(t, "pitr-windows"); !strings.Contains(o.out, "wal_level was minimal") {
				t.Errorf("pitr-windows: %v", o)
			}
			if o := s.must(t, "backup-push", "--wal-timeout=1m"); !strings.Contains(o.err, "no older backup reaches anything after it") {
				t.Errorf("backup-push: %v", o)
			}
			s.must(t, "backup-fetch", "--plan", testenv.Dir(t)+"/x")
			if o := s.run(t, "backup-fetch", "--plan", testenv.Dir(t)+"/x", old.Backup); o.code != exitUnreachable {
				t.Errorf("a way across from the old one: %v", o)
			}
			o := s.must(t, "pitr-windows", "--json")
			if strings.Count(o.out, `"timeline"`) != 2 {
				t.Errorf("two windows: %v", o)
			}
		})
	}
}

// TestParametersOfSavedWAL: what was raised after the backup is only in the WAL that the restore saves, which the archive gets later.
func TestParametersOfSavedWAL(t *testing.T) {
	s := newSite(t, folderStore(t), pgtest.Options{})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	s.backup(t)
	must(t, s.AppendConf("archive_command = 'false'", "max_connections = 217"))
	s.Stop(t, "fast")
	s.Start(t)
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	s.Kill(t)
	saved := testenv.Dir(t) + "/saved"
	s.pushSaved(t, s.must(t, "backup-fetch", s.Data, "--delta", "--save-wal", saved), saved, 1)
	s.Start(t)
	if got := steps(t, s.Cluster); got != "1 2" {
		t.Errorf("the server has the steps %s", got)
	}
	s.restoreCheck(t, 0, "has reached the end", s.Data)
}

// TestRoomForPreparedTransactions: prepared transactions need it also where recovery is closed to readers, and where there is none.
func TestRoomForPreparedTransactions(t *testing.T) {
	s := newSite(t, folderStore(t), pgtest.Options{Conf: []string{"hot_standby = off", "max_prepared_transactions = 3"}})
	s.Exec(t, `CREATE TABLE steps (n int)`)
	// The rest is as if it had been on the command line.
	conf := strings.ReplaceAll(string(readFile(t, s.Data+"/postgresql.conf")), "max_prepared_transactions = 3", "")
	must(t, os.WriteFile(s.Data+"/postgresql.conf", []byte(conf), 0o600))
	s.backup(t)
	s.Exec(t, `BEGIN; INSERT INTO steps VALUES (1); PREPARE TRANSACTION 'waits'`)
	s.archived(t)
	dir := s.fetch(t)
	auto := string(readFile(t, dir+"/postgresql.auto.conf"))
	if !strings.Contains(auto, "max_prepared_transactions = '3'") || strings.Contains(auto, "max_connections") {
		t.Errorf("postgresql.auto.conf: %s", auto)
	}
	const prepared = `SELECT count(*) FROM pg_prepared_xacts`
	if got := s.start(t, dir).SQL(t, prepared); got != "1" {
		t.Errorf("after a recovery %s are prepared", got)
	}

	less := s.fetch(t)
	c, err := pgtest.Attach(less, s.Major, "-c", "max_prepared_transactions=0", "-c", "max_connections=20")
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	c.AddEnv(s.credentials...)
	if err := c.Launch(t.Context()); err == nil {
		t.Error("without room for them it has started")
	}
	s.restoreCheck(t, exitNotReached, "max_prepared_transactions = '3'", less)
	if o := s.run(t, "restore-check", less); strings.Contains(o.out, "max_connections") {
		t.Errorf("it recovers closed to readers: %v", o)
	}

	s.Stop(t, "fast")
	b := s.offline(t)
	if got := s.start(t, s.fetch(t, b.Backup)).SQL(t, prepared); got != "1" {
		t.Errorf("of a server that was shut down %s are prepared", got)
	}
}
