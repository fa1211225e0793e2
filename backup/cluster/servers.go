package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// Servers lists the data directories of the servers that run on this host, as far as the user may see them:
// every process of PostgreSQL has its data directory as current folder. It cannot see those in other
// containers.
func Servers() ([]string, error) {
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil || len(links) == 0 {
		return nil, fmt.Errorf("list processes: /proc is not there")
	}
	var dirs []string
	for _, link := range links {
		dir, err := os.Readlink(link)
		if err != nil { // it has ended, or is another user's
			continue
		}
		if _, err := os.Lstat(filepath.Join(dir, "postmaster.pid")); err == nil {
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs), nil
}
