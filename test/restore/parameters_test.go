package restore

import (
	"encoding/json"
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
			var r struct {
				Lacking []struct {
					Name   string
					Needed int
				} `json:"lacking_settings"`
			}
			j := s.Run(t, "restore-check", "--json", less)
			if err := json.Unmarshal([]byte(j.Out), &r); err != nil || len(r.Lacking) != 1 || r.Lacking[0].Name != "max_connections" || r.Lacking[0].Needed != 217 {
				t.Errorf("restore-check --json: %v (%v)", j, err)
			}
			if o := s.Must(t, "backup-fetch", "--plan", testenv.Dir(t)+"/x", "--no-recovery-settings"); !strings.Contains(o.Out, "max_connections = '217'") || !strings.Contains(o.Out, "max_prepared_transactions = '7'") {
				t.Errorf("whoever writes the settings is not told what recovery needs: %v", o)
			}
			s.Drill(t, 0)
		})
	}
}

// TestRestoredAgain: what a restore has set for the recovery is the server's configuration from then on, and is in its next backup.
func TestRestoredAgain(t *testing.T) {
	for _, major := range []int{13, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := raised(t, major)
			dir := s.Fetch(t, "--keep-archiving")
			s.Stop(t, "fast")
			next := &site.Site{Store: s.Store, Pgobj: s.Pgobj, Cluster: s.StartArchiving(t, dir)}
			next.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
			b := next.Backup(t)
			for _, args := range [][]string{{}, {"--standby"}, {"--target=immediate", "--target-action=promote"}} {
				if got := site.Steps(t, next.Spawn(t, next.Fetch(t, args...), site.NoArchiving...)); got != "1 2 3" {
					t.Errorf("%v: it has the steps %s", args, got)
				}
			}
			next.Stop(t, "fast")
			cold := next.Offline(t)
			for _, id := range []string{b.Backup, cold.Backup} {
				if got := next.Spawn(t, next.Fetch(t, id), site.NoArchiving...).SQL(t, `SHOW max_connections`); got != "217" {
					t.Errorf("restored from %s it has max_connections = %s", id, got)
				}
			}
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
			before := s.SQL(t, `INSERT INTO steps VALUES (3); SELECT txid_current()`)
			s.Exec(t, `SELECT pg_create_restore_point('before')`)
			s.Archived(t)
			for _, conf := range [][]string{{"archive_mode = off", "wal_level = minimal", "max_wal_senders = 0"}, {"archive_mode = on", "wal_level = replica", "max_wal_senders = 10"}} {
				s.Stop(t, "immediate") // a clean stop would end the segment
				site.Must(t, s.AppendConf(conf...))
				s.Start(t)
				s.Exec(t, `INSERT INTO steps VALUES (4)`)
			}
			after := s.SQL(t, `INSERT INTO steps VALUES (5); SELECT txid_current()`)
			s.Exec(t, `SELECT pg_create_restore_point('after')`)
			s.Archived(t)
			for target, code := range map[string]int{"--target-name=before": 0, "--target-xid=" + before: 0,
				"--target-name=after": site.ExitUnreachable, "--target-xid=" + after: site.ExitUnreachable, "--target-name=never": site.ExitUnreachable} {
				for _, backup := range []string{old.Backup, "LATEST"} {
					if o := s.Run(t, "backup-fetch", "--plan", testenv.Dir(t)+"/x", backup, target); o.Code != code || strings.Contains(o.Err, "only the recovery shows") {
						t.Errorf("%s from backup %s: %v", target, backup, o)
					}
				}
			}
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
	site.Must(t, s.AppendConf("archive_command = 'false'"))
	for _, connections := range []string{"217", "20"} { // raised, and lowered again: the highest on the way counts
		site.Must(t, s.AppendConf("max_connections = "+connections))
		s.Stop(t, "immediate")
		s.Start(t)
		s.Exec(t, `INSERT INTO steps VALUES (2)`)
	}
	s.Kill(t)
	saved := testenv.Dir(t) + "/saved"
	fetched := s.Must(t, "backup-fetch", s.Data, "--delta", "--save-wal", saved)
	if auto := string(site.ReadFile(t, s.Data+"/postgresql.auto.conf")); !strings.Contains(auto, "max_connections = '217'") {
		t.Errorf("postgresql.auto.conf: %s", auto)
	}
	files, err := os.ReadDir(saved)
	site.Must(t, err)
	s.PushSaved(t, fetched, saved, len(files))
	s.Start(t)
	if got := site.Steps(t, s.Cluster); got != "1 2 2" {
		t.Errorf("the server has the steps %s", got)
	}
	s.RestoreCheck(t, 0, "has reached the end", s.Data)
	if auto := string(site.ReadFile(t, s.Fetch(t)+"/postgresql.auto.conf")); !strings.Contains(auto, "max_connections = '217'") {
		t.Errorf("from the archive: %s", auto)
	}
}

// TestSavedMinimal: with wal_level = minimal nothing is archived, so that what was written then is among the WAL that a restore would save.
// No recovery gets across.
func TestSavedMinimal(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	s.Backup(t)
	site.Must(t, s.AppendConf("archive_mode = off", "wal_level = minimal", "max_wal_senders = 0"))
	s.Stop(t, "immediate")
	s.Start(t)
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	s.Kill(t)
	o := s.Run(t, "backup-fetch", s.Data, "--delta", "--save-wal", testenv.Dir(t)+"/saved")
	if o.Code != site.ExitTarget || !strings.Contains(o.Err, "wal_level = minimal") {
		t.Errorf("the WAL is saved for nothing: %v", o)
	}
	s.Start(t)
	if got := site.Steps(t, s.Cluster); got != "1 2" {
		t.Errorf("after a restore that was refused the server has the steps %s", got)
	}
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
