package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestRestoreTimelines: a history with two branches that both archive, and backups before the fork and on
// either branch.
//
//	timeline 1: 1 [A] 2 | 3 4 [C] 5
//	timeline 2:         | 20 [B] 21
func TestRestoreTimelines(t *testing.T) {
	s := newSite(t, folderStore(t), pgtest.Options{Template: true})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	a := s.backup(t)
	one := s.SQL(t, `SELECT pg_current_wal_insert_lsn()`)
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	s.Exec(t, `SELECT pg_create_restore_point('before the fork')`)
	fork := s.SQL(t, `SELECT pg_current_wal_insert_lsn()`)
	s.Exec(t, `INSERT INTO steps VALUES (3)`)
	s.Exec(t, `SELECT pg_create_restore_point('old line')`)
	s.archived(t)

	dir := s.fetch(t, "--target-lsn", fork, "--target-action", "promote", "--keep-archiving")
	branch := &site{store: s.store, pgobj: s.pgobj, Cluster: s.startArchiving(t, dir)}
	branch.Exec(t, `INSERT INTO steps VALUES (20)`)
	b := branch.backup(t)
	branch.Exec(t, `INSERT INTO steps VALUES (21)`)
	branch.archived(t)
	branch.Stop(t, "fast")

	s.Exec(t, `INSERT INTO steps VALUES (4)`)
	c := s.backup(t)
	s.Exec(t, `INSERT INTO steps VALUES (5)`)
	s.archived(t)
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
		"from behind the fork":                      {[]string{c.Backup}, "1 2 3 4 5", c.Backup},
		"until the backup is consistent":            {append([]string{c.Backup, "--target", "immediate"}, promote...), "1 2 3 4", c.Backup},
	} {
		t.Run(name, func(t *testing.T) {
			target := filepath.Join(testenv.Dir(t), "data")
			o := s.must(t, append([]string{"backup-fetch", target}, r.args...)...)
			if !strings.Contains(o.out, "backup "+r.backup+" is restored") {
				t.Errorf("it should have taken backup %s: %v", r.backup, o)
			}
			if got := steps(t, s.start(t, target)); got != r.want {
				t.Errorf("it has the steps %s, there should be %s", got, r.want)
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		s.refuses(t, 14, "two branches of history", nil)
		s.refuses(t, 14, "--target-timeline 1", nil)
		s.refuses(t, 14, "target timeline 2 forked from backup timeline 1 at ", []string{c.Backup, "--target-timeline", "2"})
		s.refuses(t, 14, "which is before the backup's end at "+c.StopLSN, []string{c.Backup, "--target-timeline", "latest"})
		s.refuses(t, 14, "target timeline 1 does not descend from timeline 2", []string{b.Backup, "--target-timeline", "1"})
		s.refuses(t, 14, `restore point "old line" is not in the archive's WAL`, []string{"--target-timeline=2", "--target-name=old line"})
		s.refuses(t, 14, "the archive knows no timeline 7 (it has 1, 2)", []string{"--target-timeline", "7"})
		s.refuses(t, 14, "is consistent from "+c.StopLSN, []string{c.Backup, "--target-lsn", one})
		s.refuses(t, 14, "the oldest, "+a.Backup, []string{"--target-lsn", "0/1000028"})
		s.refuses(t, 14, "the oldest, "+a.Backup, []string{"--target-time", "2001-01-01 00:00:00Z"})
		s.refuses(t, 14, "lies in the future", []string{a.Backup, "--target-time", "2999-01-01 00:00:00Z"})
		s.refuses(t, 14, "the archive ends at", []string{"--target-timeline=1", "--target-lsn", "F/1"})
		s.refuses(t, 2, "--target-xid and --target-name contradict each other", []string{"--target-xid=7", "--target-name=x"})
		s.refuses(t, 2, "--exclusive needs", []string{"--exclusive"})
		s.refuses(t, 2, "has no target", []string{"--standby", "--target-xid=7"})
		s.refuses(t, 2, "--primary-conninfo", []string{"--primary-conninfo=host=x"})
	})
	t.Run("hole", func(t *testing.T) { s.holes(t, a, c, end) })
}

// refuses holds that a restore is refused with a code and a text, before a folder is made; and that its plan is.
func (s *site) refuses(t testing.TB, code int, text string, args []string) {
	t.Helper()
	target := filepath.Join(testenv.Dir(t), "data")
	for _, plan := range [][]string{nil, {"--plan"}} {
		o := s.run(t, append(append([]string{"backup-fetch", target}, args...), plan...)...)
		if o.code != code || !strings.Contains(o.err, text) || code == 14 && !strings.Contains(o.err, "HINT:  Nothing was fetched or changed") {
			t.Errorf("backup-fetch %v: it should end with %d and %q: %v", args, code, text, o)
		}
		if _, err := os.Lstat(target); err == nil {
			t.Errorf("backup-fetch %v was refused, and has made its target", args)
		}
	}
}

// holes takes a segment between A and C out of the archive.
func (s *site) holes(t *testing.T, a, c backupEntry, end string) {
	missing := filepath.Join(s.folder, "main/wal", a.SystemID, "00000001", c.FirstWAL+".zst")
	data := readFile(t, missing)
	if err := os.Remove(missing); err != nil {
		t.Fatal(err)
	}
	s.refuses(t, 14, "there is a hole in the WAL: "+c.FirstWAL+" is missing", []string{a.Backup, "--target-timeline=1"})
	s.refuses(t, 14, "Any point up to ", []string{a.Backup, "--target-timeline=1", "--target-lsn", end})
	s.refuses(t, 14, "WAL that backup "+c.Backup+" needs", []string{c.Backup})
	before := s.must(t, "backup-fetch", filepath.Join(testenv.Dir(t), "data"), a.Backup, "--target-timeline=1", "--target-lsn", a.StopLSN, "--plan")
	if strings.Contains(before.out, "hole") {
		t.Errorf("a target before the hole: %v", before)
	}
	putFile(t, missing, data)
}
