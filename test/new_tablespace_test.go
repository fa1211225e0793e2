package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// spaceAfterBackup is a server with a tablespace, and rows in it, that its backup does not have; lsn is a point before.
func spaceAfterBackup(t *testing.T, major int) (s *site, space, lsn string) {
	t.Helper()
	s = newSite(t, folderStore(t), pgtest.Options{Major: major})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	s.backup(t)
	for range 4 { // so that segments are fetched ahead
		s.Exec(t, `INSERT INTO steps VALUES (2)`)
		lsn = s.SQL(t, `SELECT pg_current_wal_insert_lsn()`)
		s.archived(t)
	}
	space = mkdir(t, filepath.Join(testenv.Dir(t), "space"), 0o700, -1)
	s.Exec(t, `CREATE TABLESPACE late LOCATION '`+space+`'`)
	s.Exec(t, `CREATE TABLE late TABLESPACE late AS SELECT i, 'one' AS t FROM generate_series(1, 5000) i`)
	s.Exec(t, `CHECKPOINT`)
	s.archived(t)
	s.Exec(t, `UPDATE late SET t = 'two'`) // not archived: the copy's files are not those of the original
	s.Exec(t, `CHECKPOINT`)
	return s, space, lsn
}

// stops holds that a restored server ends in its recovery, before it makes the tablespace, and never opens.
func (s *site) stops(t testing.TB, space string, env []string, args ...string) {
	t.Helper()
	before := survey(t, space)
	dir := filepath.Join(testenv.Dir(t), "data")
	o := s.must(t, append([]string{"backup-fetch", dir}, args...)...)
	if !strings.Contains(o.out, "has a tablespace in "+space+" that the backup does not have") {
		t.Errorf("it does not warn: %v", o)
	}
	c, err := pgtest.Attach(dir, s.Major)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.AddEnv(env...)
	_ = c.Launch(t.Context()) // a standby is open before it stops
	testenv.Eventually(t, time.Minute, "the server stops", func() bool { return !c.Running() })
	if !strings.Contains(c.Log(), "recovery would make a tablespace in a folder that is not this server's: segment 0000000100000000") {
		t.Errorf("%v: it did not stop for that:\n%s", args, lastLines(c.Log(), 20))
	}
	if got := c.Log(); strings.Contains(got, "selected new timeline") {
		t.Errorf("%v: it was promoted:\n%s", args, lastLines(got, 20))
	}
	sameThings(t, fmt.Sprint("the original's tablespace, beside a copy ", args), before, survey(t, space))
}

// TestTablespaceAfterTheBackup: PostgreSQL makes a tablespace where the WAL says, wherever the others were put. Neither a
// copy nor a drill on the original's host touches it.
func TestTablespaceAfterTheBackup(t *testing.T) {
	for _, major := range []int{10, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s, space, lsn := spaceAfterBackup(t, major)
			s.stops(t, space, nil, "--tablespace-map-all", testenv.Dir(t))
			s.stops(t, space, []string{"PGOBJ_WAL_PREFETCH=0"})
			s.stops(t, space, nil, "--standby")
			s.drillIsNotHeld(t, space)
			if got := steps(t, s.start(t, s.fetch(t, "--target-lsn", lsn))); got != "1 2 2 2 2" {
				t.Errorf("a copy of before it has the steps %s", got)
			}
			// On another host its place is free, or has to be made; and a copy that is started again finds its own files.
			s.Stop(t, "immediate")
			must(t, os.Rename(space, space+".away"))
			s.drillIsNotHeld(t, space+".away")
			mkdir(t, space, 0o700, -1)
			c := s.start(t, s.fetch(t))
			if got := c.SQL(t, `SELECT count(*), min(t) FROM late`); got != "5000|one" {
				t.Errorf("the copy with a place for the tablespace has %s", got)
			}
			c.Stop(t, "fast")
			must(t, os.RemoveAll(space))
			must(t, os.Rename(space+".away", space))
			s.Start(t)
			if got := s.SQL(t, `SELECT count(*), min(t) FROM late`); got != "5000|two" {
				t.Errorf("the original has %s", got)
			}
			s.backup(t)
			s.drill(t, 0)
		})
	}
}

// drillIsNotHeld: it is no word against the backup, and none is entered.
func (s *site) drillIsNotHeld(t testing.TB, space string) {
	t.Helper()
	before := survey(t, space)
	if d := s.drill(t, exitUsage); !strings.Contains(d.Error, "no drill can be held here: the backup does not have a tablespace that recovery makes") {
		t.Errorf("the drill: %+v", d)
	}
	if o := s.must(t, "backup-list"); strings.Contains(o.out, "DRILL FAILED") {
		t.Errorf("it is entered as failed: %v", o)
	}
	sameThings(t, "the original's tablespace, after a drill", before, survey(t, space))
}

// TestTablespaceBeforeRedo: a tablespace that was made in the very segment in which recovery begins, before that place, is in the
// backup, and is not made again.
func TestTablespaceBeforeRedo(t *testing.T) {
	t.Parallel()
	s := newSite(t, folderStore(t), pgtest.Options{Conf: []string{"archive_mode = off"}}) // it would end the segment with the server
	s.Exec(t, `CREATE TABLESPACE late LOCATION '`+mkdir(t, filepath.Join(testenv.Dir(t), "space"), 0o700, -1)+`'`)
	s.Exec(t, `CREATE TABLE late TABLESPACE late AS SELECT i FROM generate_series(1, 5000) i`)
	made := s.SQL(t, `SELECT pg_walfile_name(pg_current_wal_lsn())`)
	s.Stop(t, "fast")
	if b := s.offline(t); b.FirstWAL != made {
		t.Fatalf("the backup begins in %s, the tablespace was made in %s: does this test try what it means to?", b.FirstWAL, made)
	}
	must(t, s.AppendConf("archive_mode = on"))
	s.Start(t)
	s.Exec(t, `INSERT INTO late VALUES (5001)`)
	s.archived(t)
	c := s.start(t, s.fetch(t, "--tablespace-map-all", testenv.Dir(t), "--target-timeline", "latest"))
	if got := c.SQL(t, `SELECT count(*) FROM late`); got != "5001" {
		t.Errorf("the copy has %s rows", got)
	}
	s.drill(t, 0, "--target-timeline", "latest")
}
