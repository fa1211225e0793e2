package restore

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestSuccessor: a restored copy takes the original's place as backup-fetch says. It was promoted while archiving was off, so
// PostgreSQL never archives the history of its timeline, and without that no backup of it can be restored.
func TestSuccessor(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	old := s.Backup(t)
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	s.Archived(t)
	dir := filepath.Join(testenv.Dir(t), "data")
	if o := s.Must(t, "backup-fetch", dir); !strings.Contains(o.Out, "ALTER SYSTEM RESET archive_mode and max_logical_replication_workers") {
		t.Fatalf("this is not what is tried here: %v", o)
	}
	s.Stop(t, "fast")
	next := &site.Site{Store: s.Store, Pgobj: s.Pgobj, Cluster: s.StartArchiving(t, dir)}
	next.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
	next.Exec(t, `ALTER SYSTEM RESET archive_mode`)
	next.Exec(t, `ALTER SYSTEM RESET max_logical_replication_workers`)
	next.Restart(t)
	b := next.Backup(t)
	next.Exec(t, `INSERT INTO steps VALUES (3)`)
	next.Archived(t)
	next.Must(t, "backup-verify")
	next.Must(t, "wal-verify")
	for name, args := range map[string][]string{
		"to the end":                     nil,
		"along its timeline":             {"--target-timeline", "2"},
		"until the backup is consistent": {"--target", "immediate", "--target-action", "promote"},
	} {
		t.Run(name, func(t *testing.T) {
			want := "1 2 3"
			if len(args) > 2 {
				want = "1 2"
			}
			if got := site.Steps(t, next.Spawn(t, next.Fetch(t, args...))); got != want {
				t.Errorf("it has the steps %s, there should be %s", got, want)
			}
		})
	}
	t.Run("without the history", func(t *testing.T) { next.WithoutHistory(t, old, b) })
}
