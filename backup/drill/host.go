package drill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pgobj/pgobj/backup/restore"
)

// host runs PostgreSQL's programs: which ones, as whom, and with which environment.
type host struct {
	bin  string
	dir  string
	env  []string
	cred *syscall.Credential // nil: as we are
	lock *os.File
}

// patience is how long a program may take to end when it is told to.
const patience = 5 * time.Second

func newHost(p *restore.Plan, dir string, env []string) (h host, err error) {
	h.dir = dir
	// What leads programs to the original's server must not lead these anywhere.
	h.env = slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		return strings.HasPrefix(kv, "PG") && !strings.HasPrefix(kv, "PGOBJ_")
	})
	uid, gid := p.Owner()
	switch {
	case uid < 0:
		return h, nil
	case uid == 0:
		return h, fmt.Errorf("%w: PostgreSQL does not run as root: give --user", ErrHost)
	}
	h.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return h, fmt.Errorf("%w: %w", ErrHost, err)
	}
	groups, err := u.GroupIds()
	if err != nil {
		return h, fmt.Errorf("%w: %w", ErrHost, err)
	}
	for _, g := range groups {
		n, err := strconv.ParseUint(g, 10, 32)
		if err != nil {
			return h, err
		}
		h.cred.Groups = append(h.cred.Groups, uint32(n))
	}
	h.env = append(h.env, "HOME="+u.HomeDir, "USER="+u.Username, "LOGNAME="+u.Username)
	return h, nil
}

// command is a program that ends with the context, and is out of reach of the terminal's signals, so that the
// drill decides about the order in which all end.
func (h *host) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if !filepath.IsAbs(name) {
		name = filepath.Join(h.bin, name)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = "/", h.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: h.cred}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = patience
	return cmd
}

// check runs a program that looks for damage. Its error holds what it says.
func (h *host) check(ctx context.Context, name string, args ...string) error {
	out, err := h.command(ctx, name, args...).CombinedOutput()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w\n%s", ErrFailed, filepath.Base(name), err, lastLines(string(out), 20))
	}
	return nil
}

func (h *host) has(name string) bool {
	st, err := os.Stat(filepath.Join(h.bin, name))
	return err == nil && st.Mode().IsRegular()
}

// Places are where distributions have the programs of a major version.
func Places(major int) []string {
	m := strconv.Itoa(major)
	return []string{"/usr/lib/postgresql/" + m + "/bin", "/usr/pgsql-" + m + "/bin", "/usr/lib/postgresql" + m + "/bin"}
}

// findPrograms looks for the programs of a major version, in the directory that was named or in the usual ones.
func (h *host) findPrograms(ctx context.Context, named string, major int) error {
	m := strconv.Itoa(major)
	places := append(Places(major), "/usr/local/pgsql/bin")
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		places = append(places, strings.TrimSpace(string(out)))
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		places = append(places, filepath.Dir(path))
	}
	if named != "" {
		abs, err := filepath.Abs(named)
		if err != nil {
			return err
		}
		places = []string{abs}
	}
	majorVersion := regexp.MustCompile(`\(PostgreSQL\) (\d+)`)
	var other []string
	for _, dir := range places {
		out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
		if err != nil {
			continue
		}
		if found := majorVersion.FindSubmatch(out); found != nil && string(found[1]) == m {
			h.bin = dir
			return nil
		}
		other = append(other, fmt.Sprintf("%s has %s", dir, bytes.TrimSpace(out)))
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return fmt.Errorf("%w: the backup is of PostgreSQL %s, but none of these directories has its programs: %s (%s). Install it, or give --bindir", ErrHost, m,
		strings.Join(places, ", "), strings.Join(append(other, "nothing else"), "; "))
}

// scratchServer is one run of postgres.
type scratchServer struct {
	cmd  *exec.Cmd
	log  string // its path
	done chan struct{}
	err  error // how it ended, when done is closed
}

// start starts the server, whose log goes to a file.
func (h *host) start(args []string) (*scratchServer, error) {
	s := &scratchServer{log: filepath.Join(h.dir, "log"), done: make(chan struct{})}
	log, err := os.Create(s.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()           // the server has its own descriptor
	ctx := context.Background() // it is stopped in its own ways
	s.cmd = h.command(ctx, "postgres", args...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	// If we are killed the server does not stay.
	s.cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w: start the server: %w", ErrHost, err)
	}
	go func() { // everybody who cares for its end waits for done
		s.err = s.cmd.Wait()
		close(s.done)
	}()
	return s, nil
}

// stop ends the server with a signal, and says how it ended.
func (s *scratchServer) stop(ctx context.Context, sig syscall.Signal) error {
	if err := s.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.done:
		return s.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// quit ends the server at once, whatever it does.
func (s *scratchServer) quit() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.stop(ctx, syscall.SIGQUIT); errors.Is(err, context.DeadlineExceeded) {
		_ = s.cmd.Process.Kill() // it has ended, or does now
		<-s.done
	}
}

// said is the end of the server's log.
func (s *scratchServer) said() string {
	text, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return lastLines(string(text), 20)
}
