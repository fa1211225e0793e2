package site

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/testenv"
)

// Offline takes a backup of the stopped server. There is no connection that it could use.
func (s *Site) Offline(t testing.TB, args ...string) BackupEntry {
	t.Helper()
	before := len(s.List(t))
	cmd := s.Command(append([]string{"backup-push", "--offline", filepath.Base(s.Data)}, args...)...)
	cmd.Env, cmd.Dir = append(cmd.Env, "PGHOST=/nowhere", "PGPORT=1"), filepath.Dir(s.Data)
	if o := Finish(t, cmd); o.Code != 0 {
		t.Fatal(o)
	}
	after := s.List(t)
	if len(after) != before+1 || after[before].From != "offline" {
		t.Fatalf("after backup-push --offline there are %+v", after)
	}
	if about := string(ReadFile(t, filepath.Join(s.Directory, "main/backups", after[before].Backup, "backup.json"))); !strings.Contains(about, `"pgdata": "`+s.Data+`"`) {
		t.Errorf("backup.json has not the data directory's whole path: %s", about)
	}
	return after[before]
}

// Cold restores without any WAL in the archive.
func (s *Site) Cold(t *testing.T, b BackupEntry, want string) {
	wal := filepath.Join(s.Directory, "main", "wal")
	Must(t, os.Rename(wal, wal+".away"))
	target := filepath.Join(testenv.Dir(t), "data")
	o := s.Must(t, "backup-fetch", target, b.Backup, "--tablespace-map-all", filepath.Join(testenv.Dir(t), "spaces"))
	if !strings.Contains(o.Out, "starts without a recovery") || strings.Contains(o.Out, "warning") {
		t.Errorf("backup-fetch: %v", o)
	}
	for _, name := range []string{"backup_label", "tablespace_map", "recovery.signal", "standby.signal", "recovery.conf"} {
		if _, err := os.Lstat(filepath.Join(target, name)); err == nil {
			t.Errorf("the restored server has %s", name)
		}
	}
	if !bytes.Equal(ReadFile(t, filepath.Join(target, "global/pg_control")), ReadFile(t, filepath.Join(s.Data, "global/pg_control"))) {
		t.Error("pg_control is not as it was")
	}
	if auto := string(ReadFile(t, filepath.Join(target, "postgresql.auto.conf"))); strings.Contains(auto, "restore_command") || !strings.Contains(auto, "archive_mode = 'off'") {
		t.Errorf("postgresql.auto.conf: %s", auto)
	}
	if s.Major == 15 {
		if o := Finish(t, s.Program(s.Bin("pg_verifybackup"), "--quiet", target)); o.Code != 0 { // with its WAL
			t.Errorf("pg_verifybackup: %v", o)
		}
	}
	c := s.Spawn(t, target)
	if got := c.SQL(t, `SELECT (SELECT n FROM unlogged), pg_is_in_recovery(), current_setting('archive_mode')`); got != "7|f|off" {
		t.Errorf("the unlogged table's row, in recovery, archive_mode: %s", got)
	}
	SameContents(t, c, "postgres", want)
	c.Exec(t, `INSERT INTO steps VALUES (2)`)
	c.Kill(t)
	c.Start(t)
	if got := Steps(t, c); got != "1 2" {
		t.Errorf("after a crash the restored server has the steps %s", got)
	}
	if s.Major == 15 {
		Sound(t, c)
		s.Must(t, "drill", b.Backup, "--scratch", testenv.Dir(t))
	}
	Must(t, os.Rename(wal+".away", wal))
}

// UnreachableCold: what has not been archived cannot be recovered to.
func (s *Site) UnreachableCold(t *testing.T, b BackupEntry) {
	s.Refuses(t, ExitUnreachable, "unreachable-target", "no WAL after", []string{b.Backup, "--target-timeline=latest"})
	s.Refuses(t, ExitUnreachable, "unreachable-target", "Without a target", []string{b.Backup, "--target-xid=70000"})
}

// Rolled lets the server go on, and recovers from the offline backup to points after it.
func (s *Site) Rolled(t *testing.T, b BackupEntry, want string) {
	s.Start(t)
	s.Exec(t, `INSERT INTO steps VALUES (10)`)
	lsn := s.SQL(t, `SELECT pg_current_wal_insert_lsn()`)
	at := Now(t, s.Cluster)
	s.Exec(t, `INSERT INTO steps VALUES (11)`)
	s.Archived(t)
	s.Must(t, "wal-verify")
	for want, args := range map[string][]string{
		"1 10 11": {"--target-timeline", "latest"},
		"1 10":    {"--target-lsn", lsn, "--target-action", "promote"},
		" 1 10":   {"--target-time", at},
	} {
		target := filepath.Join(testenv.Dir(t), "data")
		s.Must(t, append([]string{"backup-fetch", target, b.Backup, "--tablespace-map-all", filepath.Join(testenv.Dir(t), "spaces")}, args...)...)
		c := s.Spawn(t, target)
		if got := Steps(t, c); got != strings.TrimSpace(want) {
			t.Errorf("%v: it has the steps %s, there should be %s", args, got, want)
		}
		if c.SQL(t, `SELECT pg_is_in_recovery()`) == "f" {
			if got := c.SQL(t, `SELECT count(*) FROM unlogged`); got != "0" {
				t.Errorf("%v: the unlogged table has %s rows", args, got)
			}
			if s.Major == 15 {
				Sound(t, c)
			}
		}
	}
	// What is not replayed is spoken of.
	for _, args := range [][]string{nil, {"--target", "immediate", "--plan"}, {"--keep-archiving", "--target", "immediate", "--plan"}} {
		target := filepath.Join(testenv.Dir(t), "data")
		o := s.Must(t, append([]string{"backup-fetch", target, b.Backup, "--tablespace-map-all", filepath.Join(testenv.Dir(t), "spaces")}, args...)...)
		if !strings.Contains(o.Out, "later WAL") || strings.Contains(o.Out, "it pauses there") ||
			strings.Contains(o.Out, "will refuse them") != (args != nil && args[0] == "--keep-archiving") {
			t.Errorf("backup-fetch %v: %v", args, o)
		}
		if args == nil {
			SameContents(t, s.Spawn(t, target), "postgres", want)
		}
	}
	// What takes the original's place goes on from where that was.
	if o := s.Must(t, "backup-fetch", filepath.Join(testenv.Dir(t), "data"), b.Backup, "--tablespace-map-all", filepath.Join(testenv.Dir(t), "spaces"), "--keep-archiving", "--plan"); !strings.Contains(o.Out, "end of the WAL") || !strings.Contains(o.Out, "restore_command") {
		t.Errorf("backup-fetch --keep-archiving: %v", o)
	}
	standby := &Site{Store: s.Store, Pgobj: s.Pgobj, Cluster: s.StartArchiving(t, s.Fetch(t, b.Backup, "--tablespace-map-all", filepath.Join(testenv.Dir(t), "spaces"),
		"--standby", "--primary-conninfo", fmt.Sprintf("host=%s port=%d user=postgres", s.SocketDir, s.Port)))}
	s.Exec(t, `INSERT INTO steps VALUES (12)`)
	standby.Eventually(t, `SELECT string_agg(n::text, ' ' ORDER BY n) FROM steps`, "1 10 11 12")
	standby.Stop(t, "immediate")
	if got := s.Backup(t); got.From != "primary" || got.Stored > 1_500_000 {
		t.Errorf("the running server's backup after that of the stopped one: %+v", got)
	}
	if n := strings.Count(string(s.log(t)), `"type":"server"`); n != 1 {
		t.Errorf("the catalog knows %d incarnations", n)
	}
}

// log is all records of the catalog.
func (s *Site) log(t testing.TB) (all []byte) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.Directory, "main/catalog/log/*.json"))
	Must(t, err)
	for _, name := range names {
		all = append(all, ReadFile(t, name)...)
	}
	return all
}
