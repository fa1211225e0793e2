// Package conninfo turns the connection settings of libpq (PostgreSQL 18) into those of pgconn: connection strings of both
// forms, PG… environment variables, service files and password files. pgconn reads most of them; what it does not know it
// would send to the server as a setting of the session. Here every keyword is understood, or refused by name with what to do.
// It makes no connection.
package conninfo

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// ErrSettings: the connection settings cannot be used.
var ErrSettings = errors.New("the connection settings cannot be used")

// keywords are those of PQconninfoOptions (fe-connect.c) that pgconn does not know, each with its environment variable.
var keywords = map[string]string{
	"hostaddr": "PGHOSTADDR", "client_encoding": "PGCLIENTENCODING", "fallback_application_name": "",
	"keepalives": "", "keepalives_idle": "", "keepalives_interval": "", "keepalives_count": "", "tcp_user_timeout": "",
	"sslcompression": "PGSSLCOMPRESSION", "sslcrl": "PGSSLCRL", "sslcrldir": "PGSSLCRLDIR", "sslkeylogfile": "",
	"ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION", "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
	"requirepeer": "PGREQUIREPEER", "gssencmode": "PGGSSENCMODE", "gsslib": "PGGSSLIB", "gssdelegation": "PGGSSDELEGATION",
	"replication": "", "load_balance_hosts": "PGLOADBALANCEHOSTS", "scram_client_key": "", "scram_server_key": "",
	"oauth_issuer": "", "oauth_client_id": "", "oauth_client_secret": "", "oauth_scope": "",
}

// sent are settings of the session that libpq sends to the server, too.
var sent = []string{"application_name", "options", "timezone"}

// settings are those of one connection on their way to pgconn's.
type settings struct {
	*pgconn.Config
	dsn   string
	extra map[string]string // what pgconn did not know
}

// Parse reads a connection string in one of libpq's forms. What it leaves out, or all of it when it is empty, comes from the
// service file, from the environment and from the password file, in libpq's order, but the database: without one it is
// postgres, and not the one that is called as the user. Every error is ErrSettings.
func Parse(dsn string) (*pgconn.Config, error) {
	s, err := read(dsn)
	if err == nil && s.Database == "" {
		s, err = read(With(dsn, "dbname", "postgres"))
	}
	if err == nil {
		err = s.apply()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSettings, err)
	}
	return s.Config, nil
}

func (s *settings) apply() error {
	for _, step := range []func() error{s.check, s.addresses, s.encryption, s.dialer, s.peer, s.balance, s.password} {
		if err := step(); err != nil {
			return err
		}
	}
	if s.RuntimeParams["application_name"] == "" && s.value("fallback_application_name") != "" {
		s.RuntimeParams["application_name"] = s.value("fallback_application_name")
	}
	if s.KerberosSrvName == "" {
		s.KerberosSrvName = os.Getenv("PGKRBSRVNAME")
	}
	return nil
}

// read lets pgconn read the settings, and sorts out what it takes for settings of the session.
func read(dsn string) (*settings, error) {
	cfg, err := pgconn.ParseConfig(dsn)
	if err != nil && strings.Contains(err.Error(), "failed to read service") {
		cfg, err = readSystemService(dsn, err)
	}
	if err != nil {
		return nil, err
	}
	s := &settings{Config: cfg, dsn: dsn, extra: map[string]string{}}
	for _, name := range slices.Sorted(maps.Keys(cfg.RuntimeParams)) {
		if slices.Contains(sent, name) {
			continue
		}
		if _, known := keywords[name]; !known {
			return nil, fmt.Errorf("%q is not a keyword of a connection string: write a session setting as options='-c %s=…'", name, name)
		}
		s.extra[name] = cfg.RuntimeParams[name]
		delete(cfg.RuntimeParams, name)
	}
	return s, nil
}

// readSystemService looks for a service where the host has those of all users, when the user's own file does not have it
// (parseServiceInfo in fe-connect.c).
func readSystemService(dsn string, own error) (*pgconn.Config, error) {
	dirs := []string{"/etc/postgresql-common", "/etc/sysconfig/pgsql"} // as Debian and PGDG's RPMs build libpq
	if dir := os.Getenv("PGSYSCONFDIR"); dir != "" {
		dirs = []string{dir}
	}
	for _, dir := range dirs {
		if cfg, err := pgconn.ParseConfig(With(dsn, "servicefile", filepath.Join(dir, "pg_service.conf"))); err == nil {
			return cfg, nil
		}
	}
	return nil, own
}

// value is a keyword's, from the connection string or service file, or else from the environment.
func (s *settings) value(keyword string) string {
	if v, set := s.extra[keyword]; set {
		return v
	}
	if variable := keywords[keyword]; variable != "" {
		return os.Getenv(variable)
	}
	return ""
}

// check refuses what pgobj cannot do, and values that libpq refuses.
func (s *settings) check() error {
	for _, keyword := range slices.Sorted(maps.Keys(unable)) {
		if s.value(keyword) != "" {
			return fmt.Errorf("pgobj does not support %s: %s", named(keyword), unable[keyword])
		}
	}
	for _, c := range []struct {
		keyword string
		allowed []string
	}{
		{"sslcompression", []string{"0", "1"}}, {"gssdelegation", []string{"0", "1"}}, {"load_balance_hosts", []string{"disable", "random"}},
		{"gssencmode", []string{"disable", "prefer", "require"}},
	} {
		if v := s.value(c.keyword); v != "" && !slices.Contains(c.allowed, v) {
			return fmt.Errorf("%s is %q: use %s", named(c.keyword), v, strings.Join(c.allowed, ", "))
		}
	}
	switch {
	case s.value("gssencmode") == "require":
		return fmt.Errorf("pgobj does not support %s=require: remove it and encrypt with TLS (sslmode=verify-full)", named("gssencmode"))
	case strings.HasPrefix(os.Getenv("PGREQUIRESSL"), "1"):
		return errors.New("pgobj does not support PGREQUIRESSL, which is deprecated: set PGSSLMODE=require instead")
	}
	return nil
}

// unable are keywords that pgobj has no means for, with what to do.
var unable = map[string]string{
	"sslkeylogfile": "remove it", "scram_client_key": "give the password, preferably in ~/.pgpass", "scram_server_key": "give the password, preferably in ~/.pgpass",
	"oauth_issuer": noOAuth, "oauth_client_id": noOAuth, "oauth_client_secret": noOAuth, "oauth_scope": noOAuth,
}

const noOAuth = "use another authentication method for this role in pg_hba.conf, such as scram-sha-256 or cert"

// named is a keyword with its variable, as either may have been set.
func named(keyword string) string {
	if variable := keywords[keyword]; variable != "" {
		return keyword + " (" + variable + ")"
	}
	return keyword
}

// balance puts the hosts in a random order.
func (s *settings) balance() error {
	if s.value("load_balance_hosts") != "random" {
		return nil
	}
	hosts := s.attempts()
	rand.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	s.set(slices.Concat(hosts...))
	return nil
}

// With is a connection string in which a keyword has another value; in both forms the last one counts.
func With(dsn, keyword, value string) string {
	if !strings.HasPrefix(dsn, "postgres://") && !strings.HasPrefix(dsn, "postgresql://") {
		return strings.TrimSpace(dsn + " " + keyword + "=" + Quote(value))
	}
	separator := "?"
	if strings.Contains(dsn, "?") {
		separator = "&"
	}
	return dsn + separator + keyword + "=" + strings.ReplaceAll(url.QueryEscape(value), "+", "%20")
}

// Quote writes a value as libpq's keyword/value strings take it.
func Quote(value string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
}

// inString is a keyword's value in the connection string itself.
func inString(dsn, keyword string) (value string) {
	if _, query, isURL := strings.Cut(dsn, "?"); isURL && strings.Contains(dsn, "://") {
		values, _ := url.ParseQuery(query) // pgconn has read it, and says what is wrong
		return values.Get(keyword)
	}
	pairs := regexp.MustCompile(`(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s\\]|\\.)*)`)
	for _, m := range pairs.FindAllStringSubmatch(dsn, -1) {
		if m[1] == keyword {
			value = regexp.MustCompile(`\\(.)`).ReplaceAllString(strings.Trim(m[2], "'"), "$1")
		}
	}
	return value
}
