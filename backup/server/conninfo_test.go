package server

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
)

// TestConnectionStrings: what libpq takes, a real server is connected to with, and what must not be connected to is not.
func TestConnectionStrings(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{TCP: true, Template: true})
	c.Exec(t, `CREATE ROLE nobase SUPERUSER LOGIN; CREATE ROLE secret SUPERUSER LOGIN PASSWORD 'pw'`)
	hba := filepath.Join(c.Data, "pg_hba.conf")
	rules, err := os.ReadFile(hba)
	if err == nil {
		err = os.WriteFile(hba, append([]byte("local all secret scram-sha-256\nhost all secret all scram-sha-256\nhost all all 127.0.0.1/32 trust\n"), rules...), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.Exec(t, `SELECT pg_reload_conf()`)
	home := t.TempDir()
	t.Setenv("HOME", home)
	line := fmt.Sprintf("%s:%d:postgres:secret:pw\nno.such.host:%d:postgres:secret:pw\n", c.SocketDir, c.Port, c.Port)
	if err := os.WriteFile(filepath.Join(home, ".pgpass"), []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := fmt.Sprintf("host=%s port=%d ", c.SocketDir, c.Port)
	tcp := fmt.Sprintf("host=127.0.0.1 port=%d sslmode=disable ", c.Port)
	owner := "postgres"
	if u, err := user.Current(); err == nil && u.Uid != "0" {
		owner = u.Username
	}
	for dsn, works := range map[string]bool{
		socket + "user=nobase": true, // and there is no database of that name
		tcp + "user=nobase":    true,
		fmt.Sprintf("postgres://nobase@127.0.0.1:%d?sslmode=disable&keepalives_idle=5", c.Port):                                                            true,
		tcp + "user=nobase keepalives=1 keepalives_idle=5 keepalives_interval=5 keepalives_count=3 tcp_user_timeout=20000":                                 true,
		tcp + "user=nobase keepalives=0 connect_timeout=20 gssencmode=disable sslcrl=/x load_balance_hosts=random fallback_application_name=x":             true,
		socket + "user=nobase sslmode=require sslcrl=/x client_encoding=auto replication=0 options='-c geqo=off'":                                          true,
		fmt.Sprintf("host=no.such.host hostaddr=127.0.0.1 port=%d user=secret sslmode=disable", c.Port):                                                    true, // its line of .pgpass
		fmt.Sprintf("host=%s hostaddr=127.0.0.1 port=%d user=nobase", c.SocketDir, c.Port):                                                                 true,
		fmt.Sprintf("host=127.0.0.1,127.0.0.1 hostaddr=127.0.0.2,127.0.0.1 port=1,%d user=nobase sslmode=disable target_session_attrs=read-write", c.Port): true,
		socket + "user=secret":                      true,
		socket + "user=secret dbname=template1":     false,
		socket + "user=secret requirepeer=" + owner: true,
		socket + "user=nobase requirepeer=daemon":   false,
		socket + "user=nobase statement_timeout=5":  false,
		fmt.Sprintf("host=127.0.0.1 hostaddr=127.0.0.1 port=%d user=nobase sslmode=require", c.Port): false,
	} {
		s, err := Connect(t.Context(), dsn)
		if (err == nil) != works {
			t.Errorf("%s: %v", dsn, err)
		}
		if err == nil {
			s.Close(t.Context())
		}
	}
}
