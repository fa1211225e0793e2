package restore

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestBrokenCluster: after a crash with WAL that was never archived, both ways that are printed bring every commit back, over a backup of the
// running server and over one of the stopped server, in every version; and WAL that was pushed stands in nobody's way.
func TestBrokenCluster(t *testing.T) {
	for _, major := range []int{10, 13, 15, 17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, Template: true})
			s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
			s.Stop(t, "fast")
			offline := s.Offline(t) // at first the only backup
			s.Start(t)
			want := "1"
			crash := func(n int) {
				t.Helper()
				s.Exec(t, fmt.Sprintf(`INSERT INTO steps VALUES (%d)`, n))
				s.Kill(t)
				want += fmt.Sprint(" ", n)
			}
			recovered := func() {
				t.Helper()
				s.RestoreCheck(t, site.ExitNotReached, "recovery has not begun", s.Data)
				s.Start(t)
				if got := site.Steps(t, s.Cluster); got != want {
					t.Fatalf("it has the steps %s, there should be %s", got, want)
				}
				if o := s.Run(t, "restore-check", s.Data); o.Code != 0 || !strings.Contains(o.Out, "end of the WAL") {
					t.Errorf("restore-check: %v", o)
				}
				s.Archived(t) // no name is taken
			}
			save := func(backup string) {
				t.Helper()
				saved := filepath.Join(testenv.Dir(t), "saved")
				s.PushSaved(t, s.Must(t, "backup-fetch", s.Data, backup, "--delta", "--save-wal", saved, "--keep-archiving"), saved, 1)
			}
			push := func() {
				t.Helper()
				s.Must(t, "wal-push", "--all", s.Data)
				if o := s.Must(t, "wal-push", "--all", s.Data); !strings.Contains(o.Out, "archived 0 of 0") {
					t.Errorf("the same again: %v", o)
				}
				s.Must(t, "backup-fetch", s.Data, "--delta", "--keep-archiving")
			}
			crash(2)
			push()
			recovered()
			crash(3)
			save(offline.Backup)
			recovered()
			running := s.Backup(t)
			s.Archived(t) // else what the backup needs is in the archive, and may wait for the archiver still
			crash(4)
			push()
			recovered()
			crash(5)
			save(running.Backup)
			recovered()
		})
	}
}

// TestPushedAndStartedAgain: what wal-push --all stores of a segment that is not complete does not keep the server from
// going on with that segment, and from archiving it.
func TestPushedAndStartedAgain(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{WALSegMB: 1})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	s.Backup(t)
	for n := range 3 { // in one segment, each a bit further
		s.Exec(t, fmt.Sprintf(`INSERT INTO steps VALUES (%d)`, n+2))
		s.Kill(t)
		if o := s.Must(t, "wal-push", "--all", s.Data); !strings.Contains(o.Out, "the incomplete segment") {
			t.Errorf("wal-push --all: %v", o)
		}
		c := s.Spawn(t, s.Fetch(t), site.NoArchiving...)
		if got, want := site.Steps(t, c), "1 2 3 4"[:2*n+3]; got != want {
			t.Errorf("the archive has the steps %s, there should be %s", got, want)
		}
		s.Start(t)
	}
	s.Archived(t)
	s.Must(t, "wal-verify")
	// A server that was shut down with nothing to archive has nothing to push; and of one that runs nothing is taken.
	if o := s.Must(t, "wal-push", "--all", s.Data); strings.Contains(o.Out, "the incomplete segment") {
		t.Errorf("of a running server: %v", o)
	}
	s.Stop(t, "fast")
	if o := s.Must(t, "wal-push", "--all", s.Data); strings.Contains(o.Out, "the incomplete segment") {
		t.Errorf("of a server that was shut down: %v", o)
	}
}

// TestSavedInVain: an order that would leave the saved WAL out of the copy, or that nothing can carry out, is refused before anything is touched.
func TestSavedInVain(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{WALSegMB: 1})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	s.Stop(t, "fast")
	b := s.Offline(t)
	s.Start(t)
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	between := s.SwitchWAL(t)
	s.Eventually(t, fmt.Sprintf(`SELECT last_archived_wal >= '%s' FROM pg_stat_archiver`, between), "t")
	s.Exec(t, `CHECKPOINT`)
	s.Exec(t, `INSERT INTO steps VALUES (3)`)
	s.Kill(t)
	saved := filepath.Join(testenv.Dir(t), "saved")
	for _, order := range []string{"--no-recovery-settings", "--target=immediate"} {
		if f := s.FailsWith(t, site.ExitTarget, "restore-directory", "backup-fetch", s.Data, b.Backup, "--delta", "--save-wal", saved, order); !f.Names("would not be replayed") {
			t.Errorf("%s: %+v", order, f)
		}
	}
	objects, err := filepath.Glob(filepath.Join(s.Directory, "main/wal/*/*", between+".zst"))
	if err != nil || len(objects) != 1 {
		t.Fatal(objects, err)
	}
	site.Must(t, os.Rename(objects[0], objects[0]+".away"))
	site.Must(t, os.RemoveAll(filepath.Join(s.Data, "pg_wal", between)))
	if f := s.FailsWith(t, site.ExitTarget, "restore-directory", "backup-fetch", s.Data, b.Backup, "--delta", "--save-wal", saved); !f.Names(between) || site.Exists(saved) {
		t.Errorf("with a gap before the saved WAL: %+v", f)
	}
	site.Must(t, os.Rename(objects[0]+".away", objects[0]))
	s.Start(t)
	if got := site.Steps(t, s.Cluster); got != "1 2 3" {
		t.Errorf("it has the steps %s", got)
	}
}
