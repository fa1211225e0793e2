package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestFullDevice: no command ends well whose result could not be written, and none ends worse than it would have otherwise.
func TestFullDevice(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Template: true, Conf: []string{"max_wal_senders = 4"}})
	first := s.Backup(t)
	s.Exec(t, `CREATE TABLE more AS SELECT 1 AS i`)
	s.Backup(t)
	s.Archived(t)
	dir := testenv.Dir(t)
	copied, scratch := filepath.Join(dir, "copy"), filepath.Join(dir, "scratch")
	site.Must(t, os.Mkdir(scratch, 0o700))
	site.Must(t, testenv.ChownPostgres(scratch))
	checked := s.Fetch(t)
	tried := map[string]bool{"wal-push": true, "wal-fetch": true} // with their own lines below
	// Each is tried as text and as JSON where it has both; the code is that of a run whose output is read.
	for _, c := range []struct {
		line string
		code int
		json bool
	}{
		{"backup-list", 0, true}, {"backup-show latest", 0, true}, {"backup-files latest", 0, true}, {"backup-files latest -0", 0, false},
		{"backup-cat latest PG_VERSION", 0, false}, {"backup-verify", 0, true}, {"server-list", 0, true}, {"catalog-log", 0, true},
		{"wal-list", 0, true}, {"wal-verify", 0, true}, {"pitr-windows", 0, true}, {"version", 0, false}, {"config", 0, true}, {"backup-list --server=all", 0, true}, {"--help", 0, false}, {"drill --help", 0, false},
		{"backup-fetch --plan " + copied, 0, false}, {"restore-check " + checked, site.ExitNotReached, true}, {"catalog-rebuild", 0, true},
		{"delete before latest", 0, true}, {"delete retain 1", 0, true}, {"delete target " + first.Backup, 0, true}, {"delete oldest", 0, true},
		{"delete garbage", 0, true}, {"delete policy --retention=REDUNDANCY_1", 0, true}, {"delete everything main", 0, true},
		{"wal-push --all " + s.Data, 0, false}, {"wal-fetch --range " + first.FirstWAL + ".." + first.FirstWAL + " " + dir, 0, false},
	} {
		args := strings.Fields(c.line)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "_1", " 1")
		}
		tried[args[0]], tried[strings.Join(args[:min(2, len(args))], " ")] = true, true
		s.Lost(t, c.code, args)
		if c.json {
			s.Lost(t, c.code, append(args, "--json"))
		}
	}
	// What changes something has done it, and says so.
	for _, line := range []string{"backup-mark oldest --pin", "backup-mark oldest --unpin", "backup-push", "backup-push --json", "backup-fetch " + copied,
		"drill --no-record --json --scratch " + scratch, "delete oldest --confirm", "delete oldest --confirm --json"} {
		args := strings.Fields(line)
		tried[args[0]] = true
		if code, says := s.ToFull(t, args...); code != 1 || !strings.Contains(says, "ERROR:  the result ") {
			t.Errorf("%s: exit code %d\n%s", line, code, says)
		}
	}
	if list := s.List(t); len(list) != 2 {
		t.Errorf("two backups were taken and two deleted, and there are %+v", list)
	}
	s.ReceiverLost(t)
	tried["wal-receive"] = true
	for _, name := range s.CommandNames(t) {
		if !tried[name] {
			t.Errorf("%s was not tried", name)
		}
	}
}

// A reader who has gone is no full device, and has not got the result either; but who looks at the help has seen enough.
func TestReaderWhoHasGone(t *testing.T) {
	s := &site.Site{Pgobj: testenv.Pgobj(t), Store: site.DirectoryStore(t)}
	for line, want := range map[string]int{"version": 1, "server-list --json": 1, "--help": 0, "drill --help": 0} {
		r, w, err := os.Pipe()
		site.Must(t, err)
		site.Must(t, r.Close())
		cmd := s.Command(strings.Fields(line)...)
		cmd.Stdout = w
		site.Must(t, cmd.Start())
		_ = cmd.Wait() // its exit code is looked at
		if code := cmd.ProcessState.ExitCode(); code != want {
			t.Errorf("%s: exit code %d, want %d", line, code, want)
		}
		w.Close()
	}
}
