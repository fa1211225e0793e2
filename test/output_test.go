package test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// commandNames are the commands of pgobj, as its help lists them; of delete its kinds.
func (s *site) commandNames(t testing.TB) (names []string) {
	t.Helper()
	line := regexp.MustCompile(`(?m)^  ([a-z][a-z-]+)( [a-z-]+)?`)
	help := func(args ...string) [][]string {
		_, list, _ := strings.Cut(s.must(t, append(args, "--help")...).out, "\nCommands:\n")
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

// toFull runs a command whose standard output is a full device, and returns its exit code and messages.
func (s *site) toFull(t testing.TB, args ...string) (int, string) {
	t.Helper()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	must(t, err)
	defer full.Close()
	cmd := s.command(args...)
	var messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = full, &messages
	must(t, cmd.Start())
	_ = cmd.Wait() // its exit code is looked at
	return cmd.ProcessState.ExitCode(), messages.String()
}

// TestFullDevice: no command ends well whose result could not be written, and none ends worse than it would have otherwise.
func TestFullDevice(t *testing.T) {
	s := newSite(t, folderStore(t), pgtest.Options{Template: true, Conf: []string{"max_wal_senders = 4"}})
	first := s.backup(t)
	s.Exec(t, `CREATE TABLE more AS SELECT 1 AS i`)
	s.backup(t)
	s.archived(t)
	dir := testenv.Dir(t)
	copied, scratch := filepath.Join(dir, "copy"), filepath.Join(dir, "scratch")
	must(t, os.Mkdir(scratch, 0o700))
	must(t, testenv.ChownPostgres(scratch))
	checked := s.fetch(t)
	tried := map[string]bool{"wal-push": true, "wal-fetch": true} // with their own lines below
	// Each is tried as text and as JSON where it has both; the code is that of a run whose output is read.
	for _, c := range []struct {
		line string
		code int
		json bool
	}{
		{"backup-list", 0, true}, {"backup-show latest", 0, true}, {"backup-files latest", 0, true}, {"backup-files latest -0", 0, false},
		{"backup-cat latest PG_VERSION", 0, false}, {"backup-verify", 0, true}, {"server-list", 0, true}, {"catalog-log", 0, true},
		{"wal-list", 0, true}, {"wal-verify", 0, true}, {"pitr-windows", 0, true}, {"version", 0, false}, {"--help", 0, false}, {"drill --help", 0, false},
		{"backup-fetch --plan " + copied, 0, false}, {"restore-check " + checked, exitNotReached, true}, {"catalog-rebuild", 0, true},
		{"delete before latest", 0, true}, {"delete retain 1", 0, true}, {"delete target " + first.Backup, 0, true}, {"delete oldest", 0, true},
		{"delete garbage", 0, true}, {"delete policy --retention=REDUNDANCY_1", 0, true}, {"delete everything main", 0, true},
		{"wal-push --all " + s.Data, 0, false}, {"wal-fetch --range " + first.FirstWAL + ".." + first.FirstWAL + " " + dir, 0, false},
	} {
		args := strings.Fields(c.line)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "_1", " 1")
		}
		tried[args[0]], tried[strings.Join(args[:min(2, len(args))], " ")] = true, true
		s.lost(t, c.code, args)
		if c.json {
			s.lost(t, c.code, append(args, "--json"))
		}
	}
	// What changes something has done it, and says so.
	for _, line := range []string{"backup-mark oldest --pin", "backup-mark oldest --unpin", "backup-push", "backup-push --json", "backup-fetch " + copied,
		"drill --no-record --json --scratch " + scratch, "delete oldest --confirm", "delete oldest --confirm --json"} {
		args := strings.Fields(line)
		tried[args[0]] = true
		if code, says := s.toFull(t, args...); code != 1 || !strings.Contains(says, "ERROR:  the result could not be written") {
			t.Errorf("%s: exit code %d\n%s", line, code, says)
		}
	}
	if list := s.list(t); len(list) != 2 {
		t.Errorf("two backups were taken and two deleted, and there are %+v", list)
	}
	s.receiverLost(t)
	tried["wal-receive"] = true
	for _, name := range s.commandNames(t) {
		if !tried[name] {
			t.Errorf("%s was not tried", name)
		}
	}
}

// lost runs a command twice: with an output that is read, and with a full one.
func (s *site) lost(t testing.TB, code int, args []string) {
	t.Helper()
	if o := finish(t, s.command(args...)); o.code != code || o.out == "" {
		t.Errorf("%v: %v, want exit code %d", args, o, code)
	}
	code = max(code, 1)
	if got, says := s.toFull(t, args...); got != code || !strings.Contains(says, "ERROR:  ") {
		t.Errorf("%v, to a full device: exit code %d, want %d\n%s", args, got, code, says)
	}
}

// receiverLost ends a wal-receive that has nowhere to say how far it came.
func (s *site) receiverLost(t testing.TB) {
	t.Helper()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	must(t, err)
	defer full.Close()
	cmd := s.command("wal-receive")
	cmd.Stdout = full
	must(t, cmd.Start())
	s.Eventually(t, `SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'`, "1")
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() == 0 {
		t.Error("wal-receive ends well, although nobody reads what it has to say")
	}
}

// A reader who has gone is no full device, and has not got the result either; but who looks at the help has seen enough.
func TestReaderWhoHasGone(t *testing.T) {
	s := &site{pgobj: testenv.Pgobj(t), store: folderStore(t)}
	for line, want := range map[string]int{"version": 1, "server-list --json": 1, "--help": 0, "drill --help": 0} {
		r, w, err := os.Pipe()
		must(t, err)
		must(t, r.Close())
		cmd := s.command(strings.Fields(line)...)
		cmd.Stdout = w
		must(t, cmd.Start())
		_ = cmd.Wait() // its exit code is looked at
		if code := cmd.ProcessState.ExitCode(); code != want {
			t.Errorf("%s: exit code %d, want %d", line, code, want)
		}
		w.Close()
	}
}
