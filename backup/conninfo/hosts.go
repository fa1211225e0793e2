package conninfo

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgpassfile"
	"github.com/jackc/pgx/v5/pgconn"
)

// onSocket says that a host is the directory of a Unix-domain socket.
func onSocket(host string) bool { return strings.HasPrefix(host, "/") }

// all are the ways to connect in the order in which they are tried: for a host with sslmode=prefer there are two.
func (s *settings) all() []*pgconn.FallbackConfig {
	return append([]*pgconn.FallbackConfig{{Host: s.Host, Port: s.Port, TLSConfig: s.TLSConfig}}, s.Fallbacks...)
}

func (s *settings) set(all []*pgconn.FallbackConfig) {
	s.Host, s.Port, s.TLSConfig, s.Fallbacks = all[0].Host, all[0].Port, all[0].TLSConfig, all[1:]
}

// attempts are all by host. A socket has one, without TLS; every other host has as many as the others.
func (s *settings) attempts() (hosts [][]*pgconn.FallbackConfig) {
	all := s.all()
	plain, encrypted := 0, 0
	for _, a := range all {
		if a.TLSConfig != nil {
			encrypted++
		} else if !onSocket(a.Host) {
			plain++
		}
	}
	each := 1
	if plain > 0 && encrypted > 0 {
		each = 2
	}
	for len(all) > 0 {
		n := each
		if onSocket(all[0].Host) {
			n = 1
		}
		hosts = append(hosts, all[:n])
		all = all[n:]
	}
	return hosts
}

// addresses takes hostaddr: where to connect to, while host stays the name in certificates and password files.
func (s *settings) addresses() error {
	value := s.value("hostaddr")
	if value == "" {
		return nil
	}
	addresses := strings.Split(value, ",")
	var names []string
	for _, a := range s.attempts() {
		names = append(names, a[0].Host)
	}
	if len(names) == 1 && onSocket(names[0]) { // as it is when no host is given
		names = slices.Clone(addresses)
	}
	if len(names) != len(addresses) {
		return fmt.Errorf("%s has %d addresses for %d hosts: give one address for each host, or none", named("hostaddr"), len(addresses), len(names))
	}
	for i, address := range addresses {
		addresses[i] = cmp.Or(address, names[i])
		if onSocket(names[i]) {
			names[i] = addresses[i]
		}
	}
	again, err := read(With(s.dsn, "host", strings.Join(names, ",")))
	if err != nil {
		return err
	}
	*s = *again
	hosts := s.attempts()
	for i, host := range hosts {
		for _, a := range host {
			a.Host = addresses[i]
		}
	}
	s.set(slices.Concat(hosts...))
	return nil
}

// password looks into the password file for the directory of a socket. libpq does (passwordFromFile), and takes localhost
// for the default directory only; pgconn takes localhost for every one.
func (s *settings) password() error {
	if !onSocket(s.Host) {
		return nil
	}
	home, _ := os.UserHomeDir() // without one there is no default
	passwords, err := pgpassfile.ReadPassfile(cmp.Or(inString(s.dsn, "passfile"), os.Getenv("PGPASSFILE"), filepath.Join(home, ".pgpass")))
	if err != nil {
		return nil // libpq goes on without one, too
	}
	find := func(host string) string {
		return passwords.FindPassword(host, strconv.Itoa(int(s.Port)), s.Database, s.User)
	}
	isDefault := slices.Contains([]string{"/var/run/postgresql", "/run/postgresql", "/tmp"}, s.Host)
	if s.Password == "" || !isDefault && s.Password == find("localhost") {
		s.Password = cmp.Or(find(s.Host), s.Password)
	}
	return nil
}
