package ahead

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/owned"
	"github.com/pgobj/pgobj/storage/retry"
	"github.com/pgobj/pgobj/walstore/patience"
	"github.com/pgobj/pgobj/walstore/spool"
)

// Archive is the server's archive, as the settings of this process have it.
type Archive struct {
	Identity []string // what tells it from every other one
	Flags    []string // the settings, for another process of this program
	Open     func(retry.Policy) (storage.Store, error)
	Admit    func(context.Context, storage.Store, *spool.Markers, uint64) error // nil: it takes WAL of the cluster
	Log      *slog.Logger
}

// Host is one look at a cluster on this host, for all that a process does for it.
type Host struct {
	Archive
	Data    string // its data directory; "": there is none, as for a rescued file
	Control datadir.Control
	Err     error          // why there is no data directory, or no Control
	Server  datadir.Server // that runs on it
	Unknown error          // why that cannot be told
	Spool   string         // the directory for what is pushed or fetched ahead, which need not exist yet; "": the work is done without
	dir     spool.Identity // of Data
}

// Look looks at the cluster in a data directory, with its spool in dir ("": in the data directory).
func (a Archive) Look(dataDir, dir string) *Host {
	h := &Host{Archive: a, Data: dataDir}
	h.Control, _, h.Err = datadir.ReadControl(dataDir)
	h.Server, h.Unknown = datadir.Running(dataDir)
	if dir == "" {
		dir, _ = filepath.Abs(filepath.Join(dataDir, spool.Directory)) // fails only where there is no working directory
	}
	if h.mayUse(dir) {
		h.Spool = dir
	}
	return h
}

// mayUse says whether this process may work with a spool: one of another user than the server's (root's) would make files there that
// the server cannot read, and what another user could have written is not believed, which is logged.
func (h *Host) mayUse(dir string) bool {
	info, err := os.Stat(h.Data)
	ok := err == nil
	if ok {
		h.dir, ok = spool.IdentityOf(info)
	}
	if !ok || int64(h.dir.OwnerID) != int64(os.Geteuid()) {
		h.Log.Debug("the spool is not used: the data directory belongs to another user", "spool", dir)
		return false
	}
	if err := owned.Dir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.Log.Warn("the spool is not used: chown it to the server's user with mode 0700, or give another directory with --spool", "error", err)
		return false
	}
	return dir != ""
}

// SystemID is the system identifier of the cluster.
func (h *Host) SystemID() (uint64, error) {
	if h.Err != nil && h.Data != "" {
		return 0, fmt.Errorf("find the system identifier: %w", h.Err)
	}
	return h.Control.SystemID, h.Err
}

// Markers are those of the cluster; nil: there are none.
func (h *Host) Markers() *spool.Markers {
	if h.Spool == "" || h.Err != nil {
		return nil
	}
	return spool.NewMarkers(h.Spool, h.scope())
}

// Spill is where the objects of large segments go that wait for the storage.
func (h *Host) Spill() string { return cmp.Or(h.Spool, os.TempDir()) }

// scope binds what is in the spool to one repository, one server in it, and one cluster; and to one data directory, as a copy of
// it is another server.
func (h *Host) scope(more ...string) string {
	cluster := []string{strconv.FormatUint(h.Control.SystemID, 10), fmt.Sprint(h.dir.Device), fmt.Sprint(h.dir.Inode)}
	return spool.Scope(slices.Concat(h.Identity, cluster, more)...)
}

// mayWork says why no process may be started that works ahead for the server; nil: one may. When the one that started it ends, a
// process becomes the child of process 1. Where that is the postmaster, as in containers, it takes the end of any child by a
// signal, or with another code than 0 or 1, for a backend's crash, and restarts the server: up to version 17 in
// CleanupBackend, from 18 on as an "untracked child process" (postmaster.c).
func (h *Host) mayWork() error {
	switch {
	case h.Unknown != nil:
		return h.Unknown
	case h.Server.Run() == "":
		return errors.New("no server runs in the data directory")
	case h.Server.PID == 1:
		return errors.New("the postmaster is process 1, and would take the end of a pgobj process for a crash: start its container with an init process (docker run --init)")
	}
	return nil
}

const watch = 500 * time.Millisecond // between looks at the server

// brief is for what helpers ask of the storage. What they do not manage soon is left to the process that PostgreSQL asks, which has the time
// that it takes.
var brief = retry.Policy{Budget: patience.Helper, Stall: patience.Window}

// start starts this program with a hidden command for the data directory, without our stderr: a log's reader would wait for its end.
// The process stays in the process group of the server's process that has asked us, so that it is ended with it. ended is closed
// when it has ended; most often it outlives us.
func (h *Host) start(command, arg string, flags ...string) (ended <-chan struct{}, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	data, err := filepath.Abs(h.Data)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, slices.Concat([]string{command, arg, data, "--of=" + h.Server.Run(), "--spool=" + h.Spool}, flags, h.Flags)...)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	return done, nil
}

// Serving returns a context that ends soon after the server has been told to stop, and with ctx where there is a server.
func (h *Host) Serving(ctx context.Context) context.Context {
	if h.Data == "" {
		return context.Background() // a rescued file
	}
	ctx, stop := context.WithCancel(ctx)
	stopping := func(s datadir.Server) bool { return s.Status == datadir.Stopping && s.Run() != "" }
	if stopping(h.Server) {
		stop()
		return ctx
	}
	go h.follow(ctx, stop, func(s datadir.Server) bool { return !stopping(s) })
	return ctx
}

// whileRuns calls end soon after the end of a run of the server, or when still says so.
func (h *Host) whileRuns(ctx context.Context, end context.CancelFunc, run string, still func() bool) {
	if run == "" || h.Server.Run() != run || !still() {
		end()
		return
	}
	go h.follow(ctx, end, func(s datadir.Server) bool { return s.Run() == run && still() })
}

// follow calls end when what is looked at again and again is not so any more. It ends with ctx.
func (h *Host) follow(ctx context.Context, end context.CancelFunc, still func(datadir.Server) bool) {
	defer end()
	tick := time.NewTicker(watch)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if s, _ := datadir.Running(h.Data); !still(s) { // what cannot be read runs nothing of ours
			return
		}
	}
}
