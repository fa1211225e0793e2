package datadir

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Servers lists the data directories of the servers that run on this host, as far as the user may see them:
// every process of PostgreSQL has its data directory as current directory. It cannot see those in other
// containers.
func Servers() ([]string, error) {
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil || len(links) == 0 {
		return nil, fmt.Errorf("list processes: /proc does not exist")
	}
	var dirs []string
	for _, link := range links {
		dir, err := os.Readlink(link)
		if err != nil { // it has ended, or is another user's
			continue
		}
		if lock, err := os.ReadFile(filepath.Join(dir, "postmaster.pid")); err == nil && isServer(filepath.Dir(link), string(lock)) {
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs), nil
}

// isServer tells the processes of a server from others that were started in its data directory, of which pgobj may be one,
// beside a postmaster.pid that a power failure has left. The postmaster's number is the first line there, as it is in the
// postmaster's own container; its children outlive it for a while when it is killed.
func isServer(proc, lock string) bool {
	name, _ := os.ReadFile(filepath.Join(proc, "comm")) // that of one that has ended has none
	if slices.Contains([]string{"postgres\n", "postmaster\n", "edb-postgres\n"}, string(name)) {
		return true
	}
	pid := strconv.Itoa(parsePostmaster(lock).Process())
	if pid == filepath.Base(proc) {
		return true
	}
	status, _ := os.ReadFile(filepath.Join(proc, "status"))
	for line := range strings.Lines(string(status)) {
		if numbers, ok := strings.CutPrefix(line, "NSpid:"); ok {
			return slices.Contains(strings.Fields(numbers), pid)
		}
	}
	return false
}
