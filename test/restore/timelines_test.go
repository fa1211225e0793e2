package restore

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestRestoreTimelines: a history with two branches that both archive, and backups before the fork and on
// either branch.
//
//	timeline 1: 1 [A] 2 | 3 4 [C] 5
//	timeline 2:         | 20 [B] 21
func TestRestoreTimelines(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Template: true})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	a := s.Backup(t)
	one := s.SQL(t, `SELECT pg_current_wal_insert_lsn()`)
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	s.Exec(t, `SELECT pg_create_restore_point('before the fork')`)
	fork := s.SQL(t, `SELECT pg_current_wal_insert_lsn()`)
	s.Exec(t, `INSERT INTO steps VALUES (3)`)
	s.Exec(t, `SELECT pg_create_restore_point('old line')`)
	s.Archived(t)

	dir := s.Fetch(t, "--target-lsn", fork, "--target-action", "promote", "--keep-archiving")
	branch := &site.Site{Store: s.Store, Pgobj: s.Pgobj, Cluster: s.StartArchiving(t, dir)}
	branch.Exec(t, `INSERT INTO steps VALUES (20)`)
	b := branch.Backup(t)
	branch.Exec(t, `INSERT INTO steps VALUES (21)`)
	branch.Archived(t)
	branch.Stop(t, "fast")

	s.Exec(t, `INSERT INTO steps VALUES (4)`)
	c := s.Backup(t)
	s.Exec(t, `INSERT INTO steps VALUES (5)`)
	s.Archived(t)
	end := s.SQL(t, `SELECT pg_current_wal_insert_lsn()`)

	promote := []string{"--target-action", "promote"}
	for name, r := range map[string]struct {
		args         []string
		want, backup string
	}{
		"from before the fork, to before it":        {append([]string{a.Backup, "--target-lsn", one}, promote...), "1", a.Backup},
		"from before the fork, to the branch":       {[]string{a.Backup}, "1 2 20 21", a.Backup},
		"from before the fork, staying":             {[]string{a.Backup, "--target-timeline", "current"}, "1 2 3 4 5", a.Backup},
		"a restore point, on the way to the branch": {append([]string{"--target-timeline=2", "--target-name=before the fork"}, promote...), "1 2", a.Backup},
		"a restore point of the old line":           {append([]string{"--target-timeline=1", "--target-name=old line"}, promote...), "1 2 3", a.Backup},
		"along the branch":                          {[]string{"--target-timeline", "2"}, "1 2 20 21", b.Backup},
		"along the old line":                        {[]string{"--target-timeline", "1"}, "1 2 3 4 5", c.Backup},
		"from after the fork":                       {[]string{c.Backup}, "1 2 3 4 5", c.Backup},
		"until the backup is consistent":            {append([]string{c.Backup, "--target", "immediate"}, promote...), "1 2 3 4", c.Backup},
	} {
		t.Run(name, func(t *testing.T) {
			target := filepath.Join(testenv.Dir(t), "data")
			o := s.Must(t, append([]string{"backup-fetch", target}, r.args...)...)
			if !strings.Contains(o.Out, "backup "+r.backup+" is restored") {
				t.Errorf("it should have taken backup %s: %v", r.backup, o)
			}
			if got := site.Steps(t, s.Spawn(t, target)); got != r.want {
				t.Errorf("it has the steps %s, there should be %s", got, r.want)
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		s.Refuses(t, 14, "unreachable-target", "two branches", nil)
		s.Refuses(t, 14, "unreachable-target", "--target-timeline 1", nil)
		s.Refuses(t, 14, "unreachable-target", "timeline 2 left", []string{c.Backup, "--target-timeline", "2"})
		s.Refuses(t, 14, "unreachable-target", c.StopLSN, []string{c.Backup, "--target-timeline", "latest"})
		s.Refuses(t, 14, "unreachable-target", "descend", []string{b.Backup, "--target-timeline", "1"})
		s.Refuses(t, 14, "unreachable-target", "old line", []string{"--target-timeline=2", "--target-name=old line"})
		s.Refuses(t, 14, "unreachable-target", "timeline 7", []string{"--target-timeline", "7"})
		s.Refuses(t, 14, "unreachable-target", "from "+c.StopLSN, []string{c.Backup, "--target-lsn", one})
		s.Refuses(t, 14, "unreachable-target", a.Backup, []string{"--target-lsn", "0/1000028"})
		s.Refuses(t, 14, "unreachable-target", a.Backup, []string{"--target-time", "2001-01-01 00:00:00Z"})
		s.Refuses(t, 14, "unreachable-target", "is in the future", []string{a.Backup, "--target-time", "2999-01-01 00:00:00Z"})
		s.Refuses(t, 14, "unreachable-target", "the archive ends at", []string{"--target-timeline=1", "--target-lsn", "F/1"})
		s.Refuses(t, 2, "usage", "--target-xid and --target-name", []string{"--target-xid=7", "--target-name=x"})
		s.Refuses(t, 2, "usage", "--exclusive needs", []string{"--exclusive"})
		s.Refuses(t, 2, "usage", "has no target", []string{"--standby", "--target-xid=7"})
		s.Refuses(t, 2, "usage", "--primary-conninfo", []string{"--primary-conninfo=host=x"})
	})
	t.Run("gap", func(t *testing.T) { s.Gaps(t, a, c, end) })
}
