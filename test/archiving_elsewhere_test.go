package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

const elsewhere = "the server archives its WAL elsewhere"

// archiveTo sets archive_command, and returns when the archiver goes by it, which it has before it begins with another file
// after the next.
func archiveTo(t testing.TB, c *pgtest.Cluster, command string) {
	t.Helper()
	c.Exec(t, `ALTER SYSTEM SET archive_command = '`+strings.ReplaceAll(command, "'", "''")+`'`)
	c.Exec(t, `SELECT pg_reload_conf()`)
	c.Eventually(t, `SELECT setting = '`+strings.ReplaceAll(command, "'", "''")+`' FROM pg_settings WHERE name = 'archive_command'`, "t")
	for range 2 {
		c.Exec(t, `SELECT pg_logical_emit_message(false, 'test', 'something to archive')`)
		done := c.SwitchWAL(t)
		c.Eventually(t, `SELECT left(greatest(last_archived_wal, last_failed_wal), 24) >= '`+done+`' OR last_failed_time > coalesce(last_archived_time, '-infinity') FROM pg_stat_archiver`, "t")
	}
}

// TestArchivingElsewhere: a backup whose WAL goes elsewhere ends as soon as the server says so. Whatever else can be said of
// an archiver is no reason to end.
func TestArchivingElsewhere(t *testing.T) {
	for _, major := range []int{10, 13, 15, 17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			away := testenv.Dir(t)
			s := newSite(t, folderStore(t), pgtest.Options{Major: major, Template: true})
			archiveTo(t, s.Cluster, "AWS_SECRET_ACCESS_KEY="+canary+" cp %p "+away+"/%f")
			for range 2 {
				o := s.run(t, "backup-push", "--wal-timeout=1h")
				if o.code != exitWAL || !strings.Contains(o.err, elsewhere) || !strings.Contains(o.err, "cp %p "+away+"/%f") || !strings.Contains(o.err, s.folder) {
					t.Errorf("backup-push: %v, want exit code %d, and where the server archives to", o, exitWAL)
				}
				if log := s.must(t, "catalog-log"); strings.Contains(o.err+log.out, canary) {
					t.Errorf("a secret of archive_command is printed: %v %v", o, log)
				}
			}
			r := s.receive(t, "--slot", "pgobj", "--create-slot")
			s.streaming(t, "async")
			s.backup(t) // by wal-receive
			must(t, r.cmd.Process.Kill())
			<-r.done
			s.Eventually(t, `SELECT count(*) FROM pg_stat_replication`, "0")

			archiveTo(t, s.Cluster, "false")
			s.Exec(t, `SELECT pg_logical_emit_message(false, 'test', 'something to archive')`)
			s.SwitchWAL(t)
			s.Eventually(t, `SELECT last_failed_time > last_archived_time FROM pg_stat_archiver`, "t")
			if o := s.run(t, "backup-push", "--wal-timeout=2s"); o.code != exitWAL || strings.Contains(o.err, elsewhere) || !strings.Contains(o.err, "archiving fails at present") {
				t.Errorf("backup-push while archiving fails: %v", o)
			}
			archiveTo(t, s.Cluster, s.pgobj+" wal-push %p")
			s.backup(t)
			s.backup(t) // of an idle server
		})
	}
}

// TestArchivingElsewhereLongAgo: what was archived elsewhere before archive_command was mended is no reason to refuse a
// backup, also where the role may not end a segment.
func TestArchivingElsewhereLongAgo(t *testing.T) {
	t.Parallel()
	s := newSite(t, folderStore(t), pgtest.Options{})
	s.Exec(t, `CREATE ROLE backup LOGIN IN ROLE pg_read_all_settings, pg_read_all_stats`)
	s.Exec(t, `GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO backup`)
	archiveTo(t, s.Cluster, "cp %p "+testenv.Dir(t)+"/%f")
	s.Exec(t, `ALTER SYSTEM SET archive_command = '`+s.pgobj+` wal-push %p'`)
	s.Restart(t) // it is idle, and nothing is archived until the backup begins
	s.backup(t, "--dsn", strings.Replace(s.DSN("postgres"), "user=postgres", "user=backup", 1))
	s.backup(t)
}

// TestArchivingElsewhereEndsTheCopy: nothing is copied for hours whose WAL does not come.
func TestArchivingElsewhereEndsTheCopy(t *testing.T) {
	t.Parallel()
	rig, server := newS3Rig(t)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	rig.push(t)
	copying := filepath.Join(testenv.Dir(t), "copying") // the server archives from then on that a part is being stored
	writeFile(t, copying, "", 0o644)
	archiveTo(t, rig.cluster, "while ! test -e "+copying+"; do sleep 0.1; done; cp %p "+testenv.Dir(t)+"/%f")
	must(t, os.Remove(copying))
	rig.touch(t)
	proxy.On(partPuts, faultproxy.Hook(func(faultproxy.Request) { writeFile(t, copying, "", 0o644) }))
	proxy.On(partPuts, faultproxy.BlackHole())
	cmd := rig.command(viaProxy(proxy), "backup-push", "--wal-timeout=1h", "--retry-for=1h")
	if o := executeWithin(t, generous, cmd, nil); o.code != exitWAL || !strings.Contains(o.err, elsewhere) {
		t.Errorf("backup-push: %v, want exit code %d", o, exitWAL)
	}
}

// TestStandbyArchivingElsewhere: of a standby's backup it is the primary that archives.
func TestStandbyArchivingElsewhere(t *testing.T) {
	for _, major := range []int{10, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, folderStore(t), pgtest.Options{Major: major, Template: true})
			s.backup(t)
			standby := standbyOf(t, s)
			caughtUp(t, s.Cluster, standby.Cluster)
			away := filepath.Join(testenv.Dir(t), "%f")
			archiveTo(t, s.Cluster, "cp %p "+away)
			o := standby.run(t, "backup-push", "--wal-timeout=1h", "--primary-dsn", s.DSN("postgres"))
			if o.code != exitWAL || !strings.Contains(o.err, elsewhere) || !strings.Contains(o.err, away) {
				t.Errorf("backup-push: %v, want exit code %d", o, exitWAL)
			}
			archiveTo(t, s.Cluster, s.pgobj+" wal-push %p")
			caughtUp(t, s.Cluster, standby.Cluster) // so that the backup begins in WAL that is here
			standby.backup(t, "--primary-dsn", s.DSN("postgres"))
			standby.Stop(t, "immediate") // before its primary, which would wait for it
		})
	}
}

// TestWALByAStandby: the primary archives elsewhere, and its standby brings the WAL here, a little later.
func TestWALByAStandby(t *testing.T) {
	for _, major := range []int{13, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, folderStore(t), pgtest.Options{Major: major, Template: true, Conf: []string{"wal_keep_size = '1GB'"}})
			s.backup(t)
			standby := standbyOf(t, s)
			must(t, standby.AppendConf("archive_mode = always", "archive_command = 'sleep 3; "+s.pgobj+" wal-push --ahead=1 %p'"))
			standby.Restart(t)
			caughtUp(t, s.Cluster, standby.Cluster)
			archiveTo(t, s.Cluster, "true")
			s.backup(t)
			standby.Stop(t, "immediate") // before its primary, which would wait for it
		})
	}
}
