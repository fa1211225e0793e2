package test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// offline takes a backup of the stopped server. There is no connection that it could use.
func (s *site) offline(t testing.TB, args ...string) backupEntry {
	t.Helper()
	before := len(s.list(t))
	cmd := s.command(append([]string{"backup-push", "--offline", filepath.Base(s.Data)}, args...)...)
	cmd.Env, cmd.Dir = append(cmd.Env, "PGHOST=/nowhere", "PGPORT=1"), filepath.Dir(s.Data)
	if o := finish(t, cmd); o.code != 0 {
		t.Fatal(o)
	}
	after := s.list(t)
	if len(after) != before+1 || after[before].From != "offline" {
		t.Fatalf("after backup-push --offline there are %+v", after)
	}
	if about := string(readFile(t, filepath.Join(s.folder, "main/backups", after[before].Backup, "backup.json"))); !strings.Contains(about, `"pgdata": "`+s.Data+`"`) {
		t.Errorf("backup.json has not the data directory's whole path: %s", about)
	}
	return after[before]
}

// TestOfflineBackup: the backup of a stopped server starts as it was, with nothing but itself, and goes on along
// the archive when that is asked for.
func TestOfflineBackup(t *testing.T) {
	majors := []int{10, 15, 18}
	if torture() {
		majors = []int{10, 11, 12, 13, 14, 15, 16, 17, 18}
	}
	for _, major := range majors {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			space := testenv.Dir(t)
			s := newSite(t, folderStore(t), pgtest.Options{Major: major, Template: true, Checksums: true})
			s.Exec(t, `CREATE TABLESPACE elsewhere LOCATION '`+space+`'`)
			s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1); CREATE TABLE apart TABLESPACE elsewhere AS SELECT i, md5(i::text) FROM generate_series(1, 5000) i;
				CREATE UNLOGGED TABLE unlogged (n int PRIMARY KEY); INSERT INTO unlogged VALUES (7)`)
			s.backup(t)
			want := contents(t, s.Cluster, "postgres")
			s.Stop(t, "fast")
			before := survey(t, s.Data)
			b := s.offline(t)
			for path, x := range survey(t, s.Data) {
				if before[path] != x {
					t.Errorf("backup-push --offline has changed %s from %v to %v", path, before[path], x)
				}
			}
			if again := s.offline(t, "--compression=lz4"); again.Stored > 200_000 || again.StartLSN != b.StartLSN || again.Consistent != b.Consistent {
				t.Errorf("the same again: %+v after %+v", again, b)
			}
			s.unreachableCold(t, b)
			s.cold(t, b, want)
			s.rolled(t, b, want)
		})
	}
}

// cold restores without any WAL in the archive.
func (s *site) cold(t *testing.T, b backupEntry, want string) {
	wal := filepath.Join(s.folder, "main", "wal")
	must(t, os.Rename(wal, wal+".away"))
	target := filepath.Join(testenv.Dir(t), "data")
	o := s.must(t, "backup-fetch", target, b.Backup, "--tablespace-map-all", filepath.Join(testenv.Dir(t), "spaces"))
	if !strings.Contains(o.out, "starts without a recovery") || strings.Contains(o.out, "warning") {
		t.Errorf("backup-fetch: %v", o)
	}
	for _, name := range []string{"backup_label", "tablespace_map", "recovery.signal", "standby.signal", "recovery.conf"} {
		if _, err := os.Lstat(filepath.Join(target, name)); err == nil {
			t.Errorf("the restored server has %s", name)
		}
	}
	if !bytes.Equal(readFile(t, filepath.Join(target, "global/pg_control")), readFile(t, filepath.Join(s.Data, "global/pg_control"))) {
		t.Error("pg_control is not as it was")
	}
	if auto := string(readFile(t, filepath.Join(target, "postgresql.auto.conf"))); strings.Contains(auto, "restore_command") || !strings.Contains(auto, "archive_mode = 'off'") {
		t.Errorf("postgresql.auto.conf: %s", auto)
	}
	if s.Major == 15 {
		if o := finish(t, s.program(s.Bin("pg_verifybackup"), "--quiet", target)); o.code != 0 { // with its WAL
			t.Errorf("pg_verifybackup: %v", o)
		}
	}
	c := s.start(t, target)
	if got := c.SQL(t, `SELECT (SELECT n FROM unlogged), pg_is_in_recovery(), current_setting('archive_mode')`); got != "7|f|off" {
		t.Errorf("the unlogged table's row, in recovery, archive_mode: %s", got)
	}
	sameContents(t, c, "postgres", want)
	c.Exec(t, `INSERT INTO steps VALUES (2)`)
	c.Kill(t)
	c.Start(t)
	if got := steps(t, c); got != "1 2" {
		t.Errorf("after a crash the restored server has the steps %s", got)
	}
	if s.Major == 15 {
		sound(t, c)
		s.must(t, "drill", b.Backup, "--scratch", testenv.Dir(t))
	}
	must(t, os.Rename(wal+".away", wal))
}

// unreachableCold: what has not been archived cannot be recovered to.
func (s *site) unreachableCold(t *testing.T, b backupEntry) {
	s.refuses(t, exitUnreachable, "the archive has no WAL from after it", []string{b.Backup, "--target-timeline=latest"})
	s.refuses(t, exitUnreachable, "Without a target it can be restored as it is", []string{b.Backup, "--target-xid=70000"})
}

// rolled lets the server go on, and recovers from the offline backup to points after it.
func (s *site) rolled(t *testing.T, b backupEntry, want string) {
	s.Start(t)
	s.Exec(t, `INSERT INTO steps VALUES (10)`)
	lsn := s.SQL(t, `SELECT pg_current_wal_insert_lsn()`)
	at := now(t, s.Cluster)
	s.Exec(t, `INSERT INTO steps VALUES (11)`)
	s.archived(t)
	s.must(t, "wal-verify")
	for want, args := range map[string][]string{
		"1 10 11": {"--target-timeline", "latest"},
		"1 10":    {"--target-lsn", lsn, "--target-action", "promote"},
		" 1 10":   {"--target-time", at},
	} {
		target := filepath.Join(testenv.Dir(t), "data")
		s.must(t, append([]string{"backup-fetch", target, b.Backup, "--tablespace-map-all", filepath.Join(testenv.Dir(t), "spaces")}, args...)...)
		c := s.start(t, target)
		if got := steps(t, c); got != strings.TrimSpace(want) {
			t.Errorf("%v: it has the steps %s, there should be %s", args, got, want)
		}
		if c.SQL(t, `SELECT pg_is_in_recovery()`) == "f" {
			if got := c.SQL(t, `SELECT count(*) FROM unlogged`); got != "0" {
				t.Errorf("%v: the unlogged table has %s rows", args, got)
			}
			if s.Major == 15 {
				sound(t, c)
			}
		}
	}
	// What is not replayed is spoken of.
	for _, args := range [][]string{nil, {"--target", "immediate", "--plan"}, {"--keep-archiving", "--target", "immediate", "--plan"}} {
		target := filepath.Join(testenv.Dir(t), "data")
		o := s.must(t, append([]string{"backup-fetch", target, b.Backup, "--tablespace-map-all", filepath.Join(testenv.Dir(t), "spaces")}, args...)...)
		if !strings.Contains(o.out, "The archive has WAL from after it") || strings.Contains(o.out, "it pauses there") ||
			strings.Contains(o.out, "will be refused") != (args != nil && args[0] == "--keep-archiving") {
			t.Errorf("backup-fetch %v: %v", args, o)
		}
		if args == nil {
			sameContents(t, s.start(t, target), "postgres", want)
		}
	}
	// What takes the original's place goes on from where that was.
	if o := s.must(t, "backup-fetch", filepath.Join(testenv.Dir(t), "data"), b.Backup, "--tablespace-map-all", filepath.Join(testenv.Dir(t), "spaces"), "--keep-archiving", "--plan"); !strings.Contains(o.out, "to the end of the WAL") || !strings.Contains(o.out, "restore_command") {
		t.Errorf("backup-fetch --keep-archiving: %v", o)
	}
	standby := &site{store: s.store, pgobj: s.pgobj, Cluster: s.startArchiving(t, s.fetch(t, b.Backup, "--tablespace-map-all", filepath.Join(testenv.Dir(t), "spaces"),
		"--standby", "--primary-conninfo", fmt.Sprintf("host=%s port=%d user=postgres", s.SocketDir, s.Port)))}
	s.Exec(t, `INSERT INTO steps VALUES (12)`)
	standby.Eventually(t, `SELECT string_agg(n::text, ' ' ORDER BY n) FROM steps`, "1 10 11 12")
	standby.Stop(t, "immediate")
	if got := s.backup(t); got.From != "primary" || got.Stored > 1_500_000 {
		t.Errorf("the running server's backup after that of the stopped one: %+v", got)
	}
	if n := strings.Count(string(s.log(t)), `"type":"server"`); n != 1 {
		t.Errorf("the catalog knows %d incarnations", n)
	}
}

// log is all records of the catalog.
func (s *site) log(t testing.TB) (all []byte) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.folder, "main/catalog/log/*.json"))
	must(t, err)
	for _, name := range names {
		all = append(all, readFile(t, name)...)
	}
	return all
}

// TestOfflineRefusals: what is not shut down, or does not stay so, is not backed up.
func TestOfflineRefusals(t *testing.T) {
	t.Parallel()
	rig, server := newS3Rig(t)
	want := proof(t, rig.cluster)
	rig.push(t)
	fails := func(code int, text string, args ...string) {
		t.Helper()
		o := rig.run(t, append([]string{"backup-push", "--offline"}, args...)...)
		if o.code != code || !strings.Contains(o.err, text) || len(rig.list(t)) != 1 {
			t.Errorf("backup-push --offline %v should end with %d and %q: %v", args, code, text, o)
		}
	}
	fails(exitPostgres, fmt.Sprintf("one runs in %s (pid %d): stop it with pg_ctl stop -m fast", rig.cluster.Data, rig.cluster.PID())) // PGDATA is in the environment
	fails(exitPostgres, "HINT:  No backup was entered in the catalog.", rig.cluster.Data)
	fails(1, "read pg_control", testenv.Dir(t))
	standby := rig.standby(t, rig.cluster)
	standby.Stop(t, "fast")
	fails(exitPostgres, `"shut down in recovery"`, standby.Data)
	rig.cluster.Kill(t)
	fails(exitPostgres, `"in production", so it crashed or was stopped in the mode immediate`)
	rig.cluster.Start(t)
	rig.touch(t)
	rig.cluster.Stop(t, "fast")

	proxy := faultproxy.ForTest(t, server.Endpoint)
	o := rig.during(t, proxy, whileCopying(), func(*os.Process) { rig.cluster.Start(t) }, "backup-push", "-j2", "--offline")
	if o.code != exitPostgres || !strings.Contains(o.err, "the server is not shut down: one runs in ") || len(rig.list(t)) != 1 {
		t.Errorf("a server was started during the backup: %v", o)
	}
	rig.touch(t)
	rig.cluster.Stop(t, "fast")
	o = rig.during(t, proxy, whileCopying(), func(*os.Process) {
		rig.cluster.Start(t)
		rig.cluster.Stop(t, "fast")
	}, "backup-push", "-j2", "--offline")
	if o.code != exitPostgres || !strings.Contains(o.err, "not shut down") || len(rig.list(t)) != 1 {
		t.Errorf("a server was started and stopped during the backup: %v", o)
	}
	rig.mustRun(t, "backup-push", "--offline")
	target := filepath.Join(testenv.Dir(t), "data")
	rig.mustRun(t, "backup-fetch", target)
	if got := proof(t, rig.open(t, target)); got != want {
		t.Errorf("restored, it answers %q, want %q", got, want)
	}
}

// TestOfflineOnALaterTimeline: the backup of a stopped server that was promoted once has a history file beside its WAL. It is
// restored like any other, also when it is the only one that retention has left.
func TestOfflineOnALaterTimeline(t *testing.T) {
	for _, major := range []int{10, 13, 15, 17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, folderStore(t), pgtest.Options{Major: major, Template: true})
			s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
			s.backup(t)
			s.archived(t)
			s.Stop(t, "fast")
			next := &site{store: s.store, pgobj: s.pgobj, Cluster: s.startArchiving(t, s.fetch(t, "--keep-archiving"))}
			next.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
			next.Exec(t, `INSERT INTO steps VALUES (2)`)
			next.Stop(t, "fast")
			if b := next.offline(t); b.Timeline != 2 {
				t.Errorf("the backup is of timeline %d", b.Timeline)
			}
			next.offline(t) // its manifest is merged with the one before
			next.must(t, "delete", "retain", "1", "--confirm")
			next.must(t, "backup-verify", "all")
			target := next.fetch(t)
			if _, err := os.Stat(filepath.Join(target, "pg_wal", "00000002.history")); err != nil {
				t.Error(err)
			}
			if got := steps(t, next.start(t, target)); got != "1 2" {
				t.Errorf("restored, it has the steps %s", got)
			}
		})
	}
}
