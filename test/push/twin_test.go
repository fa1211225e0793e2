package push

import (
	"path/filepath"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestTwinsAreToldApart: a copy of a data directory, a snapshot that was gone back to for instance, runs on with the same
// system identifier on the same timeline. The archive has segments of the names that its backup needs, but they are
// the other server's: with them the backup would be worth nothing.
func TestTwinsAreToldApart(t *testing.T) {
	t.Parallel()
	s, b, snapshot := lostHistory(t)
	for range 6 {
		touchOne(t, s.Cluster, "big")
		s.Archived(t)
	}
	s.Stop(t, "fast")
	twin := &site.Site{Store: s.Store, Pgobj: s.Pgobj, Cluster: s.StartArchiving(t, snapshot)}
	for twin.SQL(t, `SELECT pg_current_wal_insert_lsn() > '`+b.StopLSN+`'`) == "f" {
		touchOne(t, twin.Cluster, "big")
		twin.Exec(t, `SELECT pg_switch_wal()`)
	}
	twin.FailsWith(t, site.ExitConflict, "wal-conflict", "backup-push")
	if n := len(twin.List(t)); n != 1 {
		t.Errorf("a backup whose WAL is another server's: there are %d", n)
	}
}

// lostHistory makes a server, a copy of it as it is stopped, and then a backup of it with changes that are not in the copy.
func lostHistory(t testing.TB) (s *summarized, b site.BackupEntry, snapshot string) {
	s = newSummarized(t, pgtest.Options{Checksums: true, Conf: []string{"wal_keep_size = '1GB'"}})
	s.Archived(t)
	s.Stop(t, "fast")
	snapshot = filepath.Join(testenv.Dir(t), "data")
	if o := site.Finish(t, s.Program("cp", "-a", s.Data, snapshot)); o.Code != 0 {
		t.Fatal(o)
	}
	s.Start(t)
	s.Exec(t, `UPDATE big SET t = reverse(t) WHERE id % 50 = 7`)
	return s, s.Backup(t), snapshot
}

// TestALostHistoryIsNotReused: a server was set back to a snapshot, and whoever watched it got its archiving going again
// by archiving nothing until the names were free. Its WAL summaries go back to before the last backup, but that is of
// the history that is lost.
func TestALostHistoryIsNotReused(t *testing.T) {
	t.Parallel()
	s, b, snapshot := lostHistory(t)
	s.Stop(t, "fast")
	c := s.StartArchiving(t, snapshot, "-c", "archive_command=/bin/true")
	touchOne(t, c, "big")
	for c.SQL(t, `SELECT pg_current_wal_insert_lsn() > '`+b.StopLSN+`'::pg_lsn + 32 * 1024 * 1024`) == "f" {
		touchOne(t, c, "big")
		c.Exec(t, `SELECT pg_switch_wal()`)
	}
	c.Stop(t, "fast")
	twin := &summarized{&site.Site{Store: s.Store, Pgobj: s.Pgobj, Cluster: s.StartArchiving(t, snapshot)}}
	big := twin.bytes(t, "postgres", "big")
	twin.reads(t, "the last backup is of another history", big, anything)
}
