package app

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/pgobj/pgobj/backup/postmaster"
)

// ServerRuns says whether a postmaster runs in a data directory.
func ServerRuns(dataDir string) bool {
	_, _, ok := RunningPostmaster(dataDir)
	return ok
}

// RunningPostmaster is the process that runs a data directory, and when it was started, in the server's own words. False when
// there is none that runs.
func RunningPostmaster(dataDir string) (pid int, started string, ok bool) {
	f := postmaster.Read(dataDir)
	return f.PID, f.Started, f.PID > 0 && f.Started != "" && runs(f.PID)
}

// runs says whether there is a process of that number, whoever owns it. One that has ended and whose parent does
// not care (a zombie) is none.
func runs(pid int) bool {
	if err := syscall.Kill(pid, 0); err != nil && !errors.Is(err, syscall.EPERM) {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true // no /proc
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}

// Recovering says whether the server on a data directory restores from the archive, or follows another.
func Recovering(dataDir string) bool {
	for _, name := range []string{"recovery.signal", "standby.signal", "recovery.conf"} {
		if _, err := os.Stat(filepath.Join(dataDir, name)); err == nil {
			return true
		}
	}
	return false
}
