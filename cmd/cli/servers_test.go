package cli

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestMistypedServer: of a server's name that is not there, and of a prefix, every command that only reads says so with exit
// code 6, in text and JSON: a monitor with a slip of the pen does not stay green.
func TestMistypedServer(t *testing.T) {
	w := newWorld(t)
	w.story()
	first := "000000010000000000000005"
	// What the commands need besides; those that are not here are tried as they are.
	more := map[string][]string{
		"wal-fetch": {"--range=" + first + ".." + first}, "delete policy": {"--retention=REDUNDANCY 1"}, "backup-mark": {"--pin"}, "drill": {"--scratch=" + t.TempDir()},
	}
	// Those that make the server, or do not ask for it; wal-fetch with two names answers PostgreSQL, which has rules of its own.
	others := []string{"wal-push", "wal-receive", "backup-push", "wal-prefetch", "wal-push-ahead", "version", "restore-check", "config"}
	prefix := "--storage=file://" + filepath.Join(w.dir, "db1")
	for _, l := range leaves(t) {
		name := strings.Join(l.words, " ")
		if slices.Contains(others, name) {
			continue
		}
		for _, typo := range []string{"--server=typo", prefix} {
			server := "db1"
			if typo == "--server=typo" {
				server = "typo"
			}
			args := l.line(append(more[name], typo)...)
			if name == "server-list" {
				args = append(args, "typo")
			}
			if name == "delete everything" {
				args[len(args)-1] = server
			}
			lines := [][]string{args}
			if slices.ContainsFunc(slices.Concat(l.AllFlags(false)...), isJSON) {
				lines = append(lines, append(slices.Clone(args), "--json"))
			}
			for _, line := range lines {
				if got := w.pgobj(line...); !strings.HasSuffix(got, "\nexit code 6\n") {
					t.Errorf("%q:\n%s", line, got)
				}
			}
		}
	}
}

// TestServerNames: no command takes a name that lies within another server's directory, or leads elsewhere.
func TestServerNames(t *testing.T) {
	w := newWorld(t)
	w.story()
	for _, l := range leaves(t) {
		name := strings.Join(l.words, " ")
		if name == "version" || name == "server-list" {
			continue
		}
		for _, server := range []string{"db1/sub", "..", "a\x1bb"} {
			if got := w.pgobj(l.line("--server=" + server)...); strings.HasSuffix(got, "exit code 0\n") || !strings.Contains(got, "exit code") {
				t.Errorf("%s --server=%q:\n%s", name, server, got)
			}
		}
	}
	for _, server := range []string{"db1/sub", "team/nested", ".", "..", "a\x1bb"} {
		w.refused("--server (PGOBJ_SERVER)", "backup-list", "--server="+server)
		w.refused("server ", "server-list", server)
	}
	w.wal("team/nested", 1, 1, 1) // of a storage that begins deeper
	if got := w.pgobj("server-list"); strings.Contains(got, "team") {
		t.Errorf("it lists what no command takes:\n%s", got)
	}
}
