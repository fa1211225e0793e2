package conninfo

import (
	"bytes"
	"crypto/tls"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgobj/pgobj/test/testenv"
)

// options are all keywords of libpq 18 (PQconninfoOptions in fe-connect.c), each with a value that libpq takes; the ones that
// pgobj refuses are in refused.
var options = map[string]string{
	"service": "", "user": "u", "password": "p", "passfile": "/x", "channel_binding": "prefer", "connect_timeout": "3", "dbname": "d", "host": "h", "hostaddr": "127.0.0.1",
	"port": "5433", "client_encoding": "auto", "options": "-c geqo=off", "application_name": "a", "fallback_application_name": "f", "keepalives": "1", "keepalives_idle": "5",
	"keepalives_interval": "5", "keepalives_count": "3", "tcp_user_timeout": "1000", "sslmode": "require", "sslnegotiation": "postgres", "sslcompression": "0", "sslcert": "", "sslkey": "",
	"sslcertmode": "allow", "sslpassword": "x", "sslrootcert": "", "sslcrl": "/x", "sslcrldir": "/x", "sslsni": "1", "requirepeer": "postgres", "require_auth": "scram-sha-256",
	"min_protocol_version": "3.0", "max_protocol_version": "3.2", "ssl_min_protocol_version": "TLSv1.2", "ssl_max_protocol_version": "TLSv1.3", "gssencmode": "prefer", "krbsrvname": "postgres",
	"gsslib": "gssapi", "gssdelegation": "0", "replication": "database", "target_session_attrs": "any", "load_balance_hosts": "random", "scram_client_key": "x", "scram_server_key": "x",
	"oauth_issuer": "x", "oauth_client_id": "x", "oauth_client_secret": "x", "oauth_scope": "x", "sslkeylogfile": "/x",
}

var refused = []string{"sslkeylogfile", "scram_client_key", "scram_server_key", "oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope", "sslcrl", "sslcrldir"}

// parse reads settings on a host without any of its own.
func parse(t *testing.T, dsn string) (*pgconn.Config, error) {
	t.Helper()
	if os.Getenv("HOME") != "/nonexistent" && !strings.HasPrefix(os.Getenv("HOME"), os.TempDir()) {
		t.Setenv("HOME", "/nonexistent")
	}
	cfg, err := Parse(dsn)
	if err != nil && !errors.Is(err, ErrSettings) {
		t.Errorf("%s: %v is no ErrSettings", dsn, err)
	}
	return cfg, err
}

// TestEveryKeyword: each is taken, in both forms, or refused by its name, and none is sent to the server as a setting.
func TestEveryKeyword(t *testing.T) {
	library, err := os.ReadFile(filepath.Join(testenv.CacheDir(), "pg/18/lib/libpq.so.5"))
	if err != nil {
		t.Fatalf("%v: run test/install", err)
	}
	for keyword, value := range options {
		if !bytes.Contains(library, []byte(keyword+"\x00")) {
			t.Errorf("libpq does not know %s", keyword)
		}
		if value == "" {
			continue // needs files
		}
		for _, dsn := range []string{"host=db user=u " + keyword + "=" + Quote(value), With("postgres://u@db/", keyword, value)} {
			cfg, err := parse(t, dsn)
			if want := slices.Contains(refused, keyword); want != (err != nil) || want && !strings.Contains(err.Error(), keyword) {
				t.Errorf("%s: %v", dsn, err)
			}
			if cfg != nil {
				for name := range cfg.RuntimeParams {
					if !slices.Contains(sent, name) {
						t.Errorf("%s: the server is sent %s", dsn, name)
					}
				}
			}
		}
	}
	for keyword := range keywords {
		if _, known := options[keyword]; !known {
			t.Errorf("%s is not a keyword of libpq 18", keyword)
		}
	}
	for _, dsn := range []string{"host=db statement_timeout=5", "host=db pasword=secret", "postgres://db/x?pool_max_conns=3"} {
		if _, err := parse(t, dsn); err == nil || !strings.Contains(err.Error(), "is not a keyword") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", dsn, err)
		}
	}
}

// TestEveryVariable: libpq's are found in its own library.
func TestEveryVariable(t *testing.T) {
	library, err := os.ReadFile(filepath.Join(testenv.CacheDir(), "pg/18/lib/libpq.so.5"))
	if err != nil {
		t.Fatalf("%v: run test/install", err)
	}
	ignored := []string{"PGDATESTYLE", "PGGEQO", "PGOAUTHDEBUG"}                          // they change nothing that pgobj does
	others := []string{"PGSYSCONFDIR", "PGREQUIRESSL", "PGKRBSRVNAME", "PGSSLKEYLOGFILE"} // no keyword's, or one that pgconn knows
	found := 0
	for _, m := range regexp.MustCompile(`\x00(PG[A-Z_]{2,})\x00?`).FindAllSubmatch(library, -1) {
		name := string(m[1])
		if !regexp.MustCompile(`^PG[A-Z]+(_TIMEOUT)?$`).MatchString(name) {
			continue
		}
		found++
		ours := slices.Contains(ignored, name) || slices.Contains(others, name) || slices.Contains(slices.Collect(maps.Values(keywords)), name)
		if !ours && !pgconnKnows(t, name) {
			t.Errorf("nobody reads %s", name)
		}
	}
	if found < 30 {
		t.Errorf("found only %d variables in libpq", found)
	}
	t.Setenv("PGREQUIRESSL", "1")
	if _, err := parse(t, "host=db"); err == nil || !strings.Contains(err.Error(), "PGSSLMODE=require") {
		t.Error(err)
	}
}

// pgconnKnows says whether pgconn's documentation or behaviour has a variable: its value, which is none, changes or fails something.
func pgconnKnows(t *testing.T, name string) (knows bool) {
	t.Run(name, func(t *testing.T) {
		t.Setenv("HOME", "/nonexistent")
		before, _ := pgconn.ParseConfig("")
		t.Setenv(name, "/no/such/thing")
		after, err := pgconn.ParseConfig("")
		knows = err != nil || after.Host != before.Host || after.User != before.User || after.Password != before.Password || after.Database != before.Database ||
			len(after.RuntimeParams) != len(before.RuntimeParams) || after.SSLNegotiation != before.SSLNegotiation
		if slices.Contains([]string{"PGPASSFILE", "PGSERVICEFILE", "PGSSLCERT", "PGSSLKEY", "PGSSLROOTCERT", "PGSSLMODE", "PGSSLSNI", "PGSSLPASSWORD"}, name) {
			knows = true // read with others, or over TLS only: see ParseConfig
		}
	})
	return knows
}

func TestPrecedence(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	service := filepath.Join(home, ".pg_service.conf")
	write(t, service, "[a]\nhost=in.service\nhostaddr=10.0.0.2\nkeepalives_idle=7\nclient_encoding=UTF8\n[bad]\nhost=x\nnonsense=1\n")
	t.Setenv("PGHOSTADDR", "10.0.0.3")
	for _, c := range []struct{ dsn, host string }{
		{"host=db", "10.0.0.3"}, {"host=db hostaddr=10.0.0.1", "10.0.0.1"}, {"service=a", "10.0.0.2"}, {"service=a hostaddr=10.0.0.1", "10.0.0.1"},
		{"host=/run/x hostaddr=''", "/run/x"}, {"host=/run/x", "10.0.0.3"}, {"postgres://db?hostaddr=10.0.0.9", "10.0.0.9"}, {"", "10.0.0.3"},
	} {
		cfg, err := parse(t, c.dsn)
		if err != nil || cfg.Host != c.host || cfg.Database != "postgres" {
			t.Errorf("%q: %+v (%v), want %s", c.dsn, cfg, err, c.host)
		}
	}
	if _, err := parse(t, "service=bad"); err == nil || !strings.Contains(err.Error(), `"nonsense"`) {
		t.Error(err)
	}
	t.Setenv("PGSYSCONFDIR", t.TempDir())
	write(t, filepath.Join(os.Getenv("PGSYSCONFDIR"), "pg_service.conf"), "[everybody]\nhost=of.all\nhostaddr=10.0.0.8\n")
	if cfg, err := parse(t, "service=everybody"); err != nil || cfg.Host != "10.0.0.8" {
		t.Errorf("%+v (%v)", cfg, err)
	}
	if _, err := parse(t, "service=nobody"); err == nil {
		t.Error("a service that is nowhere is taken")
	}
}

// TestHosts: certificates are of the name, the connection goes to the address, each host to its own.
func TestHosts(t *testing.T) {
	cfg, err := parse(t, "host=a.example,b.example hostaddr=10.0.0.1,10.0.0.2 port=5433,5434 sslmode=prefer ssl_min_protocol_version=tlsv1.3")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range (&settings{Config: cfg}).all() {
		name := "plain"
		if a.TLSConfig != nil {
			name = a.TLSConfig.ServerName
			if a.TLSConfig.MinVersion != tls.VersionTLS13 {
				t.Errorf("%s: TLS from %x on", name, a.TLSConfig.MinVersion)
			}
		}
		got = append(got, a.Host+" "+name)
	}
	if want := []string{"10.0.0.1 a.example", "10.0.0.1 plain", "10.0.0.2 b.example", "10.0.0.2 plain"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	first := map[string]bool{}
	for range 200 {
		cfg, err := parse(t, "host=a,/run/x,c load_balance_hosts=random")
		if err != nil || len(cfg.Fallbacks) != 4 {
			t.Fatal(err)
		}
		first[cfg.Host] = true
	}
	if len(first) != 3 {
		t.Errorf("at random, the first is always one of %v", first)
	}
	for dsn, says := range map[string]string{
		"host=a,b hostaddr=10.0.0.1": "PGHOSTADDR", "host=a keepalives_idle=soon": "keepalives_idle", "host=a gssencmode=require": "gssencmode", "host=a gssencmode=maybe": "gssencmode",
		"host=a load_balance_hosts=some": "load_balance_hosts", "host=a ssl_min_protocol_version=SSLv3": "SSLv3", "host=a ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2": "above",
		"host=a sslcompression=2": "sslcompression", "host=a sslcrl=/x": "sslcrl", "host": "keyword/value", "postgres://a:b:c/": "",
	} {
		if cfg, err := parse(t, dsn); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %+v (%v), want an error with %q", dsn, cfg, err, says)
		}
	}
	if _, err := parse(t, "host=/run/x sslcrl=/x sslcrldir=/y"); err != nil {
		t.Errorf("on a socket there is no TLS: %v", err)
	}
}

// TestPasswordFile: lines with the directory of a socket, as libpq reads them.
func TestPasswordFile(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	write(t, filepath.Join(home, ".pgpass"), "/srv/socket:5432:postgres:u:of the socket\n/srv/socket:*:replication:u:of replication\nlocalhost:5432:*:u:of localhost\n*:*:postgres:u:of all\ndb:*:postgres:u:of db\n")
	other := filepath.Join(home, "other file")
	write(t, other, "/srv/socket:*:*:*:of the other file\n")
	for dsn, want := range map[string]string{
		"host=/srv/socket user=u": "of the socket", "postgres://u@%2Fsrv%2Fsocket": "of the socket", "host=/srv/socket user=u password=own": "own",
		"host=/srv/socket user=u dbname=x": "of localhost", "host=/tmp user=u": "of localhost", "host=/tmp user=u port=1": "of all", "host=elsewhere user=u": "of all",
		With("host=/srv/socket user=u", "dbname", "replication"): "of replication", With("postgres://u@h1:1,%2Fsrv:2/x", "dbname", "replication"): "",
		"host=/srv/socket user=u passfile=" + Quote(other): "of the other file", With("postgres://u@%2Fsrv%2Fsocket", "passfile", other): "of the other file",
	} {
		if cfg, err := parse(t, dsn); err != nil || cfg.Password != want {
			t.Errorf("%s: %+v (%v), want the password %q", dsn, cfg, err, want)
		}
	}
	t.Setenv("PGPASSFILE", other)
	if cfg, err := parse(t, "host=/srv/socket user=u"); err != nil || cfg.Password != "of the other file" {
		t.Errorf("%+v (%v)", cfg, err)
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
