package restore

import (
	"fmt"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
)

// TestRestoreCheck: it says the same as PostgreSQL did, and what is missing.
func TestRestoreCheck(t *testing.T) {
	for _, major := range []int{10, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, Template: true})
			s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
			s.Backup(t)
			s.Exec(t, `INSERT INTO steps VALUES (2)`)
			at := s.SQL(t, `SELECT pg_current_wal_insert_lsn()`)
			s.Exec(t, `INSERT INTO steps VALUES (3)`)
			s.Archived(t)
			s.Exec(t, `INSERT INTO steps VALUES (4)`)
			s.Archived(t)
			s.Exec(t, `INSERT INTO steps VALUES (5)`)
			s.Archived(t)

			end := s.Fetch(t)
			s.RestoreCheck(t, site.ExitNotReached, "recovery has not begun", end)
			c := s.Spawn(t, end)
			s.RestoreCheck(t, 0, "end of the WAL", end)
			s.RestoreCheck(t, 0, "open, on timeline 2", "--dsn", c.DSN("postgres"))
			c.Stop(t, "fast")
			s.RestoreCheck(t, 0, "end of the WAL", end)

			lsn := s.Fetch(t, "--target-lsn", at)
			c = s.Spawn(t, lsn)
			s.RestoreCheck(t, 0, "recovery has reached "+at+" and waits at ", lsn)
			c.Exec(t, `SELECT pg_wal_replay_resume()`)
			c.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
			s.RestoreCheck(t, 0, "recovery has reached "+at+": it ended at ", lsn)
			if major >= 12 {
				s.ChecksAStandby(t)
			}
			s.ChecksShortRecoveries(t)
		})
	}
}
