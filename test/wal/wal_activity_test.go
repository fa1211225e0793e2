package wal

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

// What the README says of low activity: archive_timeout ends a segment in which something was written, a backup ends the
// current one, and such segments take next to no room. Each time the server is lost at once.
func TestLowActivity(t *testing.T) {
	t.Parallel()
	for _, major := range []int{10, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			st := site.DirectoryStore(t)
			s := site.NewSite(t, st, pgtest.Options{Major: major, Template: true, Conf: []string{"archive_timeout = 1s"}})
			s.Exec(t, `CREATE TABLE x (i int)`)
			s.Backup(t)
			s.Exec(t, `INSERT INTO x VALUES (1)`)
			s.Eventually(t, fmt.Sprintf(`SELECT last_archived_wal >= pg_walfile_name('%s') FROM pg_stat_archiver`, s.SQL(t, `SELECT pg_current_wal_lsn()`)), "t")
			s.Exec(t, `ALTER SYSTEM SET archive_timeout = 0`)
			s.Exec(t, `SELECT pg_reload_conf()`)
			s.Eventually(t, `SHOW archive_timeout`, "0")
			before := s.Fetch(t)
			s.Exec(t, `INSERT INTO x VALUES (2)`)
			s.Backup(t)
			site.Must(t, s.Crash())
			if got := s.Spawn(t, before, site.NoArchiving...).SQL(t, `SELECT string_agg(i::text, ' ' ORDER BY i) FROM x`); got != "1 2" {
				t.Errorf("the rows are %s", got)
			}
			full, _ := site.SegmentsOf(t, st.Directory, 1)
			for name, file := range full {
				info, err := os.Stat(file)
				site.Must(t, err)
				if name > site.FirstOf(full) && info.Size() > 200_000 { // initdb wrote the first
					t.Errorf("%s takes %d bytes", name, info.Size())
				}
			}
			if len(full) < 3 {
				t.Errorf("there are %d segments", len(full))
			}
		})
	}
}

// Row 19: WAL of a new timeline is in the archive before its history file. Until that comes, no recovery ends without it, and a
// standby waits; then both go on.
func TestHistoryArrivesLate(t *testing.T) {
	t.Parallel()
	st := site.DirectoryStore(t)
	s := site.NewSite(t, st, pgtest.Options{WALSegMB: 1})
	s.Exec(t, `CREATE TABLE x (i int)`)
	s.Backup(t)
	recovery, follower := s.Fetch(t, "--target-timeline=latest"), s.Fetch(t, "--standby")
	s.Exec(t, `INSERT INTO x SELECT generate_series(1, 100)`)
	s.Stop(t, "fast")
	site.Must(t, os.WriteFile(filepath.Join(s.Data, "recovery.signal"), nil, 0o644))
	site.Must(t, s.AppendConf("restore_command = '"+s.Pgobj+" wal-fetch %f %p'"))
	s.Start(t)
	s.Exec(t, `INSERT INTO x SELECT generate_series(1, 100)`)
	s.Archived(t)
	site.Must(t, s.Crash())
	found, err := filepath.Glob(filepath.Join(st.Directory, "main/wal/*/*/00000002.history*"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	aside := filepath.Join(testenv.Dir(t), "history")
	site.Must(t, os.Rename(found[0], aside))

	standby := s.Spawn(t, follower, append(site.NoArchiving, "-c", "wal_retrieve_retry_interval=100ms")...)
	standby.Eventually(t, `SELECT count(*) FROM x`, "100")
	testenv.Eventually(t, site.Patience, "the standby asks for the history", func() bool { return strings.Count(standby.Log(), "00000002.history") > 2 })
	c, err := pgtest.Attach(recovery, s.Major, site.NoArchiving...)
	site.Must(t, err)
	t.Cleanup(func() { site.Must(t, c.Close()) })
	if err := c.Launch(t.Context()); err == nil {
		t.Errorf("the recovery ended with %s rows", c.SQL(t, `SELECT count(*) FROM x`))
	} else if !strings.Contains(c.Log(), "00000002.history") {
		t.Errorf("it does not say what is missing: %v", err)
	}
	if got := standby.SQL(t, `SELECT pg_is_in_recovery(), count(*) FROM x`); got != "t|100" {
		t.Errorf("the standby: %s", got)
	}
	site.Must(t, os.Rename(aside, found[0]))
	standby.Eventually(t, `SELECT pg_is_in_recovery(), count(*) FROM x`, "t|200")
	c.Start(t)
	if got := c.SQL(t, `SELECT pg_is_in_recovery(), count(*) FROM x`); got != "f|200" {
		t.Errorf("the recovery: %s", got)
	}
}

// A standby that is told to promote while the storage is out of reach does so, with what it has: it is not for wal-fetch to
// keep people from a failover, and it cannot tell one from waiting. It gets to its new timeline, which it would not if it were
// refused the history of the one that it leaves, at a moment when it is no standby any more.
func TestPromotedDuringOutage(t *testing.T) {
	t.Parallel()
	for _, v := range []struct{ major, timeline int }{{10, 1}, {15, 1}, {15, 2}, {18, 1}} {
		t.Run(fmt.Sprintf("%d/%d", v.major, v.timeline), func(t *testing.T) {
			t.Parallel()
			st, server := site.VersityStore(t)
			s := site.NewSite(t, st, pgtest.Options{Major: v.major})
			s.Exec(t, `CREATE TABLE x (i int)`)
			if v.timeline == 2 {
				s.Stop(t, "fast")
				site.Must(t, os.WriteFile(filepath.Join(s.Data, "recovery.signal"), nil, 0o644))
				site.Must(t, s.AppendConf("restore_command = '"+s.Pgobj+" wal-fetch %f %p'"))
				s.Start(t)
			}
			s.Backup(t)
			proxy := faultproxy.ForTest(t, server.Endpoint)
			via := *s
			via.Settings = append(via.Settings[:len(via.Settings):len(via.Settings)], "PGOBJ_S3_ENDPOINT="+proxy.URL)
			dir := via.Fetch(t, "--standby")
			c, err := pgtest.Attach(dir, s.Major, append(site.NoArchiving, "-c", "wal_retrieve_retry_interval=100ms")...)
			site.Must(t, err)
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("log of the standby:\n%s", site.LastLines(c.Log(), 40))
				}
				site.Must(t, c.Close())
			})
			c.AddEnv(append(st.Credentials, "PGOBJ_RETRY_FOR=1s")...)
			s.Exec(t, `INSERT INTO x SELECT generate_series(1, 100)`)
			s.Archived(t)
			c.Start(t)
			c.Eventually(t, `SELECT count(*) FROM x`, "100")
			proxy.On(faultproxy.Always, faultproxy.Fail(503, "SlowDown"))
			s.Exec(t, `INSERT INTO x SELECT generate_series(1, 100)`)
			s.Archived(t)
			before := strings.Count(c.Log(), "ERROR:  ")
			testenv.Eventually(t, site.Patience, "the standby has asked in vain", func() bool { return strings.Count(c.Log(), "ERROR:  ") > before+1 })
			if o := site.Finish(t, s.Program(c.Bin("pg_ctl"), "promote", "-D", dir)); o.Code != 0 {
				t.Fatal(o)
			}
			c.Eventually(t, `SELECT pg_is_in_recovery(), count(*) FROM x`, "f|100")
			if got := c.SQL(t, `SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)`); got != fmt.Sprintf("%08X", v.timeline+1) {
				t.Errorf("it is on timeline %s", got)
			}
			history := string(site.ReadFile(t, filepath.Join(dir, "pg_wal", fmt.Sprintf("%08X.history", v.timeline+1))))
			for i := 1; i <= v.timeline; i++ {
				if !strings.Contains(history, fmt.Sprintf("%d\t0/", i)) {
					t.Errorf("the history lacks timeline %d: %q", i, history)
				}
			}
		})
	}
}
