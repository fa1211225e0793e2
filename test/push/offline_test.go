package push

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestOfflineBackup: the backup of a stopped server starts as it was, with nothing but itself, and goes on along
// the archive when that is asked for.
func TestOfflineBackup(t *testing.T) {
	majors := []int{10, 15, 18}
	if site.Torture() {
		majors = []int{10, 11, 12, 13, 14, 15, 16, 17, 18}
	}
	for _, major := range majors {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			space := testenv.Dir(t)
			s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, Template: true, Checksums: true})
			s.Exec(t, `CREATE TABLESPACE elsewhere LOCATION '`+space+`'`)
			s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1); CREATE TABLE apart TABLESPACE elsewhere AS SELECT i, md5(i::text) FROM generate_series(1, 5000) i;
				CREATE UNLOGGED TABLE unlogged (n int PRIMARY KEY); INSERT INTO unlogged VALUES (7)`)
			s.Backup(t)
			want := site.Contents(t, s.Cluster, "postgres")
			s.Stop(t, "fast")
			before := site.Survey(t, s.Data)
			b := s.Offline(t)
			for path, x := range site.Survey(t, s.Data) {
				if before[path] != x {
					t.Errorf("backup-push --offline has changed %s from %v to %v", path, before[path], x)
				}
			}
			if again := s.Offline(t, "--compression=lz4"); again.Stored > 200_000 || again.StartLSN != b.StartLSN || again.Consistent != b.Consistent {
				t.Errorf("the same again: %+v after %+v", again, b)
			}
			s.UnreachableCold(t, b)
			s.Cold(t, b, want)
			s.Rolled(t, b, want)
		})
	}
}

// TestOfflineRefusals: what is not shut down, or does not stay so, is not backed up.
func TestOfflineRefusals(t *testing.T) {
	t.Parallel()
	rig, server := site.NewS3Rig(t)
	want := site.Proof(t, rig.Cluster)
	rig.Push(t)
	fails := func(code int, kind, text string, args ...string) {
		t.Helper()
		f := rig.FailsWith(t, code, kind, append([]string{"backup-push", "--offline"}, args...)...)
		if !f.Names(text) || len(rig.List(t)) != 1 {
			t.Errorf("backup-push --offline %v should end with %q: %+v", args, text, f)
		}
	}
	const notStopped = "server-not-stopped"
	fails(site.ExitPostgres, notStopped, fmt.Sprintf("%s (pid %d)", rig.Cluster.Data, rig.Cluster.PID())) // PGDATA is in the environment
	fails(site.ExitPostgres, notStopped, rig.Cluster.Data, rig.Cluster.Data)
	fails(1, "other", "read pg_control", testenv.Dir(t))
	standby := rig.Standby(t, rig.Cluster)
	standby.Stop(t, "fast")
	fails(site.ExitPostgres, notStopped, `"shut down in recovery"`, standby.Data)
	rig.Cluster.Kill(t)
	fails(site.ExitPostgres, notStopped, `"in production"`)
	rig.Cluster.Start(t)
	rig.Touch(t)
	rig.Cluster.Stop(t, "fast")

	proxy := faultproxy.ForTest(t, server.Endpoint)
	o := rig.During(t, proxy, site.WhileCopying(), func(*os.Process) { rig.Cluster.Start(t) }, "--log-format=json", "backup-push", "-j2", "--offline")
	if f := o.MustFail(t, site.ExitPostgres, notStopped); !f.Names("runs in") || len(rig.List(t)) != 1 {
		t.Errorf("a server was started during the backup: %v", o)
	}
	rig.Touch(t)
	rig.Cluster.Stop(t, "fast")
	o = rig.During(t, proxy, site.WhileCopying(), func(*os.Process) {
		rig.Cluster.Start(t)
		rig.Cluster.Stop(t, "fast")
	}, "--log-format=json", "backup-push", "-j2", "--offline")
	if o.MustFail(t, site.ExitPostgres, notStopped); len(rig.List(t)) != 1 {
		t.Errorf("a server was started and stopped during the backup: %v", o)
	}
	rig.MustRun(t, "backup-push", "--offline")
	target := filepath.Join(testenv.Dir(t), "data")
	rig.MustRun(t, "backup-fetch", target)
	if got := site.Proof(t, rig.Open(t, target)); got != want {
		t.Errorf("restored, it answers %q, want %q", got, want)
	}
}

// TestOfflineOnALaterTimeline: the backup of a stopped server that was promoted once has a history file beside its WAL. It is
// restored like any other, also when it is the only one that retention has left.
func TestOfflineOnALaterTimeline(t *testing.T) {
	for _, major := range []int{10, 13, 15, 17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, Template: true})
			s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
			s.Backup(t)
			s.Archived(t)
			s.Stop(t, "fast")
			next := &site.Site{Store: s.Store, Pgobj: s.Pgobj, Cluster: s.StartArchiving(t, s.Fetch(t, "--keep-archiving"))}
			next.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
			next.Exec(t, `INSERT INTO steps VALUES (2)`)
			next.Stop(t, "fast")
			if b := next.Offline(t); b.Timeline != 2 {
				t.Errorf("the backup is of timeline %d", b.Timeline)
			}
			next.Offline(t) // its manifest is merged with the one before
			next.Must(t, "delete", "retain", "1", "--confirm")
			next.Must(t, "backup-verify", "all")
			target := next.Fetch(t)
			if _, err := os.Stat(filepath.Join(target, "pg_wal", "00000002.history")); err != nil {
				t.Error(err)
			}
			if got := site.Steps(t, next.Spawn(t, target)); got != "1 2" {
				t.Errorf("restored, it has the steps %s", got)
			}
		})
	}
}
