package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Running tells whether a server runs on a data directory, by its postmaster.pid: the process is alive, or
// processes are still attached to its shared memory (a postmaster that was killed leaves them behind for a
// while). It is as careful as the server's own start (CreateLockFile in PostgreSQL's miscinit.c): a
// process that took over the number after a reboot counts as a server. When the file cannot be
// understood the answer is an error, and not to be taken for "no".
//
// It cannot see a server in another container or on another host that shares the directory.
func Running(dataDir string) (pid int, running bool, err error) {
	path := filepath.Join(dataDir, "postmaster.pid")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, Explain("read", path, err)
	}
	lines := strings.Split(string(b), "\n")
	pid, err = strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || pid == 0 {
		return 0, false, fmt.Errorf("read %s: it does not begin with a process ID (a server is starting, or crashed during its start): remove the file if no server runs", path)
	}
	pid = max(pid, -pid) // negative: a single-user server
	// In containers the same small numbers come back: a number that is ours now is nobody else's.
	if pid != os.Getpid() && pid != os.Getppid() {
		if err := unix.Kill(pid, 0); err == nil || errors.Is(err, unix.EPERM) {
			return pid, true, nil
		}
	}
	if len(lines) >= 7 {
		running, err = attached(lines[6])
	}
	return pid, running, err
}

// attached says whether a process is attached to the System V shared memory segment in postmaster.pid's
// seventh line, "KEY ID".
func attached(line string) (bool, error) {
	want := strings.Fields(line)
	if len(want) != 2 {
		return false, nil
	}
	b, err := os.ReadFile("/proc/sysvipc/shm") // key shmid perms size cpid lpid nattch …
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // not Linux
	}
	if err != nil {
		return false, fmt.Errorf("look for the server's shared memory: %w", err)
	}
	for l := range strings.Lines(string(b)) {
		if f := strings.Fields(l); len(f) > 6 && sameKey(f[0], want[0]) && f[1] == want[1] {
			return f[6] != "0", nil
		}
	}
	return false, nil
}

// sameKey compares two keys of shared memory; one side may print them signed.
func sameKey(a, b string) bool {
	x, err1 := strconv.ParseInt(a, 10, 64)
	y, err2 := strconv.ParseInt(b, 10, 64)
	return err1 == nil && err2 == nil && uint32(x) == uint32(y)
}
