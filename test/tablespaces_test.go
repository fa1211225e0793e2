package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// space makes a folder, and of it a tablespace with a table of the same name in it.
func (s *site) space(t testing.TB, dir, name string) (location string) {
	t.Helper()
	location = filepath.Join(dir, name)
	if err := os.Mkdir(location, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := testenv.ChownPostgres(location); err != nil {
		t.Fatal(err)
	}
	s.Exec(t, `CREATE TABLESPACE `+name+` LOCATION '`+location+`'`)
	s.Exec(t, `CREATE TABLE `+name+` TABLESPACE `+name+` AS SELECT i, md5(i::text) FROM generate_series(1, 1000) i`)
	return location
}

// TestTablespaceCreatedMeanwhile: one that is created while the backup waits for its checkpoint is in the backup, and
// one that is dropped then does no harm.
func TestTablespaceCreatedMeanwhile(t *testing.T) {
	outside := testenv.Dir(t)
	s := newSite(t, folderStore(t), pgtest.Options{Conf: []string{"checkpoint_timeout = '30s'", "autovacuum = off"}})
	s.space(t, outside, "early")
	s.space(t, outside, "dropped")
	s.Exec(t, `CREATE TABLE much AS SELECT i, repeat('x', 1000) FROM generate_series(1, 3000) i`) // for a checkpoint that takes its time
	pushed := make(chan outcome, 1)
	go func() { pushed <- s.run(t, "backup-push", "--wal-timeout=10m", "--checkpoint=spread") }()
	s.Eventually(t, `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'CheckpointDone' AND query ~ 'backup_start' AND pid <> pg_backend_pid()`, "1")
	s.space(t, outside, "late")
	s.Exec(t, `DROP TABLE dropped`)
	s.Exec(t, `DROP TABLESPACE dropped`) // makes an immediate checkpoint of it
	o := <-pushed
	if o.code != 0 || !strings.Contains(o.err, "tablespace late was created while the backup began or ran") {
		t.Fatalf("backup-push: %v", o)
	}
	if o := s.must(t, "backup-show", "LATEST"); !strings.Contains(o.out, "late") || !strings.Contains(o.out, "early") {
		t.Errorf("backup-show: %v", o)
	}
	want := contents(t, s.Cluster, "postgres")
	s.archived(t)
	s.Stop(t, "fast")
	if err := os.Rename(outside, outside+".lost"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(outside + ".lost") })
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := testenv.ChownPostgres(outside); err != nil {
		t.Fatal(err)
	}
	c := s.start(t, s.fetch(t, "--tablespace", "late="+filepath.Join(outside, "late")), noArchiving...)
	sameContents(t, c, "postgres", want)
}

// TestTablespaceNotMounted: without the data of a tablespace there is no backup, and it is known at once.
func TestTablespaceNotMounted(t *testing.T) {
	outside := testenv.Dir(t)
	s := newSite(t, folderStore(t), pgtest.Options{Template: true})
	location := s.space(t, outside, "apart")
	s.backup(t)
	s.Exec(t, `CHECKPOINT`)
	if err := os.Rename(location, location+".mount"); err != nil {
		t.Fatal(err)
	}
	refused := func(args ...string) {
		t.Helper()
		o := s.run(t, append([]string{"backup-push"}, args...)...)
		if o.code != 9 || !strings.Contains(o.err, "at "+location) || !strings.Contains(o.err, "HINT:  No backup was entered in the catalog. Mount its volume") {
			t.Errorf("backup-push: %v", o)
		}
	}
	refused()
	if err := os.Mkdir(location, 0o755); err != nil { // as an empty mount point
		t.Fatal(err)
	}
	refused()
	if err := os.Remove(location); err != nil {
		t.Fatal(err)
	}
	if n := len(s.list(t)); n != 1 {
		t.Errorf("there are %d backups, want the first one only", n)
	}
	s.Stop(t, "immediate") // not fast: its checkpoint would need the folder
	if err := os.Rename(location+".mount", location); err != nil {
		t.Fatal(err)
	}
	s.Start(t)
	s.backup(t)
	s.Stop(t, "fast")
	if err := os.Rename(location, location+".mount"); err != nil {
		t.Fatal(err)
	}
	refused("--offline", s.Data)
}
