package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
)

const (
	exitNotReached = 21
	exitRecovering = 22
)

// restoreCheck asks about a restored folder, and holds exit code and text.
func (s *site) restoreCheck(t testing.TB, code int, says string, args ...string) {
	t.Helper()
	o := s.run(t, append([]string{"restore-check"}, args...)...)
	if o.code != code || !strings.Contains(o.out, says) {
		t.Errorf("restore-check %v: %v, want exit code %d and %q", args, o, code, says)
	}
	var r struct {
		Reached, Recovering bool
		Text                string
	}
	j := s.run(t, append([]string{"restore-check", "--json"}, args...)...)
	if err := json.Unmarshal([]byte(j.out), &r); err != nil || j.code != code || r.Reached != (code == 0) || r.Recovering != (code == exitRecovering) || r.Text == "" {
		t.Errorf("restore-check --json %v: %v (%v)", args, j, err)
	}
}

// tryStart starts a server on a restored folder, and leaves it to the test what becomes of it.
func (s *site) tryStart(t testing.TB, dir string) *pgtest.Cluster {
	t.Helper()
	c, err := pgtest.Attach(dir, s.Major)
	if err != nil {
		t.Fatal(err)
	}
	c.AddEnv(s.credentials...)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	_ = c.Launch(t.Context()) // that it ends by itself is what some tests are about
	return c
}

// TestRestoreCheck: it says the same as PostgreSQL did, and what is missing.
func TestRestoreCheck(t *testing.T) {
	for _, major := range []int{10, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, folderStore(t), pgtest.Options{Major: major, Template: true})
			s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
			s.backup(t)
			s.Exec(t, `INSERT INTO steps VALUES (2)`)
			at := s.SQL(t, `SELECT pg_current_wal_insert_lsn()`)
			s.Exec(t, `INSERT INTO steps VALUES (3)`)
			s.archived(t)
			s.Exec(t, `INSERT INTO steps VALUES (4)`)
			s.archived(t)
			s.Exec(t, `INSERT INTO steps VALUES (5)`)
			s.archived(t)

			end := s.fetch(t)
			s.restoreCheck(t, exitNotReached, "recovery has not begun", end)
			c := s.start(t, end)
			s.restoreCheck(t, 0, "recovery has reached the end of the WAL: it ended at ", end)
			s.restoreCheck(t, 0, "open, on timeline 2", "--dsn", c.DSN("postgres"))
			c.Stop(t, "fast")
			s.restoreCheck(t, 0, "recovery has reached the end of the WAL", end)

			lsn := s.fetch(t, "--target-lsn", at)
			c = s.start(t, lsn)
			s.restoreCheck(t, 0, "recovery has reached "+at+", and waits at ", lsn)
			c.Exec(t, `SELECT pg_wal_replay_resume()`)
			c.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
			s.restoreCheck(t, 0, "recovery has reached "+at+": it ended at ", lsn)
			if major >= 12 {
				s.checksAStandby(t)
			}
			s.checksShortRecoveries(t)
		})
	}
}

// checksAStandby: it follows, and for a while it is behind.
func (s *site) checksAStandby(t testing.TB) {
	t.Helper()
	dir := s.fetch(t, "--standby")
	auto := filepath.Join(dir, "postgresql.auto.conf")
	writeFile(t, auto, string(readFile(t, auto))+"recovery_min_apply_delay = '1h'\n", 0o600)
	c := s.start(t, dir)
	s.restoreCheck(t, exitRecovering, "still replaying: ", dir)
	c.Stop(t, "fast")
	writeFile(t, auto, strings.ReplaceAll(string(readFile(t, auto)), "'1h'", "0"), 0o600)
	c = s.start(t, dir)
	c.Eventually(t, `SELECT count(*) FROM steps`, "5")
	s.restoreCheck(t, 0, "it has replayed all that the archive has", dir)
	c.Stop(t, "fast")
}

// checksShortRecoveries: each time the archive loses more of what it had when the restore was planned.
func (s *site) checksShortRecoveries(t testing.TB) {
	t.Helper()
	target := s.fetch(t, s.list(t)[0].Backup, "--target-name", "no such point", "--target-action", "promote")
	s.tryStart(t, target)
	if s.Major < 13 {
		s.restoreCheck(t, exitNotReached, "target not reached: recovery was to go to restore point \"no such point\", and ended at ", target)
	} else {
		s.restoreCheck(t, exitNotReached, "the server stopped in recovery", target)
	}
	holed, short := s.fetch(t), s.fetch(t)
	segments, err := filepath.Glob(filepath.Join(s.folder, "main", "wal", "*", "00000001", strings.Repeat("?", 24)+".zst"))
	if err != nil || len(segments) < 4 {
		t.Fatalf("the archive has %v (%v)", segments, err)
	}
	last := segments[len(segments)-2:]
	missing := strings.TrimSuffix(filepath.Base(last[0]), ".zst")
	if err := os.Remove(last[0]); err != nil {
		t.Fatal(err)
	}
	s.tryStart(t, holed)
	s.restoreCheck(t, exitNotReached, "segment "+missing+" is missing in the archive, although ", holed)
	if err := os.Remove(last[1]); err != nil {
		t.Fatal(err)
	}
	s.start(t, short)
	s.restoreCheck(t, exitNotReached, ", and the archive had WAL up to ", short)
	if o := s.run(t, "restore-check", s.Data); o.code != exitUsage || !strings.Contains(o.err, "not a restored data directory") {
		t.Errorf("of the original: %v", o)
	}
}
