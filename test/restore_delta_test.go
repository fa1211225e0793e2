package test

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
	"github.com/pgobj/pgobj/test/testenv"
)

// TestRestoreDelta: over a data directory in which one page in a hundred has changed, files have come and gone
// and been damaged, only what differs is fetched; killed at any point it goes on.
func TestRestoreDelta(t *testing.T) {
	s := newSite(t, folderStore(t), pgtest.Options{Checksums: true})
	s.Exec(t, `CREATE TABLE big (i int PRIMARY KEY, v int, pad text);
		INSERT INTO big SELECT i, 0, md5(i::text) || repeat('x', 400) FROM generate_series(1, 100000) i`)
	s.Exec(t, `VACUUM (FREEZE) big`) // or the first reader of the copy would write to every page
	s.backup(t)
	dir := s.fetch(t)
	c := s.start(t, dir)
	want := contents(t, c, "postgres")
	c.Exec(t, `UPDATE big SET v = 1 WHERE i <= 1000; CREATE TABLE extra AS SELECT i FROM generate_series(1, 1000) i; CHECKPOINT`)
	c.Stop(t, "immediate")
	spoil(t, c, dir)
	pristine := filepath.Join(testenv.Dir(t), "data")
	if o := execute(t, testenv.AsPostgres(exec.Command("cp", "-a", dir, pristine)), nil); o.code != 0 {
		t.Fatal(o)
	}

	t.Run("fetches what differs", func(t *testing.T) {
		o := s.must(t, "backup-fetch", dir, "--delta", "--discard-wal")
		there, fetched := amounts(t, o.out)
		if there < 60 || fetched > 12 {
			t.Errorf("%v MB were there and %v MB were fetched of a database in which one page in a hundred had changed: %v", there, fetched, o)
		}
		s.restoredExactly(t, dir, want)
	})
	t.Run("killed and run again", func(t *testing.T) { s.killed(t, pristine, want, true) })
	t.Run("a fresh one killed and run again", func(t *testing.T) {
		s.killed(t, filepath.Join(testenv.Dir(t), "data"), want, false)
	})
	t.Run("refuses", func(t *testing.T) {
		home := testenv.Dir(t)
		writeFile(t, filepath.Join(home, "letter"), "dear", 0o600)
		o := s.run(t, "backup-fetch", home, "--delta")
		if o.code != 10 || !strings.Contains(o.err, "is no data directory of PostgreSQL") || string(readFile(t, filepath.Join(home, "letter"))) != "dear" {
			t.Errorf("a folder that is no data directory: %v", o)
		}
		other, err := pgtest.Create(t.Context(), pgtest.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if o := s.run(t, "backup-fetch", other.Data, "--delta"); o.code != 10 || !strings.Contains(o.err, "belongs to another cluster") {
			t.Errorf("another cluster's data directory: %v", o)
		}
		if o := s.run(t, "backup-fetch", s.Data, "--delta"); o.code != 10 || !strings.Contains(o.err, "a PostgreSQL server runs in") {
			t.Errorf("a running server's data directory: %v", o)
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
		putFile(t, path, []byte("stray"))
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

func (s *site) restoredExactly(t testing.TB, dir, want string) {
	t.Helper()
	s.verified(t, dir)
	if _, err := os.Lstat(filepath.Join(dir, "pgobj-restore-incomplete")); err == nil {
		t.Error("the marker of an unfinished restore is still there")
	}
	c := s.start(t, dir)
	sameContents(t, c, "postgres", want)
	sound(t, c)
}

// killed kills restores into a folder, each a bit later than the one before, until one gets to its end. No
// server may start on what they leave.
func (s *site) killed(t *testing.T, dir, want string, delta bool) {
	kills := 0
	for wait := 20 * time.Millisecond; ; wait += wait / 3 {
		args := []string{"backup-fetch", dir, "--discard-wal", "--delta"}
		if !delta && kills == 0 {
			args = args[:2]
		}
		cmd := s.command(args...)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Not a sleep for something to happen: any moment will do.
		timer := time.AfterFunc(wait, func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		timer.Stop()
		if err == nil {
			break
		}
		if cmd.ProcessState.ExitCode() != -1 {
			t.Fatalf("run %d: %v: %s", kills+1, err, out.String())
		}
		kills++
		if _, err := os.Lstat(filepath.Join(dir, "global/pg_control")); err == nil && exists(filepath.Join(dir, "pgobj-restore-incomplete")) {
			if delta && !exists(filepath.Join(dir, "global/pg_control.pgobj-restoring")) {
				continue // it had not begun
			}
			t.Fatalf("killed after %v it left a pg_control", wait)
		}
	}
	if kills < 2 {
		t.Errorf("only %d runs were killed: the restore is too fast for this test", kills)
	}
	t.Logf("%d runs were killed", kills)
	s.restoredExactly(t, dir, want)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// TestRestoreTerminated: SIGTERM ends a restore with a message, nothing starts on what is left, and a second
// run without --delta says what to do.
func TestRestoreTerminated(t *testing.T) {
	s := newSite(t, folderStore(t), pgtest.Options{})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1); CREATE TABLE big AS SELECT i, md5(i::text) FROM generate_series(1, 1500000) i`)
	s.backup(t)
	dir := filepath.Join(testenv.Dir(t), "data")
	marker := filepath.Join(dir, "pgobj-restore-incomplete")
	o := execute(t, s.command("backup-fetch", dir, "--jobs=1"), func(p *os.Process) {
		testenv.Eventually(t, time.Minute, "the restore has begun", func() bool { return exists(marker) })
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	})
	if o.code != 20 || !strings.Contains(o.err, "with --delta to go on") {
		t.Fatalf("after SIGTERM: %v", o)
	}
	s.doesNotStart(t, dir, "")
	o = s.run(t, "backup-fetch", dir)
	if o.code != 10 || !strings.Contains(o.err, "holds a restore that did not end: run it again with --delta") {
		t.Errorf("the next run: %v", o)
	}
	s.must(t, "backup-fetch", dir, "--delta")
	if got := steps(t, s.start(t, dir)); got != "1" {
		t.Errorf("it has the steps %s", got)
	}
}

// TestRescue: the WAL that a broken server could not archive is in the recovery after all.
func TestRescue(t *testing.T) {
	s := newSite(t, folderStore(t), pgtest.Options{})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	s.backup(t)
	s.Exec(t, `ALTER SYSTEM SET archive_command = 'false'`)
	s.Exec(t, `SELECT pg_reload_conf()`)
	s.Eventually(t, `SHOW archive_command`, "false")
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	waiting := s.SwitchWAL(t)
	s.Exec(t, `INSERT INTO steps VALUES (3)`)
	current := s.SQL(t, `SELECT pg_walfile_name(pg_current_wal_insert_lsn())`)
	s.Kill(t)
	o := s.run(t, "backup-fetch", s.Data, "--delta")
	for _, text := range []string{"2 WAL file(s)", waiting, current, "--save-wal DIR", "pgobj wal-push --all " + s.Data} {
		if o.code != 10 || !strings.Contains(o.err, text) {
			t.Errorf("it does not speak of %q: %v", text, o)
		}
	}
	saved := filepath.Join(testenv.Dir(t), "saved")
	s.pushSaved(t, s.must(t, "backup-fetch", s.Data, "--delta", "--save-wal", saved), saved, 2)
	s.Start(t)
	if got := steps(t, s.Cluster); got != "1 2 3" {
		t.Errorf("after the rescue it has the steps %s", got)
	}
}

// pushSaved runs the line with which backup-fetch says how to archive the files that it has saved.
func (s *site) pushSaved(t testing.TB, fetched outcome, saved string, files int) {
	t.Helper()
	line := regexp.MustCompile(`for f in .*; done`).FindString(fetched.out)
	if names, err := os.ReadDir(saved); err != nil || len(names) != files || !strings.Contains(line, saved) {
		t.Fatalf("it has saved %v (%v), and says to run %q: %v", names, err, line, fetched)
	}
	if o := finish(t, s.program("bash", "-ec", `pgobj() { "`+s.pgobj+`" "$@"; }; `+line)); o.code != 0 {
		t.Errorf("%s: %v", line, o)
	}
}

// TestRescueTooLate: the server has removed WAL that nobody had received, so that its last transactions are only in its data files.
func TestRescueTooLate(t *testing.T) {
	s := newSite(t, folderStore(t), pgtest.Options{WALSegMB: 1, Conf: []string{"archive_mode = off"}})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	r := s.receive(t)
	s.streaming(t, "async")
	s.backup(t)
	r.stop(t, syscall.SIGTERM)
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	lost := s.SwitchWAL(t)
	s.Exec(t, `INSERT INTO steps VALUES (3)`)
	s.Stop(t, "fast")
	if exists(filepath.Join(s.Data, "pg_wal", lost)) {
		t.Fatalf("PostgreSQL has kept %s", lost)
	}
	saved := filepath.Join(testenv.Dir(t), "saved")
	o := s.run(t, "backup-fetch", s.Data, "--delta", "--save-wal", saved)
	if o.code != 10 || !strings.Contains(o.err, lost+", is neither there nor in the archive") || exists(saved) {
		t.Errorf("it should not go on: %v", o)
	}
	s.Start(t)
	if got := steps(t, s.Cluster); got != "1 2 3" {
		t.Errorf("it has the steps %s", got)
	}
	s.Stop(t, "fast")
	s.must(t, "backup-fetch", s.Data, "--delta", "--discard-wal")
}

// TestRescueOfReceived: of a server whose WAL only wal-receive archives, PostgreSQL notes nothing in archive_status. What was not
// received is rescued, and what was received is no reason to stop.
func TestRescueOfReceived(t *testing.T) {
	s := newSite(t, folderStore(t), pgtest.Options{WALSegMB: 1, Conf: []string{"archive_mode = off", "wal_keep_size = 64MB"}})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	r := s.receive(t)
	s.streaming(t, "async")
	s.backup(t)
	stopped := func() {
		t.Helper()
		if code := r.stop(t, syscall.SIGTERM); code != 0 {
			t.Fatalf("wal-receive: %d", code)
		}
	}
	rescue := func(files int) {
		t.Helper()
		s.Stop(t, "fast")
		if o := s.run(t, "backup-fetch", s.Data, "--delta"); o.code != 10 || !strings.Contains(o.err, "that were never archived") {
			t.Fatalf("it should not go on without them: %v", o)
		}
		saved := filepath.Join(testenv.Dir(t), "saved")
		s.pushSaved(t, s.must(t, "backup-fetch", s.Data, "--delta", "--save-wal", saved), saved, files)
	}
	stopped()
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	s.SwitchWAL(t)
	s.Exec(t, `INSERT INTO steps VALUES (3)`)
	rescue(2)
	s.Start(t)
	s.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
	r = s.receive(t)
	s.streaming(t, "async")
	s.Exec(t, `INSERT INTO steps VALUES (4)`)
	s.Stop(t, "fast") // waits for the receiver
	stopped()
	s.must(t, "backup-fetch", s.Data, "--delta")
	s.Start(t)
	s.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
	if got := steps(t, s.Cluster); got != "1 2 3 4" {
		t.Errorf("it has the steps %s", got)
	}
	s.Exec(t, `INSERT INTO steps VALUES (5)`) // on a timeline that the archive knows nothing of
	rescue(2)
	s.Start(t)
	s.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
	if got := steps(t, s.Cluster); got != "1 2 3 4 5" {
		t.Errorf("it has the steps %s", got)
	}
}
