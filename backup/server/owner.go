package server

import (
	"context"
	"net"
	"os"
	"os/user"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// connectTimeout is how long a server may take to let a session in, where no connect_timeout is set: a host that is off does
// not answer at all.
const connectTimeout = time.Minute

// open opens a connection. When root connects through a server's own socket, to a role that is called as the owner of that
// server, it does so as that owner, because peer authentication looks at the process that connects (auth_peer in
// PostgreSQL's auth.c). That role is also tried when the server refuses the one that root gets by default, its own name.
func open(ctx context.Context, cfg *pgconn.Config) (*pgconn.PgConn, error) {
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	owner := socketOwner(pgconn.NetworkAddress(cfg.Host, cfg.Port))
	if owner != nil && cfg.User == owner.Username {
		cfg.DialFunc = dialAs(owner, cfg.DialFunc)
	}
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if owner == nil || !IsUnknownRole(err) || !isOwnName(cfg.User) {
		return conn, err
	}
	cfg.User, cfg.DialFunc = owner.Username, dialAs(owner, cfg.DialFunc)
	return pgconn.ConnectConfig(ctx, cfg)
}

// isOwnName says whether a role is called as the user of this process.
func isOwnName(role string) bool {
	u, err := user.Current()
	return err == nil && u.Username == role
}

// socketOwner is the user who runs the server behind a socket, when root asks; nil: there is no such user to act as.
func socketOwner(network, address string) *user.User {
	if network != "unix" || os.Geteuid() != 0 {
		return nil
	}
	return FileOwner(address)
}

// FileOwner is the user that a file belongs to; nil: nobody knows, or root.
func FileOwner(path string) *user.User {
	st, err := os.Stat(path)
	if err != nil {
		return nil
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || sys.Uid == 0 {
		return nil
	}
	u, err := user.LookupId(strconv.FormatUint(uint64(sys.Uid), 10))
	if err != nil {
		return nil
	}
	return u
}

// dialAs dials as another user. The kernel notes who connects, by the thread that does it; the rights of one thread can be
// given up alone, and Go ends a thread with the goroutine that has locked it.
func dialAs(u *user.User, dial pgconn.DialFunc) pgconn.DialFunc {
	uid, err := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err != nil || err2 != nil {
		return dial
	}
	type answer struct {
		conn net.Conn
		err  error
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		got := make(chan answer)
		go func() { // ends with the dial, which the context bounds
			runtime.LockOSThread() // and never unlocks it
			become(uid, gid)
			conn, err := dial(ctx, network, address)
			got <- answer{conn, err}
		}()
		a := <-got
		return a.conn, a.err
	}
}

// become gives up this thread's rights for a user's. Where that is not allowed, as in some containers, the thread stays as
// it is. The functions of package syscall would change all threads of the process.
func become(uid, gid int) {
	if _, _, e := syscall.RawSyscall(syscall.SYS_SETGROUPS, 0, 0, 0); e != 0 {
		return
	}
	if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)); e != 0 {
		return
	}
	_, _, _ = syscall.RawSyscall(syscall.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)) // what comes of it the server says
}
