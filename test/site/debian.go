package site

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/testenv"
)

// Shell runs a line as the user postgres has it from a document or a message. A server that it starts keeps no pipe of ours open.
func (s *Site) Shell(t testing.TB, line string) string {
	t.Helper()
	log := filepath.Join(testenv.Dir(t), "log")
	cmd := s.Program("bash", "-ec", `pgobj() { "`+s.Pgobj+`" "$@"; }; { `+line+"\n} >"+log+" 2>&1")
	o := Finish(t, cmd)
	said := string(ReadFile(t, log))
	if o.Code != 0 {
		t.Fatalf("%s\nends with %d: %s", line, o.Code, said)
	}
	return said
}

func (s *Site) QueryCopy(t testing.TB, sql string) string {
	t.Helper()
	o := Finish(t, s.Program("psql", "-XqAt", "-d", "postgres", "-c", sql))
	if o.Code != 0 {
		t.Fatalf("%s: %v", sql, o)
	}
	return strings.TrimSpace(o.Out)
}

// Opened waits until the server that was started has left its recovery, and says what rows it has, and where.
func (s *Site) Opened(t testing.TB) string {
	t.Helper()
	testenv.Eventually(t, Generous, "the server is open", func() bool {
		o := Finish(t, s.Program("psql", "-XqAt", "-d", "postgres", "-c", "SELECT pg_is_in_recovery()"))
		return strings.TrimSpace(o.Out) == "f"
	})
	return s.QueryCopy(t, `SELECT string_agg(n::text, ' ' ORDER BY n) || ' in ' || current_setting('data_directory') || ' with ' || current_setting('work_mem') FROM steps`)
}
