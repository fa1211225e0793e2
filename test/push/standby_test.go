package push

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestStandbyBackup: a backup from a standby restores to what the primary has, on every version.
func TestStandbyBackup(t *testing.T) {
	majors := []int{10, 15, 18}
	if site.Torture() {
		majors = []int{10, 11, 12, 13, 14, 15, 16, 17, 18}
	}
	for _, major := range majors {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			o := pgtest.Options{Major: major, Template: true, Checksums: true}
			if major >= 17 {
				o.Conf = []string{"summarize_wal = on"}
			}
			s := site.NewSite(t, site.DirectoryStore(t), o)
			s.Exec(t, `CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i; CREATE UNLOGGED TABLE u (i int)`)
			s.Backup(t)
			standby := site.StandbyOf(t, s)
			s.Exec(t, `INSERT INTO t SELECT i, 'before' FROM generate_series(1, 5000) i`)
			site.CaughtUp(t, s.Cluster, standby.Cluster)
			at := site.Contents(t, s.Cluster, "postgres")

			first := standby.Backup(t, "--primary-dsn", s.DSN("postgres"))
			second := standby.Backup(t, "--primary-dsn", s.DSN("postgres"))
			if first.From != "standby" || second.From != "standby" || first.StartLSN != second.StartLSN || first.Backup == second.Backup {
				t.Errorf("two backups of a standby without a checkpoint between them should begin at one LSN: %+v and %+v", first, second)
			}
			limit := int64(100_000)
			if major >= 17 {
				// The first took by the WAL summaries what the primary's backup has of pages that differ in hint bits only.
				limit = 1_000_000
			}
			if second.Stored > limit {
				t.Errorf("the second backup stored %d bytes, though nothing had changed", second.Stored)
			}
			s.Exec(t, `DELETE FROM t WHERE i % 3 = 0; INSERT INTO t VALUES (-1, 'after')`)
			s.Archived(t)
			end := site.Contents(t, s.Cluster, "postgres")
			site.SameContents(t, s.Spawn(t, s.Fetch(t, first.Backup, "--target", "immediate", "--target-action", "promote")), "postgres", at)
			dir := s.Fetch(t, second.Backup)
			if major == 15 {
				s.Verified(t, dir)
			}
			c := s.Spawn(t, dir)
			site.SameContents(t, c, "postgres", end)
			if major == 15 {
				site.Sound(t, c)
			}
			standby.Stop(t, "immediate") // before its primary, which would wait for it
		})
	}
}

// TestStandbyBackupUnderLoad: what a standby copies while it replays is consistent at the backup's end.
func TestStandbyBackupUnderLoad(t *testing.T) {
	t.Parallel()
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Template: true, Checksums: true,
		Conf: []string{"shared_buffers = '1MB'", "checkpoint_timeout = '30s'", "max_wal_size = '64MB'", "synchronous_commit = off"}})
	if o := site.Finish(t, s.Program(s.Bin("pgbench"), "--initialize", "--scale=3", "--quiet")); o.Code != 0 {
		t.Fatal(o)
	}
	s.Backup(t)
	standby := site.StandbyOf(t, s)
	load := s.Program(s.Bin("pgbench"), "--client=4", "--time=600")
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = load.Process.Signal(syscall.SIGTERM)
		_ = load.Wait() // its end is the signal's
	}()
	for range 2 {
		before := s.Transactions(t)
		testenv.Eventually(t, time.Minute, "pgbench is at work", func() bool { return s.Transactions(t) > before+200 })
		site.CaughtUp(t, s.Cluster, standby.Cluster)
		b := standby.Backup(t, "--primary-dsn", s.DSN("postgres"), "--jobs", "2")
		if b.DamagedPages != 0 {
			t.Errorf("%d pages are called damaged", b.DamagedPages)
		}
		dir := s.Fetch(t, b.Backup, "--target", "immediate", "--target-action", "promote")
		s.Verified(t, dir)
		c := s.Spawn(t, dir)
		s.PgbenchInvariants(t, c)
		site.Sound(t, c)
	}
	standby.Stop(t, "immediate")
}

// standbyRig is a fault rig whose cluster is a standby, and its primary.
func standbyRig(t *testing.T) (rig *site.FaultRig, primary *pgtest.Cluster, proxy *faultproxy.Proxy) {
	t.Helper()
	rig, server := site.NewS3Rig(t)
	primary = rig.Cluster
	rig.Push(t)
	rig.Cluster = rig.Standby(t, primary)
	return rig, primary, faultproxy.ForTest(t, server.Endpoint)
}

// TestStandbyDuringBackup: what happens to a standby or its primary while a backup is taken.
func TestStandbyDuringBackup(t *testing.T) {
	t.Parallel()
	rig, primary, proxy := standbyRig(t)
	want := site.Proof(t, primary)
	change := func() {
		primary.Exec(t, `UPDATE proof SET sum = sum WHERE i % 500 = 7`)
		site.CaughtUp(t, primary, rig.Cluster)
	}
	listed := func(n int) []string {
		t.Helper()
		ids := rig.List(t)
		if len(ids) != n {
			t.Errorf("backup-list shows %v, want %d", ids, n)
		}
		return ids
	}
	push := []string{"--log-format=json", "backup-push", "-j2", "--primary-dsn", primary.DSN("postgres")}

	change()
	o := rig.During(t, proxy, site.WhileCopying(), func(*os.Process) { primary.Restart(t) }, push...)
	if o.Code != 0 {
		t.Errorf("the primary was restarted: %v", o)
	}
	rig.CheckRestore(t, listed(2)[1], want)

	change()
	o = rig.During(t, proxy, site.WhileCopying(), func(*os.Process) {
		primary.Exec(t, `ALTER SYSTEM SET full_page_writes = off`)
		primary.Exec(t, `SELECT pg_reload_conf()`)
		primary.Eventually(t, `SHOW full_page_writes`, "off")
		site.CaughtUp(t, primary, rig.Cluster)
	}, push...)
	if f := o.MustFail(t, site.ExitPostgres, "postgres-refused"); !f.Names("full_page_writes=off") || !strings.Contains(f.Detail, "CHECKPOINT") {
		t.Errorf("full pages were not written: %+v", f)
	}
	listed(2)
	primary.Exec(t, `ALTER SYSTEM RESET full_page_writes`)
	primary.Exec(t, `SELECT pg_reload_conf()`)
	primary.Eventually(t, `SHOW full_page_writes`, "on")

	change()
	o = rig.During(t, proxy, site.WhileCopying(), func(*os.Process) {
		rig.Cluster.Exec(t, `SELECT pg_promote()`)
		rig.Cluster.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
	}, push...)
	o.MustFail(t, site.ExitPostgres, "standby-promoted")
	listed(2)
	primary.Stop(t, "fast")
	id := rig.Push(t) // it is the primary now
	rig.CheckRestore(t, id, want)
}

// TestStandbyRefusals: what a backup from a standby cannot be taken of, and what the user is told.
func TestStandbyRefusals(t *testing.T) {
	t.Parallel()
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Template: true})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	s.Backup(t)
	standby := site.StandbyOf(t, s)
	site.CaughtUp(t, s.Cluster, standby.Cluster)
	fails := func(code int, kind string, env []string, args []string, names ...string) {
		t.Helper()
		cmd := standby.Command(append([]string{"--log-format=json", "backup-push"}, args...)...)
		cmd.Env = append(cmd.Env, env...)
		o := site.Finish(t, cmd)
		if f := o.Failure(); o.Code != code || f.Kind != kind || !f.Names(names...) {
			t.Errorf("backup-push %v should end with %d, %s and %q: %v", args, code, kind, names, o)
		}
		if n := len(s.List(t)); n != 1 {
			t.Errorf("after backup-push %v there are %d backups", args, n)
		}
	}
	// Nobody ends the primary's segment.
	fails(site.ExitWAL, "backup-wal-missing", nil, []string{"--wal-timeout=1s"}, "in 1s", "SELECT pg_switch_wal()", "--primary-dsn")
	// The same path on another host: here, another directory with the same system identifier.
	fails(site.ExitPostgres, "backup-not-allowed", nil, []string{s.Data}, s.Data, "in production")
	fails(site.ExitPostgres, "backup-not-allowed", s.Env()[:2], []string{standby.Data}, standby.Data, "in archive recovery")
	// What is called the primary is none, is of another cluster, is not there, or allows nothing.
	fails(site.ExitPostgres, "postgres-refused", nil, []string{"--primary-dsn", standby.DSN("postgres")}, "is a standby itself")
	other := pgtest.Start(t, pgtest.Options{})
	fails(site.ExitPostgres, "postgres-refused", nil, []string{"--primary-dsn", other.DSN("postgres")}, "system identifier")
	fails(site.ExitPostgres, "no-socket", nil, []string{"--primary-dsn", "host=/nowhere port=1 user=x"}, "on the primary")
	s.Exec(t, `CREATE ROLE nobody LOGIN`)
	fails(site.ExitPostgres, "postgres-refused", nil, []string{"--primary-dsn", strings.Replace(s.DSN("postgres"), "user=postgres", "user=nobody", 1)}, "permission denied for function pg_switch_wal")

	// Replay that is paused is no obstacle: the backup is of that point.
	standby.Exec(t, `SELECT pg_wal_replay_pause()`)
	standby.Eventually(t, `SELECT pg_is_wal_replay_paused()`, "t")
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	o := standby.Must(t, "backup-push", "--primary-dsn", s.DSN("postgres"))
	if !strings.Contains(o.Err, "WAL replay is paused") {
		t.Errorf("a backup while the replay is paused: %v", o)
	}
	b := s.List(t)[1].Backup
	if got := site.Steps(t, s.Spawn(t, s.Fetch(t, b, "--target", "immediate", "--target-action", "promote"))); got != "1" {
		t.Errorf("the paused standby's backup has the steps %s", got)
	}
	s.Archived(t)
	if got := site.Steps(t, s.Spawn(t, s.Fetch(t, b))); got != "1 2" {
		t.Errorf("recovered to the end, the paused standby's backup has the steps %s", got)
	}

	// When nothing has been written since, the archive ends where the standby's backup does, and PostgreSQL would
	// wait for a record more to see that it is there.
	standby.Exec(t, `SELECT pg_wal_replay_resume()`)
	testenv.Eventually(t, 2*time.Minute, "a backup ends where the archive does", func() bool {
		s.Archived(t)
		site.CaughtUp(t, s.Cluster, standby.Cluster)
		s.Archived(t)
		end := s.SQL(t, `SELECT pg_current_wal_lsn()`)
		standby.Eventually(t, `SELECT pg_last_wal_replay_lsn() >= '`+end+`'`, "t")
		return site.Finish(t, standby.Command("backup-push", "--wal-timeout=1s")).Code == 0 // unless the server has written something
	})
	idle := s.List(t)[2].Backup
	s.Refuses(t, site.ExitUnreachable, "unreachable-target", "Without --target immediate", []string{idle, "--target", "immediate"})
	if got := site.Steps(t, s.Spawn(t, s.Fetch(t, idle))); got != "1 2" {
		t.Errorf("the idle standby's backup has the steps %s", got)
	}
	standby.Stop(t, "fast")

	blind := standby.Program(standby.Bin("postgres"), "-D", standby.Data, "-p", fmt.Sprint(standby.Port), "-k", standby.SocketDir, "-c", "listen_addresses=", "-c", "hot_standby=off")
	site.Must(t, blind.Start())
	defer func() {
		_ = blind.Process.Signal(syscall.SIGQUIT)
		_ = blind.Wait() // its end is the signal's
	}()
	testenv.Eventually(t, time.Minute, "the server says that it lets nobody in", func() bool {
		o := site.Finish(t, standby.Command("--log-format=json", "backup-push"))
		f := o.Failure()
		return o.Code == site.ExitPostgres && f.Kind == "server-not-ready" && f.Names("Hot standby mode is disabled", "hot_standby = on")
	})
}
