package site

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

// PushWhile takes a backup, and does something between its start and its first look at a file.
func (s *Site) PushWhile(t testing.TB, primary *Site, do func()) Outcome {
	t.Helper()
	primary.Exec(t, `DROP TABLE IF EXISTS much`)
	primary.Exec(t, `CREATE TABLE much AS SELECT i, repeat('x', 1000) FROM generate_series(1, 3000) i`) // for a checkpoint that takes its time
	if s != primary {
		CaughtUp(t, primary.Cluster, s.Cluster)
	}
	args := []string{"--log-format=json", "backup-push", "--wal-timeout=2m", "--checkpoint=spread"}
	if s != primary {
		args = append(args, "--primary-dsn", primary.DSN("postgres"))
	}
	cmd := s.Command(args...)
	pushed := make(chan Outcome, 1)
	started := make(chan struct{})
	go func() { pushed <- ExecuteWithin(t, Generous, cmd, func(*os.Process) { close(started) }) }()
	<-started
	const starting = `SELECT count(*) FROM pg_stat_activity WHERE query ~ '(backup_start|start_backup)' AND pid <> pg_backend_pid() AND state = `
	s.Eventually(t, starting+`'active'`, "1")
	Must(t, cmd.Process.Signal(syscall.SIGSTOP))
	defer func() { _ = cmd.Process.Signal(syscall.SIGCONT) }()
	s.Exec(t, `CHECKPOINT`)
	s.Eventually(t, starting+`'idle'`, "1")
	do()
	Must(t, cmd.Process.Signal(syscall.SIGCONT))
	return <-pushed
}

// InOld goes before what is done in the database old.
const InOld = "in old: "

// Statements executes them.
func (s *Site) Statements(t testing.TB, all []string) {
	t.Helper()
	for _, q := range all {
		if q, ok := strings.CutPrefix(q, InOld); ok {
			s.SQLIn(t, "old", q)
			continue
		}
		s.Exec(t, q)
	}
}
