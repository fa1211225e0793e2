package site

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
)

// RecoverySettings checks what tells the server to recover.
func (s *Site) RecoverySettings(t testing.TB, dir string, want ...string) {
	t.Helper()
	file, absent := "postgresql.auto.conf", "recovery.conf"
	if s.Major < 12 {
		file, absent = "recovery.conf", "recovery.signal"
	} else if _, err := os.Stat(filepath.Join(dir, "recovery.signal")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, absent)); err == nil {
		t.Errorf("PostgreSQL %d does not start with %s", s.Major, absent)
	}
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	for _, setting := range append(want, "restore_command", "recovery_target_timeline = 'latest'") {
		if !strings.Contains(string(text), setting) {
			t.Errorf("%s lacks %s:\n%s", file, setting, text)
		}
	}
	if s.Secret != "" && strings.Contains(string(text), s.Secret) {
		t.Errorf("%s holds the secret key:\n%s", file, text)
	}
}

func (s *Site) Transactions(t testing.TB) (n int) {
	t.Helper()
	if _, err := fmt.Sscan(s.SQL(t, `SELECT count(*) FROM pgbench_history`), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// PgbenchInvariants: each transaction adds one amount to an account, a teller, a branch and the history.
func (s *Site) PgbenchInvariants(t testing.TB, c *pgtest.Cluster) {
	t.Helper()
	sums := c.SQL(t, `SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
		(SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history)`)
	parts := strings.Split(sums, "|")
	for _, p := range parts {
		if p == "" || p != parts[0] {
			t.Errorf("pgbench's sums differ: accounts, tellers, branches, history: %s", sums)
			break
		}
	}
}
