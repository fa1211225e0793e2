package site

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// CommandNames are the commands of pgobj, as its help lists them; of delete its kinds.
func (s *Site) CommandNames(t testing.TB) (names []string) {
	t.Helper()
	line := regexp.MustCompile(`(?m)^  ([a-z][a-z-]+)( [a-z-]+)?`)
	help := func(args ...string) [][]string {
		_, list, _ := strings.Cut(s.Must(t, append(args, "--help")...).Out, "\nCommands:\n")
		return line.FindAllStringSubmatch(list, -1)
	}
	for _, m := range help() {
		names = append(names, strings.TrimSpace(m[1]+m[2]))
	}
	if len(names) < 25 {
		t.Fatalf("the help lists %v only", names)
	}
	return names
}

// ToFull runs a command whose standard output is a full device, and returns its exit code and messages.
func (s *Site) ToFull(t testing.TB, args ...string) (int, string) {
	t.Helper()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	Must(t, err)
	defer full.Close()
	cmd := s.Command(args...)
	var messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = full, &messages
	Must(t, cmd.Start())
	_ = cmd.Wait() // its exit code is looked at
	return cmd.ProcessState.ExitCode(), messages.String()
}

// Lost runs a command twice: with an output that is read, and with a full one.
func (s *Site) Lost(t testing.TB, code int, args []string) {
	t.Helper()
	if o := Finish(t, s.Command(args...)); o.Code != code || o.Out == "" {
		t.Errorf("%v: %v, want exit code %d", args, o, code)
	}
	code = max(code, 1)
	if got, says := s.ToFull(t, args...); got != code || !strings.Contains(says, "ERROR:  ") {
		t.Errorf("%v, to a full device: exit code %d, want %d\n%s", args, got, code, says)
	}
}

// ReceiverLost ends a wal-receive that has nowhere to say how far it came.
func (s *Site) ReceiverLost(t testing.TB) {
	t.Helper()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	Must(t, err)
	defer full.Close()
	cmd := s.Command("wal-receive")
	cmd.Stdout = full
	Must(t, cmd.Start())
	s.Eventually(t, `SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'`, "1")
	Must(t, cmd.Process.Signal(syscall.SIGTERM))
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() == 0 {
		t.Error("wal-receive ends well, although nobody reads what it has to say")
	}
}
