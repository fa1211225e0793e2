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

// dialAs dials as another user. The kernel notes who connects, by the effective user of the thread that does it, and one thread can change
// that alone. The thread gets its own user back, and lives on: what it has started may be told when it ends (PR_SET_PDEATHSIG), as a drill's
// server is.
func dialAs(u *user.User, dial pgconn.DialFunc) pgconn.DialFunc {
	uid, err := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err != nil || err2 != nil {
		return dial
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		runtime.LockOSThread()
		own := os.Getegid()
		if effective(syscall.SYS_SETRESGID, gid) && effective(syscall.SYS_SETRESUID, uid) { // where it is not allowed, what comes of it the server says
			defer func() {
				if !effective(syscall.SYS_SETRESUID, 0) || !effective(syscall.SYS_SETRESGID, own) {
					return // the thread stays locked, and ends with its goroutine
				}
				runtime.UnlockOSThread()
			}()
			return dial(ctx, network, address)
		}
		_ = effective(syscall.SYS_SETRESGID, own)
		runtime.UnlockOSThread()
		return dial(ctx, network, address)
	}
}

// effective sets this thread's effective user or group alone. The functions of package syscall would change all threads of the process.
func effective(call uintptr, id int) bool {
	const keep = ^uintptr(0)
	_, _, e := syscall.RawSyscall(call, keep, uintptr(id), keep)
	return e == 0
}
