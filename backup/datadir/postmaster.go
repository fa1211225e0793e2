package datadir

import (
	"errors"
	"fmt"
	"io/fs"
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

// Postmaster is what postmaster.pid says: where a server is, and what it is doing. A server that was killed leaves the file; see
// Running. What the server has not written yet is empty.
type Postmaster struct {
	PID       int // negative of a single-user server; 0: there is no file
	Started   string
	Port      string
	SocketDir string // the first one; empty: it has none
	Listen    string // the first address; empty: none
	Memory    string // of its shared memory: "KEY ID"
	Status    Status
}

// Process is the number of the server's process, whether it is a postmaster or a single-user server; 0: there is no file.
func (p Postmaster) Process() int { return max(p.PID, -p.PID) }

// Host is where the server can be reached from this host: its socket's directory, or an address; empty: nowhere.
func (p Postmaster) Host() string {
	switch {
	case p.SocketDir != "":
		return p.SocketDir
	case p.Listen == "*", p.Listen == "0.0.0.0":
		return "127.0.0.1"
	case p.Listen == "::":
		return "::1"
	}
	return p.Listen
}

// ReadPostmaster reads the file of a data directory. No file is no error. One that cannot be read or understood is, as it is for
// the server's own start and for pg_ctl (CreateLockFile in miscinit.c, get_pgpid).
func ReadPostmaster(dataDir string) (p Postmaster, err error) {
	path := filepath.Join(dataDir, "postmaster.pid")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, Explain("read", path, err)
	}
	if p = parsePostmaster(string(text)); p.PID == 0 {
		return p, fmt.Errorf("read %s: it does not begin with a process ID (a server is starting, or crashed during its start): remove the file if no server runs", path)
	}
	return p, nil
}

func parsePostmaster(text string) (p Postmaster) {
	lines := strings.Split(text, "\n") // LOCK_FILE_LINE_… in pidfile.h
	lines = append(lines, make([]string, 8)...)
	p.PID, _ = strconv.Atoi(strings.TrimSpace(lines[0]))
	p.SocketDir = lines[4]
	for n, field := range map[int]*string{3: &p.Started, 4: &p.Port, 6: &p.Listen, 7: &p.Memory, 8: (*string)(&p.Status)} {
		*field = strings.TrimSpace(lines[n-1])
	}
	return p
}
