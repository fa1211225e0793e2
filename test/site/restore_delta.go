package site

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func (s *Site) RestoredExactly(t testing.TB, dir, want string) {
	t.Helper()
	s.Verified(t, dir)
	if _, err := os.Lstat(filepath.Join(dir, "pgobj-restore-incomplete")); err == nil {
		t.Error("the marker of an unfinished restore is still there")
	}
	c := s.Spawn(t, dir)
	SameContents(t, c, "postgres", want)
	Sound(t, c)
}

// Killed kills restores into a directory, each a bit later than the one before, until one gets to its end. No
// server may start on what they leave.
func (s *Site) Killed(t *testing.T, dir, want string, delta bool) {
	kills := 0
	for wait := 20 * time.Millisecond; ; wait += wait / 3 {
		args := []string{"backup-fetch", dir, "--discard-wal", "--delta"}
		if !delta && kills == 0 {
			args = args[:2]
		}
		cmd := s.Command(args...)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Not a sleep for something to happen: any moment will do.
		timer := time.AfterFunc(wait, func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		timer.Stop()
		if err == nil {
			break
		}
		if cmd.ProcessState.ExitCode() != -1 {
			t.Fatalf("run %d: %v: %s", kills+1, err, out.String())
		}
		kills++
		if _, err := os.Lstat(filepath.Join(dir, "global/pg_control")); err == nil && Exists(filepath.Join(dir, "pgobj-restore-incomplete")) {
			if delta && !Exists(filepath.Join(dir, "global/pg_control.pgobj-restoring")) {
				continue // it had not begun
			}
			t.Fatalf("killed after %v it left a pg_control", wait)
		}
	}
	if kills < 2 {
		t.Errorf("only %d runs were killed: the restore is too fast for this test", kills)
	}
	t.Logf("%d runs were killed", kills)
	s.RestoredExactly(t, dir, want)
}

func Exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// PushSaved runs the line with which backup-fetch says how to archive the files that it has saved.
func (s *Site) PushSaved(t testing.TB, fetched Outcome, saved string, files int) {
	t.Helper()
	line := regexp.MustCompile(`for f in .*; done`).FindString(fetched.Out)
	if names, err := os.ReadDir(saved); err != nil || len(names) != files || !strings.Contains(line, saved) {
		t.Fatalf("it has saved %v (%v), and says to run %q: %v", names, err, line, fetched)
	}
	if o := Finish(t, s.Program("bash", "-ec", `pgobj() { "`+s.Pgobj+`" "$@"; }; `+line)); o.Code != 0 {
		t.Errorf("%s: %v", line, o)
	}
}
