package conninfo

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"
)

// encryption takes what pgconn does not know of TLS. On a socket, and with sslmode=disable, it means nothing, as in libpq.
func (s *settings) encryption() error {
	var configs []*tls.Config
	for _, a := range s.all() {
		if a.TLSConfig != nil {
			configs = append(configs, a.TLSConfig)
		}
	}
	for _, keyword := range []string{"sslcrl", "sslcrldir"} {
		if s.value(keyword) != "" && len(configs) > 0 {
			return fmt.Errorf("pgobj does not support %s over TLS, because it does not read revocation lists: remove it, or connect through the server's socket", named(keyword))
		}
	}
	lowest, err := s.version("ssl_min_protocol_version")
	if err != nil {
		return err
	}
	highest, err := s.version("ssl_max_protocol_version")
	if err != nil {
		return err
	}
	if highest != 0 && lowest > highest {
		return fmt.Errorf("%s is above %s", named("ssl_min_protocol_version"), named("ssl_max_protocol_version"))
	}
	for _, c := range configs {
		c.MinVersion, c.MaxVersion = lowest, highest // 0: as Go does, from TLS 1.2 on
	}
	return nil
}

// version is that of TLS which a keyword names (sslVerifyProtocolVersion); 0 for none.
func (s *settings) version(keyword string) (uint16, error) {
	versions := map[string]uint16{"": 0, "tlsv1": tls.VersionTLS10, "tlsv1.1": tls.VersionTLS11, "tlsv1.2": tls.VersionTLS12, "tlsv1.3": tls.VersionTLS13}
	v, known := versions[strings.ToLower(s.value(keyword))]
	if !known {
		return 0, fmt.Errorf("%s is %q: use TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3", named(keyword), s.value(keyword))
	}
	return v, nil
}

// dialer takes the settings of TCP. Where none is given Go's own hold, which find a dead connection earlier than Linux's.
func (s *settings) dialer() error {
	values := map[string]int{}
	for _, keyword := range []string{"keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"} {
		text := strings.TrimSpace(s.value(keyword))
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%s is %q: use a whole number", named(keyword), text)
		}
		if values[keyword] = n; n <= 0 && keyword != "keepalives" {
			values[keyword] = -1 // as the system has it
		}
	}
	if len(values) == 0 {
		return nil
	}
	seconds := func(n int) time.Duration { return time.Duration(n) * time.Second }
	d := &net.Dialer{Timeout: s.ConnectTimeout, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: seconds(values["keepalives_idle"]), Interval: seconds(values["keepalives_interval"]), Count: values["keepalives_count"]}}
	if n, set := values["keepalives"]; set && n == 0 {
		d.KeepAlive, d.KeepAliveConfig = -1, net.KeepAliveConfig{}
	}
	if ms := values["tcp_user_timeout"]; ms > 0 {
		d.Control = userTimeout(ms)
	}
	s.DialFunc = d.DialContext
	return nil
}

// userTimeout sets how many milliseconds sent data may stay unacknowledged.
func userTimeout(ms int) func(network, _ string, c syscall.RawConn) error {
	return func(network, _ string, c syscall.RawConn) (err error) {
		if !strings.HasPrefix(network, "tcp") {
			return nil
		}
		return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, ms) }), err)
	}
}

// peer holds whom the server's socket belongs to against requirepeer, before a password goes there.
func (s *settings) peer() error {
	want := s.value("requirepeer")
	if want == "" {
		return nil
	}
	s.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
		socket, is := conn.(*net.UnixConn)
		if !is {
			return conn, nil // as in libpq, which asks on sockets only
		}
		name, err := owner(socket)
		if err == nil && name != want {
			err = fmt.Errorf("requirepeer is %q, but the server runs as %q", want, name)
		}
		return conn, err
	}
	return nil
}

// owner is the name of the user who listens at the other end.
func owner(socket *net.UnixConn) (name string, err error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return "", err
	}
	var peer *unix.Ucred
	var refused error
	if err := raw.Control(func(fd uintptr) { peer, refused = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || refused != nil {
		return "", errors.Join(err, refused)
	}
	u, err := user.LookupId(strconv.Itoa(int(peer.Uid)))
	if err != nil {
		return "", err
	}
	return u.Username, nil
}
