package restore

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// spaceAfterBackup is a server with a tablespace, and rows in it, that its backup does not have; lsn is a point before.
func spaceAfterBackup(t *testing.T, major int) (s *site.Site, space, lsn string) {
	t.Helper()
	s = site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	s.Backup(t)
	for range 4 { // so that segments are fetched ahead
		s.Exec(t, `INSERT INTO steps VALUES (2)`)
		lsn = s.SQL(t, `SELECT pg_current_wal_insert_lsn()`)
		s.Archived(t)
	}
	space = site.Mkdir(t, filepath.Join(testenv.Dir(t), "space"), 0o700, -1)
	s.Exec(t, `CREATE TABLESPACE late LOCATION '`+space+`'`)
	s.Exec(t, `CREATE TABLE late TABLESPACE late AS SELECT i, 'one' AS t FROM generate_series(1, 5000) i`)
	s.Exec(t, `CHECKPOINT`)
	s.Archived(t)
	s.Exec(t, `UPDATE late SET t = 'two'`) // not archived: the copy's files are not those of the original
	s.Exec(t, `CHECKPOINT`)
	return s, space, lsn
}

// TestTablespaceAfterTheBackup: PostgreSQL makes a tablespace where the WAL says, wherever the others were put. Neither a
// copy nor a drill on the original's host touches it.
func TestTablespaceAfterTheBackup(t *testing.T) {
	for _, major := range []int{10, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s, space, lsn := spaceAfterBackup(t, major)
			s.Stops(t, space, nil, "--tablespace-map-all", testenv.Dir(t))
			s.Stops(t, space, []string{"PGOBJ_WAL_PREFETCH=0"})
			s.Stops(t, space, nil, "--standby")
			s.DrillIsNotHeld(t, space)
			if got := site.Steps(t, s.Spawn(t, s.Fetch(t, "--target-lsn", lsn))); got != "1 2 2 2 2" {
				t.Errorf("a copy of before it has the steps %s", got)
			}
			// On another host its place is free, or has to be made; and a copy that is started again finds its own files.
			s.Stop(t, "immediate")
			site.Must(t, os.Rename(space, space+".away"))
			s.DrillIsNotHeld(t, space+".away")
			site.Mkdir(t, space, 0o700, -1)
			c := s.Spawn(t, s.Fetch(t))
			if got := c.SQL(t, `SELECT count(*), min(t) FROM late`); got != "5000|one" {
				t.Errorf("the copy with a place for the tablespace has %s", got)
			}
			c.Stop(t, "fast")
			site.Must(t, os.RemoveAll(space))
			site.Must(t, os.Rename(space+".away", space))
			s.Start(t)
			if got := s.SQL(t, `SELECT count(*), min(t) FROM late`); got != "5000|two" {
				t.Errorf("the original has %s", got)
			}
			s.Backup(t)
			s.Drill(t, 0)
		})
	}
}

// TestTablespaceBeforeRedo: a tablespace that was made in the very segment in which recovery begins, before that place, is in the
// backup, and is not made again.
func TestTablespaceBeforeRedo(t *testing.T) {
	t.Parallel()
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Conf: []string{"archive_mode = off"}}) // it would end the segment with the server
	s.Exec(t, `CREATE TABLESPACE late LOCATION '`+site.Mkdir(t, filepath.Join(testenv.Dir(t), "space"), 0o700, -1)+`'`)
	s.Exec(t, `CREATE TABLE late TABLESPACE late AS SELECT i FROM generate_series(1, 5000) i`)
	made := s.SQL(t, `SELECT pg_walfile_name(pg_current_wal_lsn())`)
	s.Stop(t, "fast")
	if b := s.Offline(t); b.FirstWAL != made {
		t.Fatalf("the backup begins in %s, the tablespace was made in %s: does this test try what it means to?", b.FirstWAL, made)
	}
	site.Must(t, s.AppendConf("archive_mode = on"))
	s.Start(t)
	s.Exec(t, `INSERT INTO late VALUES (5001)`)
	s.Archived(t)
	c := s.Spawn(t, s.Fetch(t, "--tablespace-map-all", testenv.Dir(t), "--target-timeline", "latest"))
	if got := c.SQL(t, `SELECT count(*) FROM late`); got != "5001" {
		t.Errorf("the copy has %s rows", got)
	}
	s.Drill(t, 0, "--target-timeline", "latest")
}

// TestTablespaceOfTheBrokenCluster: in the original's own place a restore empties the tablespace that the backup does not have, also
// where another one lay in that place, and recovery makes it again. From a copy of the directory it does not.
func TestTablespaceOfTheBrokenCluster(t *testing.T) {
	for _, major := range []int{10, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s, space, _ := spaceAfterBackup(t, major)
			s.Kill(t)
			copied := filepath.Join(testenv.Dir(t), "copied")
			s.Shell(t, "cp -a "+s.Data+" "+copied)
			s.Must(t, "backup-fetch", copied, "--delta", "--discard-wal")
			if files, err := filepath.Glob(filepath.Join(space, "PG_*", "*", "*")); err != nil || len(files) == 0 {
				t.Fatalf("a restore over a copy of the directory has emptied the original's tablespace: %v, %v", files, err)
			}
			again := func(want string) {
				t.Helper()
				s.Must(t, "wal-push", "--all", s.Data)
				s.Must(t, "backup-fetch", s.Data, "--delta", "--keep-archiving")
				s.Start(t)
				if got := s.SQL(t, `SELECT count(*), min(t) FROM late`); got != want {
					t.Errorf("recovered in its own place it has %s, want %s", got, want)
				}
			}
			again("5000|two")
			s.Backup(t)
			s.Exec(t, `DROP TABLE late`)
			s.Exec(t, `DROP TABLESPACE late`)
			s.Archived(t)
			s.Exec(t, `CREATE TABLESPACE later LOCATION '`+space+`'`)
			s.Exec(t, `CREATE TABLE late TABLESPACE later AS SELECT i, 'three' AS t FROM generate_series(1, 40) i`)
			s.Kill(t)
			again("40|three")
		})
	}
}
