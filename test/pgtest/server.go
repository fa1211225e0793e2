package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/testenv"
)

// server is one run of postgres. done is closed when the process has been waited for; cmd.ProcessState
// may be read from then on.
type server struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// Ended is the error of a server that stopped by itself while it was starting or recovering.
type Ended struct {
	State string // how the process ended, e.g. "exit status 1"; a recovery_target_action of shutdown gives 0
	Log   string // the last lines of the server's log
}

func (e *Ended) Error() string {
	return fmt.Sprintf("the server ended by itself (%s):\n%s", e.State, e.Log)
}

// Running tells whether the server process is there.
func (c *Cluster) Running() bool {
	if c.srv == nil {
		return false
	}
	select {
	case <-c.srv.done:
		return false
	default:
		return true
	}
}

// PID is the process id of the postmaster, 0 when it does not run.
func (c *Cluster) PID() int {
	if !c.Running() {
		return 0
	}
	return c.srv.cmd.Process.Pid
}

// Launch starts the server and returns when
//   - it accepts connections and is not, or no longer, in recovery,
//   - its recovery is paused at the target, and it accepts connections,
//   - it is a standby (by standby.signal or standby_mode) and accepts connections,
//   - it ended by itself: an *Ended,
//   - ctx is done: an error with the server's log; the server still runs then.
func (c *Cluster) Launch(ctx context.Context) error {
	if c.Running() {
		return fmt.Errorf("start the server on %s: it runs already", c.Data)
	}
	standby := isStandby(c.Data)
	if err := c.spawn(); err != nil {
		return fmt.Errorf("start the server on %s: %w", c.Data, err)
	}
	var last error
	ready := func() bool {
		if !c.Running() {
			return true
		}
		var in string
		attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		// The second call is an error outside recovery, so it is asked for only inside.
		if in, last = c.Query(attempt, "postgres", "SELECT pg_is_in_recovery()"); last != nil {
			return false
		}
		if in == "f" || standby {
			return true
		}
		in, last = c.Query(attempt, "postgres", "SELECT pg_is_wal_replay_paused()")
		return last == nil && in == "t"
	}
	err := testenv.Until(ctx, "the server on "+c.Data+" is ready", ready)
	switch {
	case !c.Running():
		return &Ended{State: c.srv.cmd.ProcessState.String(), Log: tail(c.Log(), 40)}
	case err != nil:
		return fmt.Errorf("%w (last answer: %v); its log:\n%s", err, last, tail(c.Log(), 40))
	}
	return nil
}

func (c *Cluster) spawn() error {
	log, err := os.OpenFile(c.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own descriptor
	// Port and socket go by command line, never into postgresql.conf: a restored copy has that file too.
	args := append([]string{"-D", c.Data, "-p", strconv.Itoa(c.Port), "-k", c.SocketDir, "-c", "listen_addresses="}, c.args...)
	cmd := c.command(context.Background(), "postgres", args...)
	cmd.Stdout, cmd.Stderr = log, log
	// Immediate shutdown rather than SIGKILL when we die: it takes the children and shared memory along.
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	if c.process1 {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID
		if uid, gid := os.Getuid(), os.Getgid(); uid != 0 { // only root may do that, and who is root in a namespace of users
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		}
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	c.srv = &server{cmd: cmd, done: make(chan struct{})}
	// The only wait for this process; Running, Shutdown and Crash wait for done.
	go func(s *server) {
		_ = s.cmd.Wait() // how it ended is in ProcessState
		close(s.done)
	}(c.srv)
	return nil
}

var standbyMode = regexp.MustCompile(`(?im)^\s*standby_mode\s*=?\s*'?(on|true|yes|1)`)

// isStandby: a server that follows for ever, so nobody may wait for the end of its recovery.
func isStandby(data string) bool {
	if _, err := os.Stat(filepath.Join(data, "standby.signal")); err == nil {
		return true
	}
	conf, err := os.ReadFile(filepath.Join(data, "recovery.conf")) // before 12
	return err == nil && standbyMode.Match(conf)
}

// Shutdown stops the server in the mode smart, fast or immediate, and waits for its end. A server that
// does not stop in a generous time is killed, which is an error with its log.
func (c *Cluster) Shutdown(mode string) error {
	signals := map[string]syscall.Signal{"smart": syscall.SIGTERM, "fast": syscall.SIGINT, "immediate": syscall.SIGQUIT}
	sig, ok := signals[mode]
	if !ok {
		return fmt.Errorf("stop the server on %s: no mode %q", c.Data, mode)
	}
	if !c.Running() {
		return fmt.Errorf("stop the server on %s: it does not run", c.Data)
	}
	if err := c.srv.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the server on %s: %w", c.Data, err)
	}
	select {
	case <-c.srv.done:
		return nil
	case <-time.After(2 * time.Minute):
		err := fmt.Errorf("the server on %s ignored a %s shutdown and was killed; its log:\n%s", c.Data, mode, tail(c.Log(), 40))
		return errors.Join(err, c.Crash())
	}
}

// Crash kills the postmaster and everything below it (backends, archiver, a running archive_command)
// with SIGKILL, as when the machine stops, and returns when all of them are gone: a survivor would
// keep the next start from taking the data directory.
func (c *Cluster) Crash() error {
	pid := c.PID()
	if pid == 0 {
		return fmt.Errorf("kill the server on %s: it does not run", c.Data)
	}
	// Stopped, it cannot start a child between our look at its children and its end.
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return fmt.Errorf("kill the server on %s: %w", c.Data, err)
	}
	family := append(descendants(pid), pid)
	for _, p := range family {
		_ = syscall.Kill(p, syscall.SIGKILL) // one that has ended meanwhile is as good as killed
	}
	<-c.srv.done
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return testenv.Until(ctx, "all processes of the server are gone", func() bool {
		return !slices.ContainsFunc(family, alive)
	})
}

// descendants lists the processes below pid, parents before children.
func descendants(pid int) []int {
	var all []int
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid)) // gone: no children
	for field := range strings.FieldsSeq(string(children)) {
		child, err := strconv.Atoi(field)
		if err != nil {
			continue
		}
		all = append(all, child)
		all = append(all, descendants(child)...)
	}
	return all
}

// alive takes a zombie for dead: it holds nothing any more, and who reaps it is not our business.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// Start is Launch for a test.
func (c *Cluster) Start(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.Launch(ctx); err != nil {
		t.Fatal(err)
	}
}

// Stop is Shutdown for a test; mode is smart, fast or immediate.
func (c *Cluster) Stop(t testing.TB, mode string) {
	t.Helper()
	if err := c.Shutdown(mode); err != nil {
		t.Fatal(err)
	}
}

// Restart is Stop (fast) and Start.
func (c *Cluster) Restart(t testing.TB) {
	t.Helper()
	c.Stop(t, "fast")
	c.Start(t)
}

// Kill is Crash for a test.
func (c *Cluster) Kill(t testing.TB) {
	t.Helper()
	if err := c.Crash(); err != nil {
		t.Fatal(err)
	}
}
