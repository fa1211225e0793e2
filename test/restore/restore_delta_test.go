package restore

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestRestoreDelta: over a data directory in which one page in a hundred has changed, files have come and gone
// and been damaged, only what differs is fetched; killed at any point it goes on.
func TestRestoreDelta(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Checksums: true})
	s.Exec(t, `CREATE TABLE big (i int PRIMARY KEY, v int, pad text);
		INSERT INTO big SELECT i, 0, md5(i::text) || repeat('x', 400) FROM generate_series(1, 100000) i`)
	s.Exec(t, `VACUUM (FREEZE) big`) // or the first reader of the copy would write to every page
	s.Backup(t)
	dir := s.Fetch(t)
	c := s.Spawn(t, dir)
	want := site.Contents(t, c, "postgres")
	c.Exec(t, `UPDATE big SET v = 1 WHERE i <= 1000; CREATE TABLE extra AS SELECT i FROM generate_series(1, 1000) i; CHECKPOINT`)
	c.Stop(t, "immediate")
	spoil(t, c, dir)
	pristine := filepath.Join(testenv.Dir(t), "data")
	if o := site.Execute(t, testenv.AsPostgres(exec.Command("cp", "-a", dir, pristine)), nil); o.Code != 0 {
		t.Fatal(o)
	}

	t.Run("fetches what differs", func(t *testing.T) {
		o := s.Must(t, "backup-fetch", dir, "--delta", "--discard-wal")
		there, fetched := amounts(t, o.Out)
		if there < 60 || fetched > 12 {
			t.Errorf("%v MB were there and %v MB were fetched of a database in which one page in a hundred had changed: %v", there, fetched, o)
		}
		s.RestoredExactly(t, dir, want)
	})
	t.Run("killed and run again", func(t *testing.T) { s.Killed(t, pristine, want, true) })
	t.Run("a fresh one killed and run again", func(t *testing.T) {
		s.Killed(t, filepath.Join(testenv.Dir(t), "data"), want, false)
	})
	t.Run("refuses", func(t *testing.T) {
		home := testenv.Dir(t)
		site.WriteFile(t, filepath.Join(home, "letter"), "dear", 0o600)
		f := s.FailsWith(t, site.ExitTarget, "restore-directory", "backup-fetch", home, "--delta")
		if !f.Names("not a data directory") || string(site.ReadFile(t, filepath.Join(home, "letter"))) != "dear" {
			t.Errorf("a directory that is no data directory: %+v", f)
		}
		other, err := pgtest.Create(t.Context(), pgtest.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if f := s.FailsWith(t, site.ExitTarget, "restore-directory", "backup-fetch", other.Data, "--delta"); !f.Names("another cluster") {
			t.Errorf("another cluster's data directory: %+v", f)
		}
		if f := s.FailsWith(t, site.ExitTarget, "restore-directory", "backup-fetch", s.Data, "--delta"); !f.Names("server runs in " + s.Data) {
			t.Errorf("a running server's data directory: %+v", f)
		}
	})
}

// spoil does to a data directory what a delta restore has to undo.
func spoil(t testing.TB, c *pgtest.Cluster, dir string) {
	t.Helper()
	strays := []string{"stray", "base/1/99999", "global/stray.d/deep/file", "pg_tblspc/77777/file", "standby.signal"}
	for _, name := range strays {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		site.PutFile(t, path, []byte("stray"))
	}
	if err := os.RemoveAll(filepath.Join(dir, "pg_xact")); err != nil {
		t.Fatal(err)
	}
	// A file that has another name elsewhere is not this cluster's alone.
	version := filepath.Join(dir, "base/1/PG_VERSION")
	if err := os.Link(version, filepath.Join(filepath.Dir(dir), "linked")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "postgresql.conf"), filepath.Join(dir, "postgresql.conf.old")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/null", filepath.Join(dir, "postgresql.conf")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "pg_ident.conf"), 0o400); err != nil {
		t.Fatal(err)
	}
	if err := testenv.ChownPostgres(dir); err != nil {
		t.Fatal(err)
	}
}

var amount = regexp.MustCompile(`([0-9.]+) MB of it was there already; fetched ([0-9.]+) ([kM]?B)`)

func amounts(t testing.TB, out string) (there, fetched float64) {
	t.Helper()
	m := amount.FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("backup-fetch does not tell what was there: %s", out)
	}
	there, _ = strconv.ParseFloat(m[1], 64)
	fetched, _ = strconv.ParseFloat(m[2], 64)
	if m[3] != "MB" {
		fetched = 0
	}
	return there, fetched
}

// TestRestoreTerminated: SIGTERM ends a restore with a message, nothing starts on what is left, and a second
// run without --delta says what to do.
func TestRestoreTerminated(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1); CREATE TABLE big AS SELECT i, md5(i::text) FROM generate_series(1, 1500000) i`)
	s.Backup(t)
	dir := filepath.Join(testenv.Dir(t), "data")
	marker := filepath.Join(dir, "pgobj-restore-incomplete")
	o := site.Execute(t, s.Command("backup-fetch", dir, "--jobs=1"), func(p *os.Process) {
		testenv.Eventually(t, time.Minute, "the restore has begun", func() bool { return site.Exists(marker) })
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	})
	if o.Code != 20 || !strings.Contains(o.Err, "with --delta to continue") {
		t.Fatalf("after SIGTERM: %v", o)
	}
	s.DoesNotStart(t, dir, "")
	if f := s.FailsWith(t, site.ExitTarget, "restore-directory", "backup-fetch", dir); !f.Names("unfinished", "--delta") {
		t.Errorf("the next run: %+v", f)
	}
	s.Must(t, "backup-fetch", dir, "--delta")
	if got := site.Steps(t, s.Spawn(t, dir)); got != "1" {
		t.Errorf("it has the steps %s", got)
	}
}

// TestRescue: the WAL that a broken server could not archive is in the recovery after all.
func TestRescue(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	s.Backup(t)
	s.Exec(t, `ALTER SYSTEM SET archive_command = 'false'`)
	s.Exec(t, `SELECT pg_reload_conf()`)
	s.Eventually(t, `SHOW archive_command`, "false")
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	waiting := s.SwitchWAL(t)
	s.Exec(t, `INSERT INTO steps VALUES (3)`)
	current := s.SQL(t, `SELECT pg_walfile_name(pg_current_wal_insert_lsn())`)
	s.Kill(t)
	f := s.FailsWith(t, site.ExitTarget, "restore-directory", "backup-fetch", s.Data, "--delta")
	if !f.Names("2 WAL file(s)", waiting, current, "--save-wal DIR", "wal-push --all "+s.Data) {
		t.Errorf("it does not name them: %+v", f)
	}
	saved := filepath.Join(testenv.Dir(t), "saved")
	s.PushSaved(t, s.Must(t, "backup-fetch", s.Data, "--delta", "--save-wal", saved), saved, 2)
	s.Start(t)
	if got := site.Steps(t, s.Cluster); got != "1 2 3" {
		t.Errorf("after the rescue it has the steps %s", got)
	}
}

// TestRescueTooLate: the server has removed WAL that nobody had received, so that its last transactions are only in its data files.
func TestRescueTooLate(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{WALSegMB: 1, Conf: []string{"archive_mode = off", "wal_keep_size = 64MB"}})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	r := s.Receive(t)
	s.Streaming(t, "async")
	s.Backup(t)
	r.Stop(t, syscall.SIGTERM)
	s.Exec(t, `ALTER SYSTEM SET wal_keep_size = 0`)
	s.Exec(t, `SELECT pg_reload_conf()`)
	s.Eventually(t, `SHOW wal_keep_size`, "0")
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	lost := s.SwitchWAL(t)
	s.Exec(t, `INSERT INTO steps VALUES (3)`)
	s.Stop(t, "fast")
	if site.Exists(filepath.Join(s.Data, "pg_wal", lost)) {
		t.Fatalf("PostgreSQL has kept %s", lost)
	}
	saved := filepath.Join(testenv.Dir(t), "saved")
	if f := s.FailsWith(t, site.ExitTarget, "restore-directory", "backup-fetch", s.Data, "--delta", "--save-wal", saved); !f.Names(lost) || site.Exists(saved) {
		t.Errorf("it should not go on: %+v", f)
	}
	s.Start(t)
	if got := site.Steps(t, s.Cluster); got != "1 2 3" {
		t.Errorf("it has the steps %s", got)
	}
	s.Stop(t, "fast")
	s.Must(t, "backup-fetch", s.Data, "--delta", "--discard-wal")
}

// TestRescueOfReceived: of a server whose WAL only wal-receive archives, PostgreSQL notes nothing in archive_status. What was not
// received is rescued, and what was received is no reason to stop.
func TestRescueOfReceived(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{WALSegMB: 1, Conf: []string{"archive_mode = off", "wal_keep_size = 64MB"}})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	r := s.Receive(t)
	s.Streaming(t, "async")
	s.Backup(t)
	stopped := func() {
		t.Helper()
		if code := r.Stop(t, syscall.SIGTERM); code != 0 {
			t.Fatalf("wal-receive: %d", code)
		}
	}
	rescue := func(files int) {
		t.Helper()
		s.Stop(t, "fast")
		if f := s.FailsWith(t, site.ExitTarget, "restore-directory", "backup-fetch", s.Data, "--delta"); !f.Names("never archived") {
			t.Fatalf("it should not go on without them: %+v", f)
		}
		saved := filepath.Join(testenv.Dir(t), "saved")
		s.PushSaved(t, s.Must(t, "backup-fetch", s.Data, "--delta", "--save-wal", saved), saved, files)
	}
	stopped()
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	s.SwitchWAL(t)
	s.Exec(t, `INSERT INTO steps VALUES (3)`)
	rescue(2)
	s.Start(t)
	s.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
	r = s.Receive(t)
	s.Streaming(t, "async")
	s.Exec(t, `INSERT INTO steps VALUES (4)`)
	s.Stop(t, "fast") // waits for the receiver
	stopped()
	s.Must(t, "backup-fetch", s.Data, "--delta")
	s.Start(t)
	s.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
	if got := site.Steps(t, s.Cluster); got != "1 2 3 4" {
		t.Errorf("it has the steps %s", got)
	}
	s.Exec(t, `INSERT INTO steps VALUES (5)`) // on a timeline that the archive knows nothing of
	rescue(2)
	s.Start(t)
	s.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
	if got := site.Steps(t, s.Cluster); got != "1 2 3 4 5" {
		t.Errorf("it has the steps %s", got)
	}
}
