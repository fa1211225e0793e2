package restore

import (
	"syscall"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
)

// TestWhatTheArchiveHasSince: a recovery that has reached all there was does not hear that the archive has gone on, only because
// the segment has been ended and archived since. When there is more, it does.
func TestWhatTheArchiveHasSince(t *testing.T) {
	t.Parallel()
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{})
	s.Exec(t, `CREATE TABLE steps (n int)`)
	s.Backup(t)
	r := s.Receive(t, "--synchronous")
	s.Streaming(t, "async")
	s.Exec(t, `INSERT INTO steps VALUES (1)`)
	s.Eventually(t, `SELECT flush_lsn = pg_current_wal_lsn() FROM pg_stat_replication`, "t")
	dir := s.Fetch(t)
	if code := r.Stop(t, syscall.SIGTERM); code != 0 {
		t.Fatal(code)
	}
	c := s.Spawn(t, dir)
	if got := site.Steps(t, c); got != "1" {
		t.Fatalf("it has the steps %s", got)
	}
	s.Archived(t) // the rest of the segment, which is only its end
	s.Says(t, dir, "end of the WAL", "Since then")
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	s.Archived(t)
	s.RestoreCheck(t, 0, "Since then", dir)
}

// TestStandbyOnAnotherTimeline: what the archive has is told of the timelines that the standby follows, not of one that was
// given up.
func TestStandbyOnAnotherTimeline(t *testing.T) {
	t.Parallel()
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Conf: []string{"wal_retrieve_retry_interval = '200ms'"}})
	s.Exec(t, `CREATE TABLE steps (n int)`)
	s.Backup(t)
	s.Exec(t, `INSERT INTO steps VALUES (1)`)
	at := s.SQL(t, `SELECT pg_current_wal_insert_lsn()`)
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	s.Archived(t)
	s.Exec(t, `INSERT INTO steps VALUES (3)`)
	given := s.SwitchWAL(t)
	s.Eventually(t, `SELECT left(last_archived_wal, 24) >= '`+given+`' FROM pg_stat_archiver`, "t")
	dir := s.Fetch(t, "--standby")
	s.Stop(t, "immediate")
	next := s.StartArchiving(t, s.Fetch(t, "--target-lsn", at, "--target-action=promote", "--keep-archiving"))
	next.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
	next.Exec(t, `INSERT INTO steps VALUES (4)`)
	last := next.SwitchWAL(t)
	next.Eventually(t, `SELECT left(last_archived_wal, 24) >= '`+last+`' FROM pg_stat_archiver`, "t")

	standby := s.Spawn(t, dir)
	standby.Eventually(t, `SELECT string_agg(n::text, ' ' ORDER BY n) FROM steps`, "1 4")
	s.Says(t, dir, "("+last+")", given)
	s.Says(t, dir, "all WAL", given)
}
