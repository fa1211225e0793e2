package datadir

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// A process in a data directory is no server because of a postmaster.pid that was left there.
func TestServersAreThoseOfPostmasterPid(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "600")
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	for lock, want := range map[string]bool{"": false, "4194000\n" + dir + "\n": false, fmt.Sprintf("%d\n%s\n", cmd.Process.Pid, dir): true, fmt.Sprintf("-%d\n", cmd.Process.Pid): true} {
		if err := os.WriteFile(filepath.Join(dir, "postmaster.pid"), []byte(lock), 0o600); err != nil {
			t.Fatal(err)
		}
		servers, err := Servers()
		if err != nil || slices.Contains(servers, dir) != want {
			t.Errorf("with %q: %v %v", lock, servers, err)
		}
	}
	for status, want := range map[string]bool{"Name:\tx\nNSpid:\t812\t17\n": true, "NSpid:\t812\t18\n": false, "": false} { // in a container
		proc := filepath.Join(t.TempDir(), "812")
		if err := os.Mkdir(proc, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(proc, "status"), []byte(status), 0o600); err != nil {
			t.Fatal(err)
		}
		if isServer(proc, "17\n/data\n") != want {
			t.Errorf("%q: %v", status, !want)
		}
	}
}
