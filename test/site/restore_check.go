package site

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
)

const (
	ExitNotReached = 21
	exitRecovering = 22
)

// RestoreCheck asks about a restored directory, and holds exit code and text.
func (s *Site) RestoreCheck(t testing.TB, code int, says string, args ...string) {
	t.Helper()
	o := s.Run(t, append([]string{"restore-check"}, args...)...)
	if o.Code != code || !strings.Contains(o.Out, says) {
		t.Errorf("restore-check %v: %v, want exit code %d and %q", args, o, code, says)
	}
	var r struct {
		Reached, Recovering bool
		Text                string
	}
	j := s.Run(t, append([]string{"restore-check", "--json"}, args...)...)
	if err := json.Unmarshal([]byte(j.Out), &r); err != nil || j.Code != code || r.Reached != (code == 0) || r.Recovering != (code == exitRecovering) || r.Text == "" {
		t.Errorf("restore-check --json %v: %v (%v)", args, j, err)
	}
}

// tryStart starts a server on a restored directory, and leaves it to the test what becomes of it.
func (s *Site) tryStart(t testing.TB, dir string) *pgtest.Cluster {
	t.Helper()
	c, err := pgtest.Attach(dir, s.Major)
	if err != nil {
		t.Fatal(err)
	}
	c.AddEnv(s.Credentials...)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	_ = c.Launch(t.Context()) // that it ends by itself is what some tests are about
	return c
}

// ChecksAStandby: it follows, and for a while it lags.
func (s *Site) ChecksAStandby(t testing.TB) {
	t.Helper()
	dir := s.Fetch(t, "--standby")
	auto := filepath.Join(dir, "postgresql.auto.conf")
	WriteFile(t, auto, string(ReadFile(t, auto))+"recovery_min_apply_delay = '1h'\n", 0o600)
	c := s.Spawn(t, dir)
	s.RestoreCheck(t, exitRecovering, "still replaying: ", dir)
	c.Stop(t, "fast")
	WriteFile(t, auto, strings.ReplaceAll(string(ReadFile(t, auto)), "'1h'", "0"), 0o600)
	c = s.Spawn(t, dir)
	c.Eventually(t, `SELECT count(*) FROM steps`, "5")
	s.RestoreCheck(t, 0, "all WAL", dir)
	c.Stop(t, "fast")
}

// ChecksShortRecoveries: each time the archive loses more of what it had when the restore was planned.
func (s *Site) ChecksShortRecoveries(t testing.TB) {
	t.Helper()
	target := s.Fetch(t, s.List(t)[0].Backup, "--target-name", "no such point", "--target-action", "promote")
	s.tryStart(t, target)
	if s.Major < 13 {
		s.RestoreCheck(t, ExitNotReached, "no such point", target)
	} else {
		s.RestoreCheck(t, ExitNotReached, "stopped in recovery", target)
	}
	withGap, short := s.Fetch(t), s.Fetch(t)
	segments, err := filepath.Glob(filepath.Join(s.Directory, "main", "wal", "*", "00000001", strings.Repeat("?", 24)+".zst"))
	if err != nil || len(segments) < 4 {
		t.Fatalf("the archive has %v (%v)", segments, err)
	}
	last := segments[len(segments)-2:]
	missing := strings.TrimSuffix(filepath.Base(last[0]), ".zst")
	if err := os.Remove(last[0]); err != nil {
		t.Fatal(err)
	}
	s.tryStart(t, withGap)
	s.RestoreCheck(t, ExitNotReached, missing, withGap)
	if err := os.Remove(last[1]); err != nil {
		t.Fatal(err)
	}
	s.Spawn(t, short)
	s.RestoreCheck(t, ExitNotReached, "archive had", short)
	s.FailsWith(t, ExitUsage, "not-restored", "restore-check", s.Data) // the original
}
