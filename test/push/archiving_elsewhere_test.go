package push

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

const elsewhere = "archives-elsewhere"

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
			s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, Template: true})
			archiveTo(t, s.Cluster, "AWS_SECRET_ACCESS_KEY="+site.Canary+" cp %p "+away+"/%f")
			for range 2 {
				o := s.Run(t, "--log-format=json", "backup-push", "--wal-timeout=1h")
				if f := o.MustFail(t, site.ExitWAL, elsewhere); !f.Names("cp %p "+away+"/%f", s.Directory) {
					t.Errorf("backup-push: %+v, want where the server archives to", f)
				}
				if log := s.Must(t, "catalog-log"); strings.Contains(o.Err+log.Out, site.Canary) {
					t.Errorf("a secret of archive_command is printed: %v %v", o, log)
				}
			}
			r := s.Receive(t, "--slot", "pgobj", "--create-slot")
			s.Streaming(t, "async")
			s.Backup(t) // by wal-receive
			site.Must(t, r.Cmd.Process.Kill())
			<-r.Done
			s.Eventually(t, `SELECT count(*) FROM pg_stat_replication`, "0")

			archiveTo(t, s.Cluster, "false")
			s.Exec(t, `SELECT pg_logical_emit_message(false, 'test', 'something to archive')`)
			s.SwitchWAL(t)
			s.Eventually(t, `SELECT last_failed_time > last_archived_time FROM pg_stat_archiver`, "t")
			o := s.Run(t, "--log-format=json", "backup-push", "--wal-timeout=2s")
			if o.MustFail(t, site.ExitWAL, "backup-wal-missing"); !strings.Contains(o.Err, "archiving fails") {
				t.Errorf("backup-push while archiving fails: %v", o)
			}
			archiveTo(t, s.Cluster, s.Pgobj+" wal-push %p")
			s.Backup(t)
			s.Backup(t) // of an idle server
		})
	}
}

// TestArchivingElsewhereLongAgo: what was archived elsewhere before archive_command was mended is no reason to refuse a
// backup, also where the role may not end a segment.
func TestArchivingElsewhereLongAgo(t *testing.T) {
	t.Parallel()
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{})
	s.Exec(t, `CREATE ROLE backup LOGIN IN ROLE pg_read_all_settings, pg_read_all_stats`)
	s.Exec(t, `GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO backup`)
	archiveTo(t, s.Cluster, "cp %p "+testenv.Dir(t)+"/%f")
	s.Exec(t, `ALTER SYSTEM SET archive_command = '`+s.Pgobj+` wal-push %p'`)
	s.Restart(t) // it is idle, and nothing is archived until the backup begins
	s.Backup(t, "--dsn", strings.Replace(s.DSN("postgres"), "user=postgres", "user=backup", 1))
	s.Backup(t)
}

// TestArchivingElsewhereEndsTheCopy: nothing is copied for hours whose WAL does not come.
func TestArchivingElsewhereEndsTheCopy(t *testing.T) {
	t.Parallel()
	rig, server := site.NewS3Rig(t)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	rig.Push(t)
	copying := filepath.Join(testenv.Dir(t), "copying") // the server archives from then on that a part is being stored
	site.WriteFile(t, copying, "", 0o644)
	archiveTo(t, rig.Cluster, "while ! test -e "+copying+"; do sleep 0.1; done; cp %p "+testenv.Dir(t)+"/%f")
	site.Must(t, os.Remove(copying))
	rig.Touch(t)
	proxy.On(site.PartPuts, faultproxy.Hook(func(faultproxy.Request) { site.WriteFile(t, copying, "", 0o644) }))
	proxy.On(site.PartPuts, faultproxy.BlackHole())
	cmd := rig.Command(site.ViaProxy(proxy), "--log-format=json", "backup-push", "--wal-timeout=1h", "--retry-for=1h")
	site.ExecuteWithin(t, site.Generous, cmd, nil).MustFail(t, site.ExitWAL, elsewhere)
}

// TestStandbyArchivingElsewhere: of a standby's backup it is the primary that archives.
func TestStandbyArchivingElsewhere(t *testing.T) {
	for _, major := range []int{10, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, Template: true})
			s.Backup(t)
			standby := site.StandbyOf(t, s)
			site.CaughtUp(t, s.Cluster, standby.Cluster)
			away := filepath.Join(testenv.Dir(t), "%f")
			archiveTo(t, s.Cluster, "cp %p "+away)
			if f := standby.FailsWith(t, site.ExitWAL, elsewhere, "backup-push", "--wal-timeout=1h", "--primary-dsn", s.DSN("postgres")); !f.Names(away) {
				t.Errorf("backup-push: %+v", f)
			}
			archiveTo(t, s.Cluster, s.Pgobj+" wal-push %p")
			site.CaughtUp(t, s.Cluster, standby.Cluster) // so that the backup begins in WAL that is here
			standby.Backup(t, "--primary-dsn", s.DSN("postgres"))
			standby.Stop(t, "immediate") // before its primary, which would wait for it
		})
	}
}

// TestWALByAStandby: the primary archives elsewhere, and its standby brings the WAL here, a little later.
func TestWALByAStandby(t *testing.T) {
	for _, major := range []int{13, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, Template: true, Conf: []string{"wal_keep_size = '1GB'"}})
			s.Backup(t)
			standby := site.StandbyOf(t, s)
			site.Must(t, standby.AppendConf("archive_mode = always", "archive_command = 'sleep 3; "+s.Pgobj+" wal-push --ahead=1 %p'"))
			standby.Restart(t)
			site.CaughtUp(t, s.Cluster, standby.Cluster)
			archiveTo(t, s.Cluster, "true")
			s.Backup(t)
			standby.Stop(t, "immediate") // before its primary, which would wait for it
		})
	}
}
