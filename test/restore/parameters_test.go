package restore

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// raised is a server that has started with more of everything after its backup, and has archived a row since.
func raised(t testing.TB, major int) *site.Site {
	t.Helper()
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	s.Backup(t)
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	site.Must(t, s.AppendConf("max_connections = 217", "max_worker_processes = 13", "max_wal_senders = 12", "max_prepared_transactions = 7", "max_locks_per_transaction = 71"))
	s.Stop(t, "fast")
	s.Start(t)
	s.Exec(t, `INSERT INTO steps VALUES (3)`)
	s.Archived(t)
	return s
}

// TestParametersOfRecovery: what was raised after the backup is set for the recovery, which then gets to its end; where somebody
// sets less on the command line restore-check names it, whichever way PostgreSQL has of stopping.
func TestParametersOfRecovery(t *testing.T) {
	for _, major := range []int{10, 13, 15, 17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := raised(t, major)
			dir := s.Fetch(t)
			auto := string(site.ReadFile(t, dir+"/postgresql.auto.conf"))
			for name, value := range map[string]string{"max_connections": "217", "max_worker_processes": "13", "max_prepared_transactions": "7", "max_locks_per_transaction": "71"} {
				if !strings.Contains(auto, name+" = '"+value+"'") {
					t.Errorf("postgresql.auto.conf does not set %s:\n%s", name, auto)
				}
			}
			if strings.Contains(auto, "max_wal_senders = '12'") != (major >= 12) {
				t.Errorf("max_wal_senders:\n%s", auto)
			}
			c := s.Spawn(t, dir, site.NoArchiving...)
			if got := site.Steps(t, c); got != "1 2 3" {
				t.Errorf("the copy has the steps %s", got)
			}
			c.Stop(t, "fast")

			late := s.SQL(t, `SELECT now() + interval '1 second'`)
			s.Exec(t, `SELECT pg_sleep(1.1)`)
			s.Exec(t, `INSERT INTO steps VALUES (4)`)
			s.Archived(t)
			less := s.Fetch(t, "--target-time", late)
			paused, err := pgtest.Attach(less, major, "-c", "max_connections=150")
			site.Must(t, err)
			t.Cleanup(func() { _ = paused.Close() })
			paused.AddEnv(s.Credentials...)
			_ = paused.Launch(t.Context())
			if major >= 14 {
				paused.Eventually(t, `SELECT pg_get_wal_replay_pause_state()`, "paused")
			}
			s.RestoreCheck(t, site.ExitNotReached, "max_connections = '217'", less)
			if o := s.Run(t, "restore-check", less); strings.Contains(o.Out+o.Err, "SELECT pg_wal_replay_resume()") || strings.Contains(o.Out, "max_worker_processes") {
				t.Errorf("restore-check: %v", o)
			}
			s.Drill(t, 0)
		})
	}
}

// TestMinimalBetween: where wal_level was minimal a window ends, and no way leads across, whether PostgreSQL would stop there or go
// on without what was done.
func TestMinimalBetween(t *testing.T) {
	for _, major := range []int{10, 13, 15, 17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major})
			s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
			old := s.Backup(t)
			s.Exec(t, `INSERT INTO steps VALUES (2)`)
			s.Exec(t, `INSERT INTO steps VALUES (3)`)
			s.Archived(t)
			for _, conf := range [][]string{{"archive_mode = off", "wal_level = minimal", "max_wal_senders = 0"}, {"archive_mode = on", "wal_level = replica", "max_wal_senders = 10"}} {
				s.Stop(t, "immediate") // a clean stop would end the segment
				site.Must(t, s.AppendConf(conf...))
				s.Start(t)
				s.Exec(t, `INSERT INTO steps VALUES (4)`)
			}
			s.Archived(t)
			if f := s.FailsWith(t, site.ExitUnreachable, "unreachable-target", "backup-fetch", "--plan", testenv.Dir(t)+"/x"); !f.Names("wal_level = minimal") {
				t.Errorf("a way across: %+v", f)
			}
			if o := s.Must(t, "pitr-windows"); !strings.Contains(o.Out, "wal_level was minimal") {
				t.Errorf("pitr-windows: %v", o)
			}
			if o := s.Must(t, "backup-push", "--wal-timeout=1m"); !strings.Contains(o.Err, "no older backup") {
				t.Errorf("backup-push: %v", o)
			}
			s.Must(t, "backup-fetch", "--plan", testenv.Dir(t)+"/x")
			if o := s.Run(t, "backup-fetch", "--plan", testenv.Dir(t)+"/x", old.Backup); o.Code != site.ExitUnreachable {
				t.Errorf("a way across from the old one: %v", o)
			}
			o := s.Must(t, "pitr-windows", "--json")
			if strings.Count(o.Out, `"timeline"`) != 2 {
				t.Errorf("two windows: %v", o)
			}
		})
	}
}

// TestParametersOfSavedWAL: what was raised after the backup is only in the WAL that the restore saves, which the archive gets later.
func TestParametersOfSavedWAL(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	s.Backup(t)
	site.Must(t, s.AppendConf("archive_command = 'false'", "max_connections = 217"))
	s.Stop(t, "fast")
	s.Start(t)
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	s.Kill(t)
	saved := testenv.Dir(t) + "/saved"
	s.PushSaved(t, s.Must(t, "backup-fetch", s.Data, "--delta", "--save-wal", saved), saved, 1)
	s.Start(t)
	if got := site.Steps(t, s.Cluster); got != "1 2" {
		t.Errorf("the server has the steps %s", got)
	}
	s.RestoreCheck(t, 0, "has reached the end", s.Data)
}

// TestRoomForPreparedTransactions: prepared transactions need it also where recovery is closed to readers, and where there is none.
func TestRoomForPreparedTransactions(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Conf: []string{"hot_standby = off", "max_prepared_transactions = 3"}})
	s.Exec(t, `CREATE TABLE steps (n int)`)
	// The rest is as if it had been on the command line.
	conf := strings.ReplaceAll(string(site.ReadFile(t, s.Data+"/postgresql.conf")), "max_prepared_transactions = 3", "")
	site.Must(t, os.WriteFile(s.Data+"/postgresql.conf", []byte(conf), 0o600))
	s.Backup(t)
	s.Exec(t, `BEGIN; INSERT INTO steps VALUES (1); PREPARE TRANSACTION 'waits'`)
	s.Archived(t)
	dir := s.Fetch(t)
	auto := string(site.ReadFile(t, dir+"/postgresql.auto.conf"))
	if !strings.Contains(auto, "max_prepared_transactions = '3'") || strings.Contains(auto, "max_connections") {
		t.Errorf("postgresql.auto.conf: %s", auto)
	}
	const prepared = `SELECT count(*) FROM pg_prepared_xacts`
	if got := s.Spawn(t, dir).SQL(t, prepared); got != "1" {
		t.Errorf("after a recovery %s are prepared", got)
	}

	less := s.Fetch(t)
	c, err := pgtest.Attach(less, s.Major, "-c", "max_prepared_transactions=0", "-c", "max_connections=20")
	site.Must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	c.AddEnv(s.Credentials...)
	if err := c.Launch(t.Context()); err == nil {
		t.Error("without room for them it has started")
	}
	s.RestoreCheck(t, site.ExitNotReached, "max_prepared_transactions = '3'", less)
	if o := s.Run(t, "restore-check", less); strings.Contains(o.Out, "max_connections") {
		t.Errorf("it recovers closed to readers: %v", o)
	}

	s.Stop(t, "fast")
	b := s.Offline(t)
	if got := s.Spawn(t, s.Fetch(t, b.Backup)).SQL(t, prepared); got != "1" {
		t.Errorf("of a server that was shut down %s are prepared", got)
	}
}
