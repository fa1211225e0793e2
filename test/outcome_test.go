package test

import (
	"strings"
	"syscall"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
)

// TestWhatTheArchiveHasSince: a recovery that has reached all there was does not hear that the archive has gone on, only because
// the segment has been ended and archived since. When there is more, it does.
func TestWhatTheArchiveHasSince(t *testing.T) {
	t.Parallel()
	s := newSite(t, folderStore(t), pgtest.Options{})
	s.Exec(t, `CREATE TABLE steps (n int)`)
	s.backup(t)
	r := s.receive(t, "--synchronous")
	s.streaming(t, "async")
	s.Exec(t, `INSERT INTO steps VALUES (1)`)
	s.Eventually(t, `SELECT flush_lsn = pg_current_wal_lsn() FROM pg_stat_replication`, "t")
	dir := s.fetch(t)
	if code := r.stop(t, syscall.SIGTERM); code != 0 {
		t.Fatal(code)
	}
	c := s.start(t, dir)
	if got := steps(t, c); got != "1" {
		t.Fatalf("it has the steps %s", got)
	}
	s.archived(t) // the rest of the segment, which is only its end
	s.says(t, dir, "recovery has reached the end of the WAL", "gone on")
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	s.archived(t)
	s.restoreCheck(t, 0, "The archive has gone on since then, up to ", dir)
}

// says holds what restore-check says of a recovery that is where it should be, and what it does not say.
func (s *site) says(t testing.TB, dir, yes, no string) {
	t.Helper()
	if o := s.must(t, "restore-check", dir); !strings.Contains(o.out, yes) || strings.Contains(o.out, no) {
		t.Errorf("restore-check does not say %q, or says %q: %v", yes, no, o)
	}
}

// TestStandbyOnAnotherTimeline: what the archive has is told of the timelines that the standby follows, not of one that was
// given up.
func TestStandbyOnAnotherTimeline(t *testing.T) {
	t.Parallel()
	s := newSite(t, folderStore(t), pgtest.Options{Conf: []string{"wal_retrieve_retry_interval = '200ms'"}})
	s.Exec(t, `CREATE TABLE steps (n int)`)
	s.backup(t)
	s.Exec(t, `INSERT INTO steps VALUES (1)`)
	at := s.SQL(t, `SELECT pg_current_wal_insert_lsn()`)
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	s.archived(t)
	s.Exec(t, `INSERT INTO steps VALUES (3)`)
	given := s.SwitchWAL(t)
	s.Eventually(t, `SELECT left(last_archived_wal, 24) >= '`+given+`' FROM pg_stat_archiver`, "t")
	dir := s.fetch(t, "--standby")
	s.Stop(t, "immediate")
	next := s.startArchiving(t, s.fetch(t, "--target-lsn", at, "--target-action=promote", "--keep-archiving"))
	next.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
	next.Exec(t, `INSERT INTO steps VALUES (4)`)
	last := next.SwitchWAL(t)
	next.Eventually(t, `SELECT left(last_archived_wal, 24) >= '`+last+`' FROM pg_stat_archiver`, "t")

	standby := s.start(t, dir)
	standby.Eventually(t, `SELECT string_agg(n::text, ' ' ORDER BY n) FROM steps`, "1 4")
	s.says(t, dir, "("+last+")", given)
	s.says(t, dir, "it has replayed all that the archive has", given)
}
