package restore

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

const exitDrill = 17

// harmful are settings with which a copy would do harm to the original, or not run at all.
func harmful(s *site.Site, outside string) []string {
	settings := []string{"listen_addresses = '*'", "shared_buffers = '4TB'", "ssl = on", "archive_timeout = 1",
		"shared_preload_libraries = 'no_such_library'", "synchronous_standby_names = 'nobody'", "external_pid_file = '" + filepath.Join(outside, "pid") + "'",
		"unix_socket_directories = '" + s.SocketDir + "'", "log_directory = '" + outside + "'", "logging_collector = on"}
	if s.Major >= 12 {
		settings = append(settings, "primary_conninfo = 'host=original password=secret'", "recovery_end_command = 'touch "+filepath.Join(outside, "ended")+"'")
	}
	return settings
}

// TestDrill: whatever the original is told, its copy recovers, is checked, and goes away again.
func TestDrill(t *testing.T) {
	for _, major := range []int{10, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, Checksums: true})
			outside := testenv.Dir(t)
			space := filepath.Join(outside, "space")
			if o := site.Execute(t, s.Program("mkdir", space), nil); o.Code != 0 {
				t.Fatal(o)
			}
			s.Exec(t, `CREATE TABLESPACE apart LOCATION '`+space+`'`)
			s.Exec(t, `CREATE TABLE steps TABLESPACE apart AS SELECT i AS n FROM generate_series(1, 1000) i; CREATE INDEX ON steps (n)`)
			backup := s.Backup(t)
			for _, setting := range harmful(s, outside) { // the server does not read them, its copy would
				s.Exec(t, "ALTER SYSTEM SET "+setting)
			}
			second := s.Backup(t)
			s.Exec(t, `INSERT INTO steps VALUES (1001)`)
			at := s.SQL(t, `SELECT pg_current_wal_insert_lsn()`)
			s.Exec(t, `INSERT INTO steps VALUES (1002)`)
			s.Archived(t)
			before := site.Survey(t, outside)

			check := filepath.Join(outside, "check.sql")
			site.WriteFile(t, check, `SELECT 1 / (count(*) = 1002)::int AS all_rows_are_there FROM steps;`, 0o600)
			d := s.Drill(t, 0, "--sql", check)
			want := "restore ok, pg_verifybackup skipped, settings ok, recover ok, pg_amcheck skipped, sql ok, stop ok, pg_checksums skipped"
			if major == 15 {
				want = strings.ReplaceAll(want, "skipped", "ok")
			}
			if d.StepNames() != want || d.Backup != second.Backup || d.Timeline != 1 || d.EndLSN <= at {
				t.Errorf("the drill: %+v, want the steps %s", d, want)
			}
			overridden := fmt.Sprint(d.Overridden)
			if !strings.Contains(overridden, "{unix_socket_permissions 0777 0700}") {
				t.Errorf("it does not tell unix_socket_permissions in octal digits: %s", overridden)
			}
			for _, name := range []string{"listen_addresses *", "ssl on", "shared_preload_libraries no_such_library", "shared_buffers", "archive_mode"} {
				if !strings.Contains(overridden, "{"+name) && name != "archive_mode" {
					t.Errorf("it does not say that it overrides %s: %s", name, overridden)
				}
			}
			// Before the last row, which the same check now misses.
			d = s.Drill(t, exitDrill, backup.Backup, "--target-lsn", at, "--sql", check)
			if d.Backup != backup.Backup || !strings.Contains(d.Reason, "division by zero") || !strings.HasSuffix(d.StepNames(), "sql failed") {
				t.Errorf("SQL that fails: %+v", d)
			}
			// Nothing of this has touched the original, or its archive.
			for path, x := range site.Survey(t, outside) {
				if before[path] != x && path != "check.sql" {
					t.Errorf("%s of the original is changed", path)
				}
			}
			if o := s.Must(t, "wal-list", "--json"); strings.Contains(o.Out, "00000002") {
				t.Errorf("a drill has archived: %v", o)
			}
			s.DrillsAreListed(t, backup.Backup, second.Backup)
		})
	}
}

// inside lists the processes that work in a directory.
func inside(dir string) (pids []string) {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		if at, err := os.Readlink(link); err == nil && strings.HasPrefix(at, dir) {
			pids = append(pids, link)
		}
	}
	return pids
}

// TestDrillEnds: however a drill ends, it leaves no server, and no copy but where one was asked for.
func TestDrillEnds(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Checksums: true})
	s.Exec(t, `CREATE TABLE steps AS SELECT i AS n FROM generate_series(1, 10000) i`)
	s.Backup(t)
	scratch, own := testenv.Dir(t), testenv.Dir(t)
	file, begun := filepath.Join(own, "wait.sql"), filepath.Join(own, "begun")
	site.WriteFile(t, file, `\! touch `+begun+"\nSELECT pg_sleep(600);", 0o644)
	endless := []string{"drill", "--scratch", scratch, "--sql", file}
	during := func(sig syscall.Signal) site.Outcome {
		t.Helper()
		if err := os.Remove(begun); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return site.Execute(t, s.Command(endless...), func(p *os.Process) {
			testenv.Eventually(t, time.Minute, "the SQL runs", func() bool { return site.Exists(begun) })
			if err := p.Signal(sig); err != nil {
				t.Fatal(err)
			}
		})
	}
	if o := during(syscall.SIGTERM); o.Code != 20 {
		t.Errorf("after SIGTERM: %v", o)
	}
	if names, err := os.ReadDir(scratch); err != nil || len(names) > 0 {
		t.Errorf("SIGTERM has left %v (%v)", names, err)
	}
	nobody := func() { // wal-fetch's helper sees a moment later that the server has gone
		t.Helper()
		testenv.Eventually(t, time.Minute, "all processes have gone", func() bool { return inside(scratch) == nil })
	}
	nobody()
	during(syscall.SIGKILL)
	nobody()
	if names, err := os.ReadDir(scratch); err != nil || len(names) != 1 {
		t.Errorf("SIGKILL has left %v (%v): does this test try what it means to?", names, err)
	}

	o := s.Must(t, "drill", "--scratch", scratch, "--keep")
	names, err := os.ReadDir(scratch)
	nobody()
	if err != nil || len(names) != 1 || !strings.Contains(o.Out, filepath.Join(scratch, names[0].Name())) {
		t.Fatalf("--keep has left %v (%v): %v", names, err, o)
	}
	for _, text := range []string{"measured  ", "seconds on this host", "passed, in", "pg_checksums"} {
		if !strings.Contains(o.Out, text) {
			t.Errorf("it does not say %q: %v", text, o)
		}
	}
	s.Must(t, "drill", "--scratch", scratch) // removes what the killed one has left, not what was kept
	if left, err := os.ReadDir(scratch); err != nil || len(left) != 1 || left[0].Name() != names[0].Name() {
		t.Errorf("in the directory are %v, kept was %v (%v)", left, names, err)
	}
	c := s.Spawn(t, filepath.Join(scratch, names[0].Name(), "data"))
	if got := c.SQL(t, `SELECT count(*) FROM steps`); got != "10000" {
		t.Errorf("the kept copy has %s rows", got)
	}
	s.DrillsAsRoot(t)
}

// TestDrillFindsDamage: what was damaged before the backup, and what is damaged in the repository.
func TestDrillFindsDamage(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Checksums: true})
	s.Exec(t, `CREATE TABLE steps AS SELECT i AS n FROM generate_series(1, 100000) i`)
	path := filepath.Join(s.Data, s.SQL(t, `SELECT pg_relation_filepath('steps')`))
	s.Stop(t, "fast")
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("damage"), 3*8192+5000); err != nil {
		t.Fatal(err)
	}
	f.Close()
	s.Start(t)
	if o := s.Run(t, "backup-push"); o.Code != 13 {
		t.Fatalf("a backup with a damaged page: %v", o)
	}
	if d := s.Drill(t, exitDrill); !strings.Contains(d.Reason, "steps") || !strings.HasSuffix(d.StepNames(), "pg_amcheck failed") {
		t.Errorf("a damaged page: %+v", d)
	}
	for _, args := range [][]string{{"--bindir", "/nonexistent"}, {"--scratch", "/nonexistent/" + strings.Repeat("x", 90)}, {"--bindir", s.BinDir, "--scratch", "/nonexistent"}} {
		s.FailsWith(t, site.ExitUsage, "drill-host", append([]string{"drill"}, args...)...)
	}
	if o := s.Must(t, "catalog-log"); strings.Contains(o.Out, "the drill cannot run") {
		t.Errorf("a drill that could not be held counts as one: %s", o.Out)
	}
	parts, err := filepath.Glob(filepath.Join(s.Directory, "main", "parts", "*", "*"))
	if err != nil || len(parts) == 0 {
		t.Fatal(parts, err)
	}
	for _, part := range parts {
		if err := os.Truncate(part, 1000); err != nil {
			t.Fatal(err)
		}
	}
	if f := s.FailsWith(t, site.ExitDamaged, "damaged-part", "drill", "--scratch", testenv.Dir(t)); f.Names("--delta") {
		t.Errorf("with damaged parts: %+v", f)
	}
}
