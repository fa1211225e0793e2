package test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestQuietServer: where nothing happens any more, PostgreSQL takes no time behind the last transaction for reached. None is
// promised, and the error says how the state at that time is had.
func TestQuietServer(t *testing.T) {
	for _, major := range []int{12, 15} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, folderStore(t), pgtest.Options{Major: major, Template: true, Conf: []string{"autovacuum = off"}})
			s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
			first := s.backup(t)
			s.Exec(t, `INSERT INTO steps VALUES (2)`)
			between := now(t, s.Cluster)
			second := s.backup(t)
			after := now(t, s.Cluster)
			s.archived(t)

			w := s.windows(t)
			if len(w) != 2 || len(w[0].Backups) != 1 || w[0].Backups[0] != first.Backup || len(w[1].Backups) != 1 || w[1].Backups[0] != second.Backup || !w[1].To.IsZero() {
				t.Fatalf("windows: %+v", w)
			}
			if o := s.must(t, "pitr-windows"); !strings.Contains(o.out, "no transaction has ended since (end of the archive). --target immediate, or no target: backup "+second.Backup) {
				t.Errorf("pitr-windows: %v", o)
			}
			end := w[0].To.UTC().Format("2006-01-02 15:04:05.000000+00")
			if got := steps(t, s.start(t, s.fetch(t, "--target-time", end), noArchiving...)); got != "1" {
				t.Errorf("at the end of the window it has the steps %s", got)
			}
			if major < 13 { // it opens with all there is
				o := s.must(t, "backup-fetch", filepath.Join(testenv.Dir(t), "data"), "--plan", "--target-time", between)
				if !strings.Contains(o.out, "opens with all there is") {
					t.Errorf("a time behind the last transaction: %v", o)
				}
				return
			}
			s.refuses(t, exitUnreachable, "the last transaction before ", []string{"--target-time", between})
			s.refuses(t, exitUnreachable, "no transaction has ended between backup "+second.Backup, []string{"--target-time", after})
			s.refuses(t, exitUnreachable, "Leave out --target-time: ", []string{"--target-time", after})
			if got := steps(t, s.start(t, s.fetch(t), noArchiving...)); got != "1 2" {
				t.Errorf("without a target it has the steps %s", got)
			}
			s.Exec(t, `INSERT INTO steps VALUES (3)`)
			s.archived(t)
			if got := steps(t, s.start(t, s.fetch(t, "--target-time", after), noArchiving...)); got != "1 2" {
				t.Errorf("when a transaction has ended since it has the steps %s", got)
			}
		})
	}
}
