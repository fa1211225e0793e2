package push

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestQuietServer: where nothing happens any more, PostgreSQL takes no time after the last transaction for reached. None is
// promised, and the error says how the state at that time is had.
func TestQuietServer(t *testing.T) {
	for _, major := range []int{12, 15} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, Template: true, Conf: []string{"autovacuum = off"}})
			s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
			first := s.Backup(t)
			s.Exec(t, `INSERT INTO steps VALUES (2)`)
			between := site.Now(t, s.Cluster)
			second := s.Backup(t)
			after := site.Now(t, s.Cluster)
			s.Archived(t)

			w := s.Windows(t)
			if len(w) != 2 || len(w[0].Backups) != 1 || w[0].Backups[0] != first.Backup || len(w[1].Backups) != 1 || w[1].Backups[0] != second.Backup || !w[1].To.IsZero() {
				t.Fatalf("windows: %+v", w)
			}
			if o := s.Must(t, "pitr-windows"); !strings.Contains(o.Out, "no target: backup "+second.Backup) {
				t.Errorf("pitr-windows: %v", o)
			}
			end := w[0].To.UTC().Format("2006-01-02 15:04:05.000000+00")
			if got := site.Steps(t, s.Spawn(t, s.Fetch(t, "--target-time", end), site.NoArchiving...)); got != "1" {
				t.Errorf("at the end of the window it has the steps %s", got)
			}
			if major < 13 { // it opens with all WAL
				o := s.Must(t, "backup-fetch", filepath.Join(testenv.Dir(t), "data"), "--plan", "--target-time", between)
				if !strings.Contains(o.Out, "opens with all WAL") {
					t.Errorf("a time after the last transaction: %v", o)
				}
				return
			}
			s.Refuses(t, site.ExitUnreachable, "unreachable-target", "last transaction", []string{"--target-time", between})
			s.Refuses(t, site.ExitUnreachable, "unreachable-target", second.Backup, []string{"--target-time", after})
			s.Refuses(t, site.ExitUnreachable, "unreachable-target", "Remove --target-time", []string{"--target-time", after})
			if got := site.Steps(t, s.Spawn(t, s.Fetch(t), site.NoArchiving...)); got != "1 2" {
				t.Errorf("without a target it has the steps %s", got)
			}
			s.Exec(t, `INSERT INTO steps VALUES (3)`)
			s.Archived(t)
			if got := site.Steps(t, s.Spawn(t, s.Fetch(t, "--target-time", after), site.NoArchiving...)); got != "1 2" {
				t.Errorf("when a transaction has ended since it has the steps %s", got)
			}
		})
	}
}
