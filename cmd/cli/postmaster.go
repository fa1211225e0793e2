package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// serverRuns says whether a postmaster runs in a data folder.
func serverRuns(dataDir string) bool {
	_, _, ok := postmaster(dataDir)
	return ok
}

// postmaster reads postmaster.pid: the process, and when it was started, in the server's own words. False when
// there is none that runs.
func postmaster(dataDir string) (pid int, started string, ok bool) {
	data, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		return 0, "", false
	}
	lines := strings.Split(string(data), "\n")
	if len(lines) < 3 {
		return 0, "", false
	}
	if _, err := fmt.Sscan(lines[0], &pid); err != nil || pid <= 0 {
		return 0, "", false
	}
	return pid, lines[2], runs(pid)
}

// runs says whether there is a process of that number, whoever owns it.
func runs(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}
