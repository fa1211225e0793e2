package restore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/s3server"
	"github.com/pgobj/pgobj/test/site"
)

// points are places in the history of a server with a table steps, into which each step puts its number:
//
//	1  backup  2  time  3  4 (xid)  5  restore point  6  LSN  7
type points struct {
	backup                site.BackupEntry
	time, xid, lsn, early string // early is a time before the backup
}

// history makes a server go through its points, and archives all of it.
func history(t testing.TB, s *site.Site) (p points) {
	t.Helper()
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	p.early = site.Now(t, s.Cluster)
	p.backup = s.Backup(t)
	step := func(n int) { s.Exec(t, `INSERT INTO steps VALUES ($1)`, n) }
	step(2)
	p.time = site.Now(t, s.Cluster)
	step(3)
	p.xid = s.SQL(t, `INSERT INTO steps VALUES (4); SELECT txid_current()`)
	step(5)
	s.Exec(t, `SELECT pg_create_restore_point('it''s here')`)
	step(6)
	p.lsn = s.SQL(t, `SELECT pg_current_wal_insert_lsn()`)
	step(7)
	s.Archived(t)
	return p
}

// TestRestoreMatrix: every kind of target on every version ends exactly where it should.
func TestRestoreMatrix(t *testing.T) {
	majors := []int{10, 11, 12, 13, 14, 15, 16, 17, 18}
	var versions, restores atomic.Int64
	t.Run("on", func(t *testing.T) {
		for _, major := range majors {
			t.Run(fmt.Sprint(major), func(t *testing.T) {
				t.Parallel()
				versions.Add(1) // a filter may leave some out
				s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, Template: true})
				m := &matrix{Site: s, points: history(t, s), restores: &restores}
				s.Stop(t, "immediate")
				m.all(t)
			})
		}
	})
	if want := versions.Load() * 11; restores.Load() != want {
		t.Errorf("%d restores were proven, there should be %d", restores.Load(), want)
	}
	t.Logf("%d restores on %d versions of PostgreSQL", restores.Load(), versions.Load())
}

type matrix struct {
	*site.Site
	points
	restores *atomic.Int64
}

func (m *matrix) all(t *testing.T) {
	m.end(t, "end", "1 2 3 4 5 6 7")
	m.end(t, "time", "1 2", "--target-time", m.time)
	m.end(t, "xid", "1 2 3 4", "--target-xid", m.xid, "--target-action", "promote")
	m.end(t, "xid, exclusive", "1 2 3", "--target-xid", m.xid, "--exclusive", "--target-action=promote")
	m.end(t, "lsn", "1 2 3 4 5 6", "--target-lsn", m.lsn, "--target-action", "shutdown")
	m.end(t, "name", "1 2 3 4 5", "--target-name", "it's here")
	m.end(t, "immediate", "1", "--target", "immediate", "--target-action", "promote")
	if names, _ := filepath.Glob(filepath.Join(m.Directory, "main/wal/*/0000000[2-9]")); len(names) > 0 {
		t.Errorf("copies have archived into the original's archive: %v", names)
	}
	m.fork(t)
	m.end(t, "latest", "1 2 3 4 5 6 100", "--target-timeline", "latest")
	m.end(t, "current", "1 2 3 4 5 6 7", "--target-timeline", "current")
	m.end(t, "timeline 2", "1 2 3 4 5 6 100", "--target-timeline", "2")
	m.missed(t)
}

// TestRestoreMatrixOverStores: the same on the other storages.
func TestRestoreMatrixOverStores(t *testing.T) {
	minio := s3server.ForTest(t, s3server.MinIO)
	var restores atomic.Int64
	t.Run("on", func(t *testing.T) {
		for _, driver := range []string{"minio", "aws"} {
			t.Run(driver, func(t *testing.T) {
				t.Parallel()
				st := site.S3Store(t, minio, driver)
				st.Settings = append(st.Settings, "PGOBJ_SERVER="+driver)
				s := site.NewSite(t, st, pgtest.Options{Major: 15, Template: true})
				m := &matrix{Site: s, points: history(t, s), restores: &restores}
				s.Stop(t, "immediate")
				m.end(t, "end", "1 2 3 4 5 6 7")
				m.end(t, "time", "1 2", "--target-time", m.time)
				m.end(t, "lsn", "1 2 3 4 5 6", "--target-lsn", m.lsn, "--target-action", "promote")
				m.end(t, "immediate", "1", "--target", "immediate", "--target-action", "promote")
				m.fork(t)
				m.end(t, "timeline 2", "1 2 3 4 5 6 100", "--target-timeline", "2")
				m.end(t, "current", "1 2 3 4 5 6 7", "--target-timeline", "current")
			})
		}
	})
	if restores.Load() != 12 && !t.Failed() {
		t.Errorf("%d restores were proven, there should be 12", restores.Load())
	}
}

// end restores to a target, and compares rows and what the server says of itself.
func (m *matrix) end(t *testing.T, name, want string, args ...string) {
	t.Run(name, func(t *testing.T) {
		dir := m.Fetch(t, args...)
		flags := strings.Join(args, " ")
		if strings.Contains(flags, "shutdown") {
			m.shutsDown(t, dir)
		}
		c := m.Spawn(t, dir)
		if got := site.Steps(t, c); got != want {
			t.Errorf("it has the steps %s, there should be %s", got, want)
		}
		paused := strings.Contains(flags, "--target-") && !strings.Contains(flags, "action") && !strings.Contains(flags, "timeline")
		if got := c.SQL(t, `SELECT pg_is_in_recovery()`); got != map[bool]string{true: "t", false: "f"}[paused] {
			t.Errorf("in recovery: %s, it should pause: %v", got, paused)
		}
		if got := c.SQL(t, `SHOW archive_mode`); got != "off" {
			t.Errorf("archive_mode of the copy is %s", got)
		}
		m.believes(t, c, paused, args)
		m.restores.Add(1)
	})
}

// believes holds what the server makes of the settings, as its version shows them, and what became of the file that
// told it to recover.
func (m *matrix) believes(t *testing.T, c *pgtest.Cluster, paused bool, args []string) {
	t.Helper()
	begin, end := "recovery.signal", ""
	if m.Major < 12 {
		begin, end = "recovery.conf", "recovery.done"
	}
	if site.Exists(filepath.Join(c.Data, begin)) != paused || end != "" && site.Exists(filepath.Join(c.Data, end)) == paused {
		t.Errorf("%s is there: %v; the recovery has ended: %v", begin, !paused, !paused)
	}
	if m.Major < 12 { // it has no such settings
		return
	}
	want := map[string]string{"recovery_target": "", "recovery_target_xid": "", "recovery_target_lsn": "", "recovery_target_name": "", "recovery_target_inclusive": "on", "recovery_target_timeline": "latest"}
	for i, arg := range args {
		name := "recovery_" + strings.ReplaceAll(strings.TrimPrefix(arg, "--"), "-", "_")
		if _, known := want[name]; known {
			want[name] = args[i+1]
		} else if arg == "--exclusive" {
			want["recovery_target_inclusive"] = "off"
		}
	}
	if want["recovery_target"] != "" {
		want["recovery_target_timeline"] = "current" // of the backup, which knows no other
	}
	for name, value := range want {
		if got := c.SQL(t, `SHOW `+name); got != value {
			t.Errorf("%s is %q, want %q", name, got, value)
		}
	}
}

// missed: a target that never comes. Up to 12 the server opens with all there is, from 13 on it stops with an error.
func (m *matrix) missed(t *testing.T) {
	t.Run("missed", func(t *testing.T) {
		dir := m.Fetch(t, m.points.backup.Backup, "--target-name", "never made", "--target-timeline", "current")
		if m.Major >= 13 {
			m.DoesNotStart(t, dir, "recovery ended before configured recovery target was reached")
		} else if got := site.Steps(t, m.Spawn(t, dir)); got != "1 2 3 4 5 6 7" {
			t.Errorf("it has the steps %s", got)
		}
		m.restores.Add(1)
	})
}

// shutsDown: the server stops by itself at the target. Then it is told to promote there.
func (m *matrix) shutsDown(t *testing.T, dir string) {
	t.Helper()
	c, err := pgtest.Open(t, dir, m.Major)
	ended, ok := errors.AsType[*pgtest.Ended](err)
	if !ok || ended.State != "exit status 0" && !strings.Contains(c.Log(), "shut down") || !strings.Contains(c.Log(), "recovery stopping after WAL location") {
		t.Fatalf("with the action shutdown: %v", err)
	}
	file := filepath.Join(dir, map[bool]string{true: "recovery.conf", false: "postgresql.auto.conf"}[m.Major < 12])
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	site.WriteFile(t, file, strings.Replace(string(text), "= 'shutdown'", "= 'promote'", 1), 0o600)
}

// fork makes timeline 2, which leaves timeline 1 after step 6, and archives it.
func (m *matrix) fork(t *testing.T) {
	t.Helper()
	dir := m.Fetch(t, "--target-lsn", m.lsn, "--target-action", "promote", "--keep-archiving")
	branch := &site.Site{Store: m.Store, Pgobj: m.Pgobj, Cluster: m.StartArchiving(t, dir)}
	branch.Exec(t, `INSERT INTO steps VALUES (100)`)
	branch.Archived(t)
	branch.Stop(t, "fast")
}
