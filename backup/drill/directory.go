package drill

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgobj/pgobj/backup/datadir"
)

const (
	directoryPrefix = "pgobj-drill-"
	lockName        = "drill-runs"
	// maxDirectory leaves room for the socket's name in the 107 bytes that a socket's path may have.
	maxDirectory = 107 - len("/socket/.s.PGSQL.5432")
	// removeFor is how long the directory is tried to be removed: helpers of the server that was stopped may be
	// about to write to it.
	removeFor = 20 * time.Second
)

// makeDirectory makes the drill's directory, for the server's user alone, with a lock that is held as long as the drill
// runs.
func (d *drill) makeDirectory() (err error) {
	uid, gid := d.plan.Owner()
	for _, dir := range []string{d.Directory, filepath.Join(d.Directory, "socket")} {
		if err = os.Mkdir(dir, 0o700); err == nil && uid >= 0 {
			err = os.Chown(dir, uid, gid)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrHost, err)
		}
	}
	d.lock, err = os.Create(filepath.Join(d.Directory, lockName))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrHost, err)
	}
	return unix.Flock(int(d.lock.Fd()), unix.LOCK_EX)
}

// sweep removes what drills that were killed have left: directories with a lock that nobody holds.
func (d *drill) sweep() error {
	locks, err := filepath.Glob(filepath.Join(d.Scratch, directoryPrefix+"*", lockName))
	if err != nil {
		return err
	}
	for _, name := range locks {
		if !ours(name) {
			continue // in a directory that everybody may write to, anybody may have made it
		}
		lock, err := os.Open(name)
		if err != nil {
			continue
		}
		free := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
		dir := filepath.Dir(name)
		if running, err := datadir.Running(filepath.Join(dir, "data")); free && running.PID == 0 && err == nil {
			d.Log.Info("removing what a drill that was killed has left", "directory", dir)
			if err := os.RemoveAll(dir); err != nil {
				d.Log.Warn("cannot remove it", "error", err)
			}
		}
		lock.Close()
	}
	return nil
}

// ours: the file is the user's own, and no link.
func ours(name string) bool {
	st, err := os.Lstat(name)
	if err != nil || !st.Mode().IsRegular() {
		return false
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && int(sys.Uid) == os.Geteuid()
}

// cleanUp leaves no server, and no directory unless it is to stay.
func (d *drill) cleanUp() error {
	if d.srv != nil {
		d.srv.quit()
	}
	if d.lock != nil {
		defer d.lock.Close()
	}
	if d.Keep {
		return os.Remove(filepath.Join(d.Directory, lockName)) // the next drill leaves it alone
	}
	for deadline := time.Now().Add(removeFor); ; {
		err := os.RemoveAll(d.Directory)
		if err == nil || errors.Is(err, fs.ErrPermission) || time.Now().After(deadline) {
			if err != nil {
				return fmt.Errorf("remove the drill's directory: %w", err)
			}
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// lastLines of a text, for a message.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
