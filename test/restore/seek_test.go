package restore

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestTargetIsLookedFor: a restore point and a transaction say nothing of when they were. They are looked for in the WAL, and
// the newest backup before them is taken; what is not there is refused.
func TestTargetIsLookedFor(t *testing.T) {
	for _, major := range []int{10, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, Template: true, Conf: []string{"max_prepared_transactions = 10", "autovacuum = off"}})
			s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1); CREATE TABLE gone (n int)`)
			oldest := s.Backup(t)
			xid := s.SQL(t, `INSERT INTO steps VALUES (2); SELECT txid_current()`)
			second := s.Backup(t)
			s.Exec(t, `BEGIN; INSERT INTO steps VALUES (3); SAVEPOINT a; DROP TABLE gone; CREATE TABLE made (n int); PREPARE TRANSACTION 'x'`)
			prepared := s.SQL(t, `SELECT transaction FROM pg_prepared_xacts`)
			s.Exec(t, `COMMIT PREPARED 'x'`)
			s.Exec(t, `SELECT pg_create_restore_point('before_release')`)
			s.Exec(t, `INSERT INTO steps VALUES (4)`)
			newest := s.Backup(t)
			s.Exec(t, `INSERT INTO steps VALUES (5)`)
			s.Exec(t, `SELECT pg_create_restore_point('after_release')`)
			s.Archived(t)

			for _, c := range []struct {
				backup site.BackupEntry
				steps  string
				args   []string
			}{
				{second, "1 2 3", []string{"--target-name=before_release"}},
				{newest, "1 2 3 4 5", []string{"--target-name=after_release"}},
				{oldest, "1", []string{"--exclusive", "--target-xid=" + xid}},
				{oldest, "1 2", []string{"--target-xid=" + xid}},
				{second, "1 2 3", []string{"--target-xid=" + prepared}},
			} {
				dir := filepath.Join(testenv.Dir(t), "data")
				o := s.Must(t, append([]string{"backup-fetch", dir}, c.args...)...)
				if !strings.Contains(o.Out, "backup "+c.backup.Backup) || !strings.Contains(o.Out, "which is at 0/") {
					t.Errorf("%v: it should take backup %s: %v", c.args, c.backup.Backup, o.Out)
				}
				if got := site.Steps(t, s.Spawn(t, dir)); got != c.steps {
					t.Errorf("%v: it has the steps %s, want %s", c.args, got, c.steps)
				}
			}
			s.Refuses(t, site.ExitUnreachable, "unreachable-target", "never_made", []string{"--target-name=never_made"})
			s.Refuses(t, site.ExitUnreachable, "unreachable-target", "transaction 3", []string{"--target-xid=3"})

			dir := s.Fetch(t, newest.Backup, "--target-name=before_release") // as it is told
			if major < 13 {
				return
			}
			s.DoesNotStart(t, dir, "recovery ended before configured recovery target was reached")
			s.RestoreCheck(t, site.ExitNotReached, "name an older backup", dir)
		})
	}
}
