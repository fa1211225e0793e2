package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Server is one that runs on a data directory.
type Server struct {
	Postmaster
	Orphaned bool // the postmaster was killed; other processes of it are still attached to its shared memory, for a while
}

// Run names this run of the server; empty: there is no postmaster that runs.
func (s Server) Run() string {
	if s.PID <= 0 || s.Orphaned {
		return ""
	}
	return fmt.Sprintf("%d/%s", s.PID, s.Started)
}

// Running finds the server that runs on a data directory, by its postmaster.pid. This is the one answer to that question, and as
// careful as the server's own start (CreateLockFile in PostgreSQL's miscinit.c; pg_ctl has the same rules in
// postmaster_is_alive). A server runs
//   - if there is a process of its number: any one of the same user, also where it took over the number after a reboot;
//   - or if processes are attached to its shared memory.
//
// These are not the postmaster, although their number is: we and our parent, as in containers the same small numbers come back;
// a process of another user than the data directory's, as a server refuses to run as one (checkDataDir; hence PostgreSQL takes
// EPERM for "no", which says it only to the directory's owner); and a process that has ended and whose parent has not noticed
// (a zombie). Process 1 is believed, whoever owns it: it is the postmaster's number in a container of its own, which
// need not be the one that we see the processes of.
//
// The zero Server: none runs. When the file cannot be understood the answer is an error, and not to be taken for "no". A server in
// another container or on another host that shares the directory cannot be seen.
func Running(dataDir string) (Server, error) {
	p, err := ReadPostmaster(dataDir)
	if err != nil || p.PID == 0 {
		return Server{}, err
	}
	if isPostmaster(p.Process(), dataDir) {
		return Server{Postmaster: p}, nil
	}
	on, err := attached(p.Memory)
	if err != nil || !on {
		return Server{}, err
	}
	return Server{p, true}, nil
}

// isPostmaster says whether a process can be the postmaster of a data directory.
func isPostmaster(pid int, dataDir string) bool {
	if pid == os.Getpid() || pid == os.Getppid() {
		return false
	}
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // no /proc, or others' processes are hidden in it: kill decides
	if err := unix.Kill(pid, 0); err != nil && !errors.Is(err, unix.EPERM) {
		return false
	}
	state, uid := "", ""
	for line := range strings.Lines(string(status)) {
		switch f := strings.Fields(line); {
		case len(f) > 1 && f[0] == "State:":
			state = f[1]
		case len(f) > 2 && f[0] == "Uid:":
			uid = f[2] // the effective one, as in checkDataDir
		}
	}
	var dir unix.Stat_t
	foreign := unix.Stat(dataDir, &dir) == nil && uid != "" && uid != strconv.FormatUint(uint64(dir.Uid), 10)
	return state != "Z" && state != "X" && (!foreign || pid == 1)
}

// attached says whether a process is attached to a System V shared memory segment, "KEY ID".
func attached(memory string) (bool, error) {
	want := strings.Fields(memory)
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
