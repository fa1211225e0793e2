package test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestTwinsAreToldApart: a copy of a data directory, a snapshot that was gone back to for instance, runs on with the same
// system identifier on the same timeline. The archive has segments of the names that its backup needs, but they are
// the other server's: with them the backup would be worth nothing.
func TestTwinsAreToldApart(t *testing.T) {
	t.Parallel()
	s := newSite(t, folderStore(t), pgtest.Options{Major: 18, Template: true, Conf: []string{"summarize_wal = on", "wal_keep_size = '1GB'"}})
	s.Exec(t, `CREATE TABLE t AS SELECT generate_series(1, 10000)`)
	s.archived(t)
	s.Stop(t, "fast")
	snapshot := filepath.Join(testenv.Dir(t), "data")
	if o := finish(t, s.program("cp", "-a", s.Data, snapshot)); o.code != 0 {
		t.Fatal(o)
	}
	s.Start(t)
	s.Exec(t, `INSERT INTO t SELECT generate_series(1, 10000)`)
	b := s.backup(t)
	for range 6 {
		s.Exec(t, `INSERT INTO t VALUES (1)`)
		s.archived(t)
	}
	s.Stop(t, "fast")

	twin := &site{store: s.store, pgobj: s.pgobj, Cluster: s.startArchiving(t, snapshot)}
	for twin.SQL(t, `SELECT pg_current_wal_insert_lsn() > '`+b.StopLSN+`'`) == "f" {
		twin.Exec(t, `INSERT INTO t VALUES (2)`)
		twin.Exec(t, `SELECT pg_switch_wal()`)
	}
	o := twin.run(t, "backup-push")
	if o.code != exitConflict || !strings.Contains(o.err, "Two servers that were one") || len(twin.list(t)) != 1 {
		t.Errorf("a backup whose WAL is another server's: %v", o)
	}
}
