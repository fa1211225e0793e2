package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// AsPostgres makes cmd run as the user postgres when we are root, which PostgreSQL refuses to be;
// otherwise as ourselves. In both cases cmd gets a process group of its own (so that all of it can be
// signalled) and dies with us (so that a test that is killed leaves nothing behind). As root it gets
// the HOME of postgres, and the temporary directory to stand in unless cmd.Dir is set: ours may be closed
// to postgres. Set cmd.Env, if at all, before.
//
// It panics when there is no user postgres: that is a machine on which test/install did not run.
func AsPostgres(cmd *exec.Cmd) *exec.Cmd {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cred, home, err := postgres()
	if err != nil {
		panic(err)
	}
	if cred == nil {
		return cmd
	}
	cmd.SysProcAttr.Credential = cred
	if cmd.Dir == "" {
		cmd.Dir = os.TempDir()
	}
	cmd.Env = append(cmd.Environ(), "HOME="+home, "USER=postgres", "LOGNAME=postgres")
	return cmd
}

// StandIn starts a process of the servers' user that does nothing: its number stands for a postmaster's in postmaster.pid. (Ours
// and our children's parent's are no server's to pgobj.)
func StandIn() (pid int, stop func(), err error) {
	cmd := AsPostgres(exec.Command("sleep", "infinity"))
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	return cmd.Process.Pid, func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}, nil
}

// postgres returns the credential to run servers with and its home; nil when we are not root.
func postgres() (*syscall.Credential, string, error) {
	if os.Geteuid() != 0 {
		return nil, "", nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, "", fmt.Errorf("servers refuse to run as root, and there is no other user for them: run test/install (%w)", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, "", fmt.Errorf("user id of postgres: %w", err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, "", fmt.Errorf("group id of postgres: %w", err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), Groups: []uint32{uint32(gid)}}, u.HomeDir, nil
}
