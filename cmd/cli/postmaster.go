package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// serverRuns says whether a postmaster runs in a data folder.
func serverRuns(dataDir string) bool {
	_, _, ok := postmaster(dataDir)
	return ok
}

// postmaster reads postmaster.pid: the process, and when it was started, in the server's own words. False when
// there is none that runs.
func postmaster(dataDir string) (pid int, started string, ok bool) {
	lines := pidFile(dataDir)
	if len(lines) < 3 {
		return 0, "", false
	}
	if _, err := fmt.Sscan(lines[0], &pid); err != nil || pid <= 0 {
		return 0, "", false
	}
	return pid, lines[2], runs(pid)
}

// pidFile are the lines of postmaster.pid; none: there is none that can be read.
func pidFile(dataDir string) []string {
	data, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		return nil
	}
	return strings.Split(string(data), "\n")
}

// stops says whether the server on a data folder has been told to stop, and still runs. From PostgreSQL 10 on the eighth
// line tells (pidfile.h).
func stops(dataDir string) bool {
	lines := pidFile(dataDir)
	return len(lines) > 7 && strings.TrimSpace(lines[7]) == "stopping" && serverRuns(dataDir)
}

// serving returns a context that ends soon after the server on a data folder has been told to stop.
func serving(ctx context.Context, dataDir string) context.Context {
	ctx, stop := context.WithCancel(ctx)
	if stops(dataDir) {
		stop()
		return ctx
	}
	go func() { // ends with ctx
		defer stop()
		tick := time.NewTicker(aheadWatch)
		defer tick.Stop()
		for !stops(dataDir) {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx
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

// recovering says whether the server on a data folder restores from the archive, or follows another.
func recovering(dataDir string) bool {
	for _, name := range []string{"recovery.signal", "standby.signal", "recovery.conf"} {
		if _, err := os.Stat(filepath.Join(dataDir, name)); err == nil {
			return true
		}
	}
	return false
}
