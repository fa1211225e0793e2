package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/app"
)

// TestDeleteCounts: what deletions say of one thing, of none and of several is English.
func TestDeleteCounts(t *testing.T) {
	w := newWorld(t)
	w.add("db1", catalog.Record{Type: "server", Server: &catalog.Server{SystemID: sysid, PGVersion: 150004, SegmentSize: walSize}})
	first := w.backup("db1", "20261116T010000Z-0001", 1, 1, nil, nil)
	w.backup("db1", "20261116T030000Z-0002", 1, 3, first[:1], nil)
	w.backup("db1", "20261116T040000Z-0003", 1, 4, nil, nil)
	w.backup("db1", "20261116T050000Z-0004", 1, 5, nil, nil)
	failed := func(id string) {
		w.add("db1", catalog.Record{Type: "begin", Begin: &catalog.Begin{Backup: id, SystemID: sysid, Timeline: 1}})
		w.add("db1", catalog.Record{Type: "abort", Abort: &catalog.Abort{Backup: id, Reason: "it was killed"}})
		w.put("db1", "parts/"+id+"/00001.tar.zst", 10)
	}
	w.wal("db1", 1, 1, 2) // at 1:00 and 2:00
	w.now = time.Date(2026, 11, 17, 8, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name string
		make func()
		args []string
		says []string
	}{
		{"one backup, of whose two parts another needs one", nil, []string{"target", "oldest"}, []string{"\n1 backup and 1 part go; "}},
		{"one newer file of the WAL, and one older", nil, []string{"target", "oldest", "--hold=30h30m"}, []string{"(--hold keeps 1 newer file for now)\n"}},
		{"its objects", nil, []string{"target", "oldest", "--confirm"}, []string{"\n1 backup and 1 part go; ", "\ndone: 5 objects removed\n"}},
		{"one object", func() { w.wal("db1", 1, 2, 2) }, []string{"garbage", "--confirm"}, []string{"\n0 backups and 0 parts go; ", "\ndone: 1 object removed\n"}},
		{"one part of a run that failed", func() { failed("20261116T060000Z-0005") }, []string{"garbage"}, []string{"\n0 backups and 1 part go; "}},
		{"several", nil, []string{"retain", "1", "--confirm"}, []string{"\n2 backups and 5 parts go; ", "\ndone: 9 objects removed\n"}},
	} {
		if c.make != nil {
			c.make()
		}
		got := w.pgobj(append([]string{"delete"}, c.args...)...)
		for _, text := range c.says {
			if !strings.Contains(got, text) {
				t.Errorf("%s: it does not say %q:\n%s", c.name, text, got)
			}
		}
	}
	log := w.pgobj("catalog-log")
	for _, text := range []string{"deleted: backup 20261116T010000Z-0001; 1 part of 20261116T010000Z-0001", "deleted: backups 20261116T030000Z-0002, 20261116T040000Z-0003; 5 parts of "} {
		if !strings.Contains(log, text) {
			t.Errorf("the log does not say %q:\n%s", text, log)
		}
	}
}

// TestDeleteTellsWhatIsWrong: the plan says why the newest backup does not count, and whose drill failed.
func TestDeleteTellsWhatIsWrong(t *testing.T) {
	w := newWorld(t)
	w.add("db1", catalog.Record{Type: "server", Server: &catalog.Server{SystemID: sysid, PGVersion: 150004, SegmentSize: walSize}})
	w.backup("db1", "20261116T010000Z-0001", 1, 1, nil, nil)
	w.backup("db1", "20261116T030000Z-0002", 1, 3, nil, nil)
	newest := w.backup("db1", "20261116T040000Z-0003", 1, 4, nil, nil)
	w.add("db1", catalog.Record{Type: "drill", Drill: &catalog.Drill{Backup: "20261116T030000Z-0002", Started: w.now, Reason: "it did not start"}})
	w.must(w.root.Delete(t.Context(), "db1/"+part.Key(newest[1].Name)))
	w.now = time.Date(2026, 11, 17, 8, 0, 0, 0, time.UTC)
	got := w.pgobj("delete", "retain", "1")
	for _, text := range []string{
		"20261116T010000Z-0001          GOES ", "\n1 backup and 2 parts go; ",
		"can be reached; DRILL FAILED 2026-11-16\n",
		"parts/20261116T040000Z-0003/00002.tar.zst is missing",
	} {
		if !strings.Contains(got, text) {
			t.Errorf("it does not say %q:\n%s", text, got)
		}
	}
}

// TestDeleteBeforeTheFuture: a year that is one too high must not leave one backup of all.
func TestDeleteBeforeTheFuture(t *testing.T) {
	w := newWorld(t)
	w.add("db1", catalog.Record{Type: "server", Server: &catalog.Server{SystemID: sysid, PGVersion: 150004, SegmentSize: walSize}})
	w.backup("db1", "20261116T010000Z-0001", 1, 1, nil, nil)
	w.backup("db1", "20261116T030000Z-0002", 1, 3, nil, nil)
	w.now = time.Date(2026, 11, 17, 8, 0, 0, 0, time.UTC)
	if f := w.fails(app.ExitUsage, "usage", "delete", "before", "2026-11-17 08:00:01Z", "--confirm"); !strings.Contains(f.Text, "2026-11-17 08:00:00Z") {
		t.Errorf("before a time in the future: %+v", f)
	}
	if got := w.pgobj("delete", "before", "2026-11-17 08:00:00Z"); !strings.Contains(got, "\n1 backup and 2 parts go; ") {
		t.Errorf("before now: %s", got)
	}
}

// TestDeleteOfNoServer: who mistypes the name of a server in a cron job has to hear of it.
func TestDeleteOfNoServer(t *testing.T) {
	w := newWorld(t)
	w.wal("new", 1, 1, 2) // it archives, and has no backup yet
	w.add("gone", catalog.Record{Type: "server", Server: &catalog.Server{SystemID: sysid, PGVersion: 150004, SegmentSize: walSize}})
	w.put("mia", "notes.txt", 5)
	for _, c := range []struct{ server, command, says string }{
		{"mian", "policy --retention=redundancy=3 --confirm", "exit code 6\n"},
		{"mian", "garbage --json", "exit code 6\n"},
		{"mia", "retain 3 --confirm", "exit code 6\n"},
		{"mian", "everything mian --confirm", "exit code 6\n"},
		{"new", "policy --retention=redundancy=3 --confirm", "done: 0 objects removed\n"},
		{"gone", "policy --retention=redundancy=3 --confirm", "done: 0 objects removed\n"},
		{"new", "everything new --confirm", "done: 2 objects removed\n"},
		{"new", "everything new --confirm", "done: 0 objects removed\n"},
	} {
		if got := w.pgobj(append([]string{"--server=" + c.server, "delete"}, strings.Fields(c.command)...)...); !strings.HasSuffix(got, c.says) {
			t.Errorf("%s: %s: want %s, got\n%s", c.server, c.command, c.says, got)
		}
	}
	if got := w.pgobj("server-list"); strings.Contains(got, "mia") || !strings.Contains(got, "\nnew ") {
		t.Errorf("a name that was mistyped is one of a server now:\n%s", got)
	}
}

// TestServerListOfNoServer: those that there are are shown, and that one is not is no success.
func TestServerListOfNoServer(t *testing.T) {
	w := newWorld(t)
	w.wal("new", 1, 1, 2)
	for _, args := range [][]string{{"new", "mian", "db9"}, {"new", "mian", "db9", "--json"}} {
		got := w.pgobj(append([]string{"server-list"}, args...)...)
		if !strings.HasSuffix(got, "\nexit code 6\n") || !strings.Contains(got, "of server mian, db9\n") || strings.Count(got, "new") != 1 {
			t.Errorf("%q: %s", args, got)
		}
	}
	if got := w.pgobj("server-list", "new"); strings.Contains(got, "exit code") || !strings.Contains(got, "it has no catalog") {
		t.Errorf("one without a catalog: %s", got)
	}
}

// TestNothingGoes: a plan that deletes nothing says of nothing that it goes.
func TestNothingGoes(t *testing.T) {
	w := newWorld(t)
	w.add("db1", catalog.Record{Type: "server", Server: &catalog.Server{SystemID: sysid, PGVersion: 150004, SegmentSize: walSize}})
	w.wal("db1", 1, 1, 6)
	w.backup("db1", "20261116T050000Z-0001", 1, 5, nil, nil)
	for args, nothing := range map[string]bool{"delete garbage --hold=99999h": true, "delete retain 1 --hold=99999h": true, "delete garbage": false} {
		got := w.pgobj(strings.Fields(args)...)
		if strings.Contains(got, "There is nothing to delete.") != nothing || strings.Contains(got, "GOES") == nothing || nothing && !strings.Contains(got, "(--hold keeps 4 newer files for now)") {
			t.Errorf("%s:\n%s", args, got)
		}
	}
}
