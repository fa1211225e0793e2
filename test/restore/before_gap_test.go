package restore

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestBeforeAGap: what is said about a gap can be followed to the letter, and points before it can be had, however near.
func TestBeforeAGap(t *testing.T) {
	for _, major := range []int{12, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, Template: true})
			s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
			s.Backup(t)
			step := func(n int) (time, lsn, segment string) {
				s.Exec(t, `INSERT INTO steps VALUES ($1)`, n)
				time, lsn = site.Now(t, s.Cluster), s.SQL(t, `SELECT pg_current_wal_insert_lsn()`)
				segment = s.SQL(t, `SELECT pg_walfile_name(pg_current_wal_insert_lsn())`)
				s.Exec(t, `INSERT INTO steps VALUES ($1)`, 100+n)
				s.Archived(t)
				return time, lsn, segment
			}
			second, _, _ := step(2)
			_, third, _ := step(3)
			for range 5 { // segments that end early: what fits into the buffer of read-ahead crosses all of them
				s.Exec(t, `SELECT pg_logical_emit_message(true, 'test', 'more')`)
				s.SwitchWAL(t)
			}
			_, _, lost := step(4)
			step(5)
			s.Stop(t, "immediate")
			object, err := filepath.Glob(filepath.Join(s.Directory, "main/wal/*/*", lost+"*"))
			if err != nil || len(object) != 1 {
				t.Fatal(object, err)
			}
			site.Must(t, os.Remove(object[0]))

			o := s.Run(t, "backup-fetch", filepath.Join(testenv.Dir(t), "data"))
			advice := regexp.MustCompile(`can be restored: --target-lsn ([0-9A-F/]+); `).FindStringSubmatch(o.Err)
			if o.Code != 14 || advice == nil {
				t.Fatalf("to the end: %v", o)
			}
			begin := fmt.Sprintf("%s/%s000000", "0", lost[22:]) // of the segment that is lost
			s.Refuses(t, 14, "unreachable-target", lost, []string{"--target-lsn", begin})
			for _, c := range []struct {
				want string
				args []string
			}{
				{"1 2 3 102 103", []string{"--target-lsn", advice[1]}},
				{"1 2 3 102", []string{"--target-lsn", third}},
				{"1 2", []string{"--target-time", second}},
				{"1", []string{"--target", "immediate"}},
			} {
				dir := s.Fetch(t, append(c.args, "--target-action=promote")...)
				if conf, err := os.ReadFile(filepath.Join(dir, "postgresql.auto.conf")); major >= 15 && !strings.Contains(string(conf), "recovery_prefetch = 'off'") {
					t.Errorf("%v: the recovery may read ahead into the gap: %v, %s", c.args, err, conf)
				}
				if got := site.Steps(t, s.Spawn(t, dir)); got != c.want {
					t.Errorf("%v: it has the steps %s, want %s", c.args, got, c.want)
				}
			}
		})
	}
}
