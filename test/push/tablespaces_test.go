package push

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestTablespaceCreatedMeanwhile: one that is created while the backup waits for its checkpoint is in the backup, and
// one that is dropped then does no harm.
func TestTablespaceCreatedMeanwhile(t *testing.T) {
	outside := testenv.Dir(t)
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Conf: []string{"checkpoint_timeout = '30s'", "autovacuum = off"}})
	s.Space(t, outside, "early")
	s.Space(t, outside, "dropped")
	s.Exec(t, `CREATE TABLE much AS SELECT i, repeat('x', 1000) FROM generate_series(1, 3000) i`) // for a checkpoint that takes its time
	pushed := make(chan site.Outcome, 1)
	go func() { pushed <- s.Run(t, "backup-push", "--wal-timeout=10m", "--checkpoint=spread") }()
	s.Eventually(t, `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'CheckpointDone' AND query ~ 'backup_start' AND pid <> pg_backend_pid()`, "1")
	s.Space(t, outside, "late")
	s.Exec(t, `DROP TABLE dropped`)
	s.Exec(t, `DROP TABLESPACE dropped`) // makes an immediate checkpoint of it
	o := <-pushed
	if o.Code != 0 || !strings.Contains(o.Err, "tablespace late was created") {
		t.Fatalf("backup-push: %v", o)
	}
	if o := s.Must(t, "backup-show", "LATEST"); !strings.Contains(o.Out, "late") || !strings.Contains(o.Out, "early") {
		t.Errorf("backup-show: %v", o)
	}
	want := site.Contents(t, s.Cluster, "postgres")
	s.Archived(t)
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
	c := s.Spawn(t, s.Fetch(t, "--tablespace", "late="+filepath.Join(outside, "late")), site.NoArchiving...)
	site.SameContents(t, c, "postgres", want)
}

// TestTablespaceNotMounted: without the data of a tablespace there is no backup, and it is known at once.
func TestTablespaceNotMounted(t *testing.T) {
	outside := testenv.Dir(t)
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Template: true})
	location := s.Space(t, outside, "apart")
	s.Backup(t)
	s.Exec(t, `CHECKPOINT`)
	if err := os.Rename(location, location+".mount"); err != nil {
		t.Fatal(err)
	}
	refused := func(args ...string) {
		t.Helper()
		if f := s.FailsWith(t, site.ExitPostgres, "data-not-visible", append([]string{"backup-push"}, args...)...); !f.Names(location) {
			t.Errorf("backup-push: %+v", f)
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
	if n := len(s.List(t)); n != 1 {
		t.Errorf("there are %d backups, want the first one only", n)
	}
	s.Stop(t, "immediate") // not fast: its checkpoint would need the directory
	if err := os.Rename(location+".mount", location); err != nil {
		t.Fatal(err)
	}
	s.Start(t)
	s.Backup(t)
	s.Stop(t, "fast")
	if err := os.Rename(location, location+".mount"); err != nil {
		t.Fatal(err)
	}
	refused("--offline", s.Data)
}
