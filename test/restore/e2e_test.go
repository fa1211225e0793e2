package restore

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/s3server"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestMainJob is what pgobj is for: archive, back up, lose everything, restore.
func TestMainJob(t *testing.T) {
	minio := s3server.ForTest(t, s3server.MinIOTLS)
	versity := s3server.ForTest(t, s3server.Versity)
	for name, job := range map[string]struct {
		major int
		store func(testing.TB) site.Store
	}{
		"10 directory":         {10, site.DirectoryStore},
		"15 directory":         {15, site.DirectoryStore},
		"18 directory":         {18, site.DirectoryStore},
		"15 MinIO by minio-go": {15, func(t testing.TB) site.Store { return site.S3Store(t, minio, "minio") }},
		"15 MinIO by AWS SDK": {15, func(t testing.TB) site.Store {
			st := site.S3Store(t, minio, "aws")
			st.Settings = append(st.Settings, "PGOBJ_SERVER=second")
			return st
		}},
		"15 versitygw": {15, func(t testing.TB) site.Store { return site.S3Store(t, versity, "auto") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mainJob(t, site.NewSite(t, job.store(t), pgtest.Options{Major: job.major, Checksums: true, Template: true}))
		})
	}
}

func mainJob(t *testing.T, s *site.Site) {
	s.Exec(t, `CREATE TABLE accounts (id int PRIMARY KEY, balance int, note text);
		INSERT INTO accounts SELECT i, i % 1000, repeat(md5(i::text), 5) FROM generate_series(1, 20000) i;
		CREATE INDEX ON accounts (note)`)
	first := s.Backup(t, "--label", "why=before the end")
	s.Exec(t, `INSERT INTO accounts SELECT i, 0, 'after the backup' FROM generate_series(20001, 25000) i; UPDATE accounts SET balance = balance + 1`)
	early := site.Contents(t, s.Cluster, "postgres")
	target := s.SQL(t, `SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00'`)
	s.Exec(t, `DELETE FROM accounts WHERE id % 2 = 0; CREATE TABLE later AS SELECT i FROM generate_series(1, 1000) i`)
	late := site.Contents(t, s.Cluster, "postgres")
	s.Archived(t)
	s.Stop(t, "immediate")
	if err := os.RemoveAll(s.Data); err != nil {
		t.Fatal(err)
	}

	t.Run("to a time, pausing", func(t *testing.T) {
		c := s.Spawn(t, s.Fetch(t, "--target-time", target), site.NoArchiving...)
		if paused := c.SQL(t, `SELECT pg_is_wal_replay_paused()`); paused != "t" {
			t.Errorf("recovery is paused: %s", paused)
		}
		site.SameContents(t, c, "postgres", early)
		c.Exec(t, `SELECT pg_wal_replay_resume()`)
		c.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
		site.SameContents(t, c, "postgres", early)
	})
	t.Run("to a time, promoting", func(t *testing.T) {
		dir := s.Fetch(t, "--target-time", target, "--target-action", "promote")
		s.RecoverySettings(t, dir, "recovery_target_time", "recovery_target_action = 'promote'")
		c := s.Spawn(t, dir, site.NoArchiving...)
		site.SameContents(t, c, "postgres", early)
	})
	t.Run("to the end", func(t *testing.T) { toTheEnd(t, s, first, late) })
}

// PostgreSQL pauses before the commit of the DROP, with its lock replayed: what backup-fetch says of that has to be so.
func TestDroppedTableIsReadAfterThePause(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: 15, Template: true})
	s.Exec(t, `CREATE TABLE lost AS SELECT i FROM generate_series(1, 1000) i`)
	s.Backup(t)
	at := s.SQL(t, `SELECT clock_timestamp()`)
	s.Exec(t, `DROP TABLE lost`)
	s.Archived(t)

	target := filepath.Join(testenv.Dir(t), "data")
	o := s.Must(t, "backup-fetch", target, "--target-time", at)
	for _, says := range []string{"pauses", "DROP", "SELECT pg_wal_replay_resume();"} {
		if !strings.Contains(o.Out, says) {
			t.Errorf("backup-fetch does not say %q:\n%s", says, o.Out)
		}
	}
	c := s.Spawn(t, target, site.NoArchiving...)
	ctx, cancel := context.WithTimeout(t.Context(), site.Generous)
	defer cancel()
	if got, err := c.Query(ctx, "postgres", `SET lock_timeout = '200ms'; SELECT count(*) FROM lost`); err == nil || !strings.Contains(err.Error(), "lock timeout") {
		t.Errorf("the table can be read while the recovery pauses: %s, %v", got, err)
	}
	c.Exec(t, `SELECT pg_wal_replay_resume()`)
	c.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
	if rows := c.SQL(t, `SELECT count(*) FROM lost`); rows != "1000" {
		t.Errorf("the table has %s rows", rows)
	}
}

// toTheEnd restores as after a disaster: the new server takes the place of the old one and goes on.
func toTheEnd(t *testing.T, s *site.Site, first site.BackupEntry, want string) {
	dir := s.Fetch(t, "--keep-archiving")
	s.RecoverySettings(t, dir)
	if s.Major == 15 {
		s.Verified(t, dir)
	}
	after := *s
	c, err := pgtest.Attach(dir, s.Major)
	if err != nil {
		t.Fatal(err)
	}
	after.Cluster = c
	c.AddEnv(append(s.Settings, s.Credentials...)...)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	c.Start(t)
	site.SameContents(t, c, "postgres", want)
	c.Exec(t, `INSERT INTO later VALUES (-1)`)
	second := after.Backup(t)
	if second.Timeline != 2 || second.SystemID != first.SystemID || first.Timeline != 1 || first.Labels["why"] != "before the end" {
		t.Errorf("backups before and after the restore: %+v and %+v", first, second)
	}
	// What the first restore wrote into the configuration is no danger to the next: that takes it out.
	if o := after.Must(t, "backup-fetch", filepath.Join(testenv.Dir(t), "data"), second.Backup, "--plan"); strings.Contains(o.Out, "runs a command") {
		t.Errorf("the plan warns of what it replaces: %v", o)
	}
	if failed := c.SQL(t, `SELECT failed_count, last_failed_wal FROM pg_stat_archiver`); failed != "0|" {
		t.Errorf("archiving after the restore: %s failures", failed)
	}
	if s.Major == 15 {
		site.Sound(t, c)
	}
}

// TestBackupUnderLoad: every row that was committed when recovery ended is there, no other is, and what is
// torn by running writes is not taken for damage.
func TestBackupUnderLoad(t *testing.T) {
	// A buffer pool that holds a small part of the data makes the server write pages all the time.
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Checksums: true, Template: true,
		Conf: []string{"shared_buffers = '1MB'", "checkpoint_timeout = '30s'", "max_wal_size = '64MB'", "synchronous_commit = off"}})
	pgbench := func(args ...string) *exec.Cmd { return s.Program(s.Bin("pgbench"), args...) }
	if o := site.Finish(t, pgbench("--initialize", "--scale=3", "--quiet")); o.Code != 0 {
		t.Fatal(o)
	}
	load := pgbench("--client=4", "--time=600")
	var output strings.Builder
	load.Stdout, load.Stderr = &output, &output
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			_ = load.Process.Signal(syscall.SIGTERM) // it may have failed already: then the history shows it
			_ = load.Wait()
		}
	}
	defer stop()

	var backups []site.BackupEntry
	for _, jobs := range []string{"1", "2", "2"} {
		before := s.Transactions(t)
		testenv.Eventually(t, time.Minute, "pgbench is at work", func() bool { return s.Transactions(t) > before+200 })
		b := s.Backup(t, "--jobs", jobs)
		if busy := s.SQL(t, `SELECT pg_wal_lsn_diff($1, $2) > 200000`, b.StopLSN, b.StartLSN); busy != "t" {
			t.Fatalf("little was written between %s and %s, start and stop of the backup; pgbench said: %s", b.StartLSN, b.StopLSN, output.String())
		}
		if b.DamagedPages != 0 {
			t.Errorf("%d pages are called damaged", b.DamagedPages)
		}
		backups = append(backups, b)
	}
	stop()
	s.Eventually(t, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'`, "0")
	s.PgbenchInvariants(t, s.Cluster)
	want := site.Contents(t, s.Cluster, "postgres")
	s.Archived(t)

	for _, b := range backups {
		dir := s.Fetch(t, b.Backup)
		s.Verified(t, dir)
		c := s.Spawn(t, dir, site.NoArchiving...)
		site.SameContents(t, c, "postgres", want)
		s.PgbenchInvariants(t, c)
		site.Sound(t, c)
	}
}
