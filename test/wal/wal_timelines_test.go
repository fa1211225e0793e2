package wal

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// Row 19: one promotion after the other, past timeline 9 when there is time for it (0xA is not 10, and 0x11 not
// 11); recovery from the first backup finds its way along all of them, with the window in use.
func TestManyTimelines(t *testing.T) {
	t.Parallel()
	promotions := 3
	if site.Torture() {
		promotions = 17
	}
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{WALSegMB: 1})
	s.Exec(t, `CREATE TABLE x (i int)`)
	s.Must(t, "backup-push")
	fill := func(c *pgtest.Cluster, i int) {
		for range 3 {
			c.Exec(t, fmt.Sprintf(`INSERT INTO x VALUES (%d)`, i))
			c.Exec(t, `SELECT pg_switch_wal()`)
		}
		c.Exec(t, fmt.Sprintf(`INSERT INTO x VALUES (%d)`, i))
	}
	fill(s.Cluster, 0)
	s.Stop(t, "fast") // archives what is left
	args := append(archivingArgs(s.Pgobj), "-c", "restore_command="+s.Pgobj+" --log-level=debug wal-fetch %f %p", "-c", "recovery_target_timeline=latest")
	for i := 1; i <= promotions; i++ {
		site.Must(t, os.WriteFile(filepath.Join(s.Data, "recovery.signal"), nil, 0o644))
		c, err := pgtest.Attach(s.Data, 15, args...)
		site.Must(t, err)
		c.AddEnv(s.Settings...)
		c.Start(t)
		c.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
		fill(c, i)
		// Stopped before its archiver runs, a server archives nothing; and the next recovery's checkpoint removes what still waits.
		c.Eventually(t, `SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'archiver'`, "1")
		c.Stop(t, "fast")
		site.Must(t, c.Close())
	}
	all := fmt.Sprint(4 * (promotions + 1))
	c := s.Spawn(t, s.Fetch(t, s.List(t)[0].Backup), "-c", "archive_mode=off", "-c", "restore_command="+s.Pgobj+" --storage file://"+s.Directory+" --log-level=debug wal-fetch %f %p")
	c.Eventually(t, `SELECT count(*) FROM x`, all)
	if got := c.SQL(t, `SELECT timeline_id FROM pg_control_checkpoint()`); got != fmt.Sprint(promotions+2) {
		t.Errorf("on timeline %s", got)
	}
	if !strings.Contains(c.Log(), "fetched ahead") {
		t.Error("nothing was fetched ahead")
	}
	if o := s.Must(t, "wal-list"); strings.Contains(o.Out, "gap") || strings.Contains(o.Out, "NO HISTORY") {
		t.Error(o)
	}
	if w := s.Windows(t); len(w) != promotions+1 {
		t.Errorf("%d windows: %+v", len(w), w)
	}
}

func archivingArgs(pgobj string) []string {
	return []string{"-c", "archive_mode=on", "-c", "archive_command=" + pgobj + " wal-push %p"}
}

// A standby with archive_mode=always pushes what the primary has pushed: all of it succeeds, on both.
func TestArchiveModeAlways(t *testing.T) {
	t.Parallel()
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{WALSegMB: 1})
	s.Exec(t, `CREATE TABLE x (i int)`)
	s.Must(t, "backup-push")
	dir := s.Fetch(t)
	site.Must(t, os.Rename(filepath.Join(dir, "recovery.signal"), filepath.Join(dir, "standby.signal")))
	standby := s.Spawn(t, dir, "-c", "archive_mode=always", "-c", "archive_command="+s.Pgobj+" --storage file://"+s.Directory+" wal-push %p",
		"-c", "wal_retrieve_retry_interval=100ms")
	for i := range 20 {
		s.Exec(t, fmt.Sprintf(`INSERT INTO x VALUES (%d)`, i))
		s.Exec(t, `SELECT pg_switch_wal()`)
	}
	s.Archived(t)
	standby.Eventually(t, `SELECT count(*) FROM x`, "20")
	last := s.SQL(t, `SELECT last_archived_wal FROM pg_stat_archiver`)
	standby.Eventually(t, fmt.Sprintf(`SELECT coalesce(last_archived_wal >= '%s', false) FROM pg_stat_archiver`, last[:24]), "t")
	for name, c := range map[string]*pgtest.Cluster{"primary": s.Cluster, "standby": standby} {
		if failed := c.SQL(t, `SELECT failed_count FROM pg_stat_archiver`); failed != "0" {
			t.Errorf("%s: %s failures", name, failed)
		}
	}
}

// A standby that takes over never archives what it has received by streaming: that stays with the old primary. Recovery
// that knows nothing of the new timeline must not take the end of what was archived for the end of all.
func TestTrunkIsNotArchived(t *testing.T) {
	t.Parallel()
	st := site.DirectoryStore(t)
	s := site.NewSite(t, st, pgtest.Options{WALSegMB: 1})
	s.Exec(t, `CREATE TABLE x (i int)`)
	s.Backup(t)
	prepared := s.Fetch(t)
	standby := site.StandbyOf(t, s)
	s.Exec(t, `INSERT INTO x SELECT generate_series(1, 3)`)
	s.Archived(t)
	s.Exec(t, `ALTER SYSTEM SET archive_command = 'false'`)
	s.Exec(t, `SELECT pg_reload_conf()`)
	s.Eventually(t, `SHOW archive_command`, "false")
	for i := 4; i <= 6; i++ {
		s.Exec(t, fmt.Sprintf(`INSERT INTO x VALUES (%d)`, i))
		s.SwitchWAL(t)
	}
	// The standby marks a streamed segment as archived when the next one begins: not before, and never after a crash between.
	s.Exec(t, `CREATE TABLE begun ()`)
	standby.Eventually(t, `SELECT to_regclass('begun') IS NOT NULL`, "t")
	standby.Eventually(t, `SELECT count(*) FROM x`, "6")
	site.Must(t, s.Crash())
	if o := site.Finish(t, s.Program(standby.Bin("pg_ctl"), "promote", "-D", standby.Data)); o.Code != 0 {
		t.Fatal(o)
	}
	standby.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
	standby.Exec(t, `INSERT INTO x VALUES (7)`)
	standby.Archived(t)
	c, err := pgtest.Attach(prepared, s.Major, site.NoArchiving...)
	site.Must(t, err)
	t.Cleanup(func() { site.Must(t, c.Close()) })
	c.AddEnv(append(st.Credentials, "PGOBJ_RETRY_FOR=2s")...)
	if err := c.Launch(t.Context()); err == nil {
		t.Errorf("the copy is open with rows %s of 1 to 7", c.SQL(t, `SELECT string_agg(i::text, ' ') FROM x`))
	}
	if log := c.Log(); !strings.Contains(log, "is missing in") || !strings.Contains(log, "although 00000002.history is there") {
		t.Errorf("the server's log does not tell why: %s", log)
	}
}

// A timeline can be there of which the one before never got to the archive. PostgreSQL looks for the newest by counting up,
// and would not find it.
func TestTimelineInBetweenIsMissing(t *testing.T) {
	t.Parallel()
	st := site.DirectoryStore(t)
	s := site.NewSite(t, st, pgtest.Options{WALSegMB: 1})
	s.Exec(t, `CREATE TABLE x (i int)`)
	s.Backup(t)
	s.Exec(t, `INSERT INTO x VALUES (1)`)
	s.Archived(t)
	site.Must(t, s.AppendConf("restore_command = '"+s.Pgobj+" wal-fetch %f %p'"))
	for range 2 {
		site.Must(t, s.Crash())
		site.Must(t, os.WriteFile(filepath.Join(s.Data, "recovery.signal"), nil, 0o644))
		s.Start(t)
		s.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
		s.Exec(t, `INSERT INTO x SELECT max(i) + 1 FROM x`)
	}
	s.Archived(t)
	s.Exec(t, `INSERT INTO x SELECT max(i) + 1 FROM x`)
	s.Archived(t)
	lost, err := filepath.Glob(filepath.Join(st.Directory, "main/wal/*/00000002"))
	site.Must(t, err)
	if len(lost) != 1 {
		t.Fatal(lost)
	}
	site.Must(t, os.RemoveAll(lost[0]))
	for _, args := range [][]string{nil, {"--target-timeline=latest"}} {
		c := s.Spawn(t, s.Fetch(t, args...), site.NoArchiving...)
		if got := c.SQL(t, `SELECT string_agg(i::text, ' ' ORDER BY i) FROM x`); got != "1 2 3 4" {
			t.Errorf("%q: the copy has rows %s", args, got)
		}
		c.Stop(t, "immediate")
	}
}

// TestResetWAL: pg_resetwal lets WAL begin anew, and no recovery gets across. It removes the segment with the record of the shutdown, which is
// never archived, so that there is a gap, and windows end there.
func TestResetWAL(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	old := s.Backup(t)
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	s.Archived(t)
	s.Stop(t, "fast")
	s.Must(t, "wal-push", "--all", s.Data) // the most that anybody can archive before
	if o := site.Finish(t, s.Program(s.Bin("pg_resetwal"), "-D", s.Data)); o.Code != 0 {
		t.Fatal(o)
	}
	s.Start(t)
	s.Exec(t, `INSERT INTO steps VALUES (3)`)
	s.Archived(t)
	if o := s.Run(t, "wal-list"); o.Code != site.ExitWAL {
		t.Errorf("wal-list: %v", o)
	}
	if o := s.Run(t, "backup-fetch", "--plan", filepath.Join(testenv.Dir(t), "x")); o.Code != site.ExitUnreachable {
		t.Errorf("a way across: %v", o)
	}
	s.Backup(t)
	if w := s.Windows(t); len(w) != 2 || len(w[0].Backups) != 1 || w[0].Backups[0] != old.Backup {
		t.Errorf("windows: %+v", w)
	}
	s.Drill(t, 0)
}
