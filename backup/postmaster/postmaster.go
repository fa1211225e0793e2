// Package postmaster reads postmaster.pid, where a server says who and where it is, and what it is doing. It refuses to judge
// whether that server still runs: a server that was killed leaves the file behind.
package postmaster

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Status is what a server says of itself (PM_STATUS_… in PostgreSQL's pidfile.h).
type Status string

// A server takes connections while it is Ready, and, for reading, while it is in Standby.
const (
	Starting Status = "starting" // also during all of a recovery without hot_standby, or before it is consistent
	Stopping Status = "stopping"
	Ready    Status = "ready"
	Standby  Status = "standby"
)

// Open says whether the server takes connections.
func (s Status) Open() bool { return s == Ready || s == Standby }

// File is what postmaster.pid says. What the server has not written yet is empty.
type File struct {
	PID       int // negative of a single-user server; 0: the file cannot be understood
	Started   string
	Port      string
	SocketDir string // the first one; empty: it has none
	Listen    string // the first address; empty: none
	Status    Status
}

// Host is where the server can be reached from this host: its socket's directory, or an address; empty: nowhere.
func (f File) Host() string {
	switch {
	case f.SocketDir != "":
		return f.SocketDir
	case f.Listen == "*", f.Listen == "0.0.0.0":
		return "127.0.0.1"
	case f.Listen == "::":
		return "::1"
	}
	return f.Listen
}

// Read reads the file of a data directory. The zero File says that there is none that can be read.
func Read(dataDir string) (f File) {
	data, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		return f
	}
	lines := strings.Split(string(data), "\n") // LOCK_FILE_LINE_… in pidfile.h
	line := func(n int) string {
		if n > len(lines) {
			return ""
		}
		return strings.TrimSpace(lines[n-1])
	}
	f.PID, _ = strconv.Atoi(line(1))
	f.Started, f.Port, f.Listen, f.Status = line(3), line(4), line(6), Status(line(8))
	if len(lines) >= 5 {
		f.SocketDir = lines[4]
	}
	return f
}
