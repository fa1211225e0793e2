package datadir

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// A server runs while its postmaster does, and for as long as one of its processes uses its shared memory.
func TestRunning(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{Template: true})
	is := func(what string, pid int, run, orphaned bool) {
		t.Helper()
		if s, err := Running(c.Data); err != nil || s.PID != pid || (s.Run() != "") != run || s.Orphaned != orphaned {
			t.Errorf("%s: %+v, %v", what, s, err)
		}
	}
	is("running", c.PID(), true, false)
	postmaster := c.PID()
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", postmaster, postmaster))
	if err != nil {
		t.Fatal(err)
	}
	var child int
	if _, err := fmt.Sscan(string(children), &child); err != nil {
		t.Fatal(err)
	}
	signal(t, child, syscall.SIGSTOP) // else it notices
	signal(t, postmaster, syscall.SIGKILL)
	testenv.Eventually(t, time.Minute, "the postmaster is gone", func() bool { return !c.Running() })
	is("its postmaster was killed", postmaster, false, true)
	signal(t, child, syscall.SIGKILL)
	testenv.Eventually(t, time.Minute, "the server is gone", func() bool {
		s, err := Running(c.Data)
		return err == nil && s == (Server{})
	})
	if _, err := os.Stat(filepath.Join(c.Data, "postmaster.pid")); err != nil {
		t.Errorf("a server that was killed leaves its postmaster.pid: %v", err)
	}
	c.Start(t)
	c.Stop(t, "fast")
	is("stopped", 0, false, false)
}

// Of the processes that have the number in a postmaster.pid that was left, only one that can be a postmaster counts.
func TestRunningByNumber(t *testing.T) {
	user := uint32(os.Geteuid())
	same := sleeper(t, user)
	zombie := sleeper(t, user)
	signal(t, zombie, syscall.SIGKILL) // and nobody waits for it yet
	testenv.Eventually(t, time.Minute, "it is a zombie", func() bool {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", zombie))
		return strings.Contains(string(stat), ") Z ")
	})
	type row struct {
		text string
		want string
	}
	rows := map[string]row{
		"an empty file":                  {"", "error"},
		"no file of PostgreSQL's":        {"x\n", "error"},
		"a number that is ours now":      {fmt.Sprintf("%d\n/x\n17\n", os.Getpid()), "no"},
		"a number that is our parent's":  {fmt.Sprintf("%d\n/x\n17\n", os.Getppid()), "no"},
		"a number that nobody has":       {"4194303\n/x\n17\n", "no"},
		"a number that another one took": {fmt.Sprintf("%d\n/x\n17\n", same), "yes"},
		"a single-user server":           {fmt.Sprintf("-%d\n/x\n17\n", same), "yes"},
		"a zombie":                       {fmt.Sprintf("%d\n/x\n17\n", zombie), "no"},
		"a container's postmaster":       {"1\n/x\n17\n", "yes"},
	}
	if os.Geteuid() == 0 {
		rows["another user's process"] = row{fmt.Sprintf("%d\n/x\n17\n", sleeper(t, 12345)), "no"}
	} else {
		rows["another user's process"] = row{"2\n/x\n17\n", "no"} // kthreadd
	}
	for what, r := range rows {
		dir := withPostmaster(t, r.text)
		s, err := Running(dir)
		got := map[bool]string{true: "yes", false: "no"}[s.PID != 0]
		if err != nil {
			got = "error"
		}
		if got != r.want {
			t.Errorf("%s: %s (%+v, %v), want %s", what, got, s, err, r.want)
		}
		if os.Geteuid() != 0 {
			continue
		}
		if err := os.Chown(dir, 12345, 12345); err != nil { // then it is the other way round
			t.Fatal(err)
		}
		others := map[string]string{"a number that another one took": "no", "a single-user server": "no", "another user's process": "yes"}
		s, err = Running(dir)
		if want, ok := others[what]; ok && (err != nil || (s.PID != 0) != (want == "yes")) || what == "a container's postmaster" && s.Run() == "" {
			t.Errorf("%s, in another user's directory: %+v, %v, want %s", what, s, err, want)
		}
	}
	if s, err := Running(t.TempDir()); err != nil || s != (Server{}) {
		t.Errorf("without a file: %+v, %v", s, err)
	}
}

// The files that make a server recover are known by their names; in recovery.conf a setting tells a standby.
func TestRecoveryFiles(t *testing.T) {
	for _, c := range []struct {
		name, text          string
		recovering, standby bool
	}{
		{"recovery.done", "", false, false}, {RecoverySignal, "", true, false}, {StandbySignal, "", true, true},
		{RecoveryConf, "standby_mode = 'on'", true, true}, {RecoveryConf, "#standby_mode = on\nrestore_command = 'x'", true, false},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, c.name), []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if Recovering(dir) != c.recovering || IsStandby(dir) != c.standby {
			t.Errorf("%s %q: recovering %v, standby %v", c.name, c.text, Recovering(dir), IsStandby(dir))
		}
	}
	if IsStandby("") {
		t.Error("no directory is a standby")
	}
}

func signal(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatal(err)
	}
}

// sleeper is a process that is no server.
func sleeper(t *testing.T, uid uint32) (pid int) {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	cmd.Dir = "/"
	if int(uid) != os.Geteuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}
