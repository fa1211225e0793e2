package push

import (
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// furnish puts files of all kinds into the data directory, as extensions and people do.
func furnish(t testing.TB, s *site.Site, elsewhere string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(s.Data, name) }
	rnd := rand.NewChaCha8([32]byte{1})
	check(os.MkdirAll(at("odd/empty/deeper"), 0o700))
	check(os.Mkdir(at("odd/closed"), 0o700))
	sizes := []int{0, 1, 8191, 8192, 1<<20 - 1, 1 << 20, 1<<20 + 1, 5<<20 + 17}
	for i, name := range site.OddNames {
		data := site.RandomBytes(rnd, sizes[i%len(sizes)])
		check(os.WriteFile(at("odd/"+name), data, 0o600))
		check(os.Mkdir(at("odd/"+name+".d"), 0o700))
		check(os.WriteFile(at("odd/"+name+".d/x"), data[:min(len(data), 100)], 0o600))
		when := time.Unix(int64(i)*100_000_000, int64(i)*1001) // 1970 to the far future, to the nanosecond
		check(os.Chtimes(at("odd/"+name), when, when))
	}
	for name, mode := range map[string]fs.FileMode{"read only": 0o400, "executable": 0o755, "for all": 0o666, "closed/inside": 0o440} {
		check(os.WriteFile(at("odd/"+name), []byte(name), 0o600))
		check(os.Chmod(at("odd/"+name), mode))
	}
	check(os.Chmod(at("odd/closed"), 0o500))
	check(os.Symlink("../PG_VERSION", at("odd/link")))
	check(os.Symlink("/nowhere/at/all", at("odd/dangling")))
	check(os.WriteFile(filepath.Join(elsewhere, "extra.conf"), []byte("# by the administrator\nwork_mem = '5MB'\n"), 0o600))
	check(os.Symlink(filepath.Join(elsewhere, "extra.conf"), at("extra.conf")))
	check(syscall.Mkfifo(at("odd/fifo"), 0o600))
	// Temporary files of a server that crashed.
	for _, dir := range []string{"base", "pg_tblspc/" + s.SQL(t, `SELECT oid FROM pg_tablespace WHERE spcname = 'outside'`) + "/PG_15_202209061"} {
		check(os.MkdirAll(at(dir+"/pgsql_tmp"), 0o700))
		check(os.WriteFile(at(dir+"/pgsql_tmp/pgsql_tmp123.0"), []byte("sorted"), 0o600))
		check(testenv.ChownPostgres(at(dir + "/pgsql_tmp")))
	}
	check(testenv.ChownPostgres(at("odd")))
	check(testenv.ChownPostgres(at("extra.conf")))
	check(testenv.ChownPostgres(filepath.Join(elsewhere, "extra.conf")))
}

// TestContent: what belongs to a backup comes back as it was, byte for byte and with its attributes, and
// what does not belong to it stays away.
func TestContent(t *testing.T) {
	elsewhere := testenv.Dir(t)
	space := filepath.Join(elsewhere, "space one")
	for _, dir := range []string{space, filepath.Join(elsewhere, "wal")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := testenv.ChownPostgres(dir); err != nil {
			t.Fatal(err)
		}
	}
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Checksums: true, InitdbArgs: []string{"--waldir=" + filepath.Join(elsewhere, "wal", "here")},
		Conf: []string{"allow_in_place_tablespaces = on", "autovacuum = off", "bgwriter_lru_maxpages = 0", "checkpoint_timeout = '1h'", "include_if_exists = 'extra.conf'"}})
	relations(t, s, space)
	furnish(t, s, elsewhere)
	s.Restart(t) // it makes pg_internal.init, clears temporary files …
	furnishRunning(t, s)
	temp, err := pgconn.Connect(t.Context(), s.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer temp.Close(t.Context())
	if _, err := temp.Exec(t.Context(), `CREATE TEMP TABLE temporary AS SELECT i FROM generate_series(1, 1000) i`).ReadAll(); err != nil {
		t.Fatal(err)
	}
	want := site.Contents(t, s.Cluster, "postgres") + site.Contents(t, s.Cluster, "second")
	unlogged := strings.Split(s.SQL(t, `SELECT pg_relation_filepath(oid) FROM pg_class WHERE relpersistence = 'u'`), "\n")
	if len(unlogged) < 4 {
		t.Fatalf("unlogged relations: %v, want a table, its TOAST and indexes", unlogged)
	}

	s.Backup(t, "--jobs=2")
	source := site.Survey(t, s.Data)
	s.Archived(t)
	s.Stop(t, "fast")
	if err := os.Rename(space, space+".lost"); err != nil {
		t.Fatal(err)
	}
	target := s.Fetch(t, "--jobs=2")
	restored := site.Survey(t, target)
	// pg_control's checkpoint is made unusable: TestLabelRemoved looks at that.
	delete(source, "global/pg_control")
	delete(restored, "global/pg_control")
	compareTrees(t, s.Data, target, source, restored, unlogged)
	// It follows links, and so sees some files twice; tablespace_map has the new place of a tablespace in it.
	s.Verified(t, target, "odd/link", "odd/dangling", "spaces", "tablespace_map")

	c := s.Spawn(t, target, site.NoArchiving...)
	if got := site.Contents(t, c, "postgres") + site.Contents(t, c, "second"); got != want {
		t.Errorf("the restored server has\n%s\nthe source had\n%s", got, want)
	}
	if got := c.SQL(t, `SELECT current_setting('work_mem'), (SELECT count(*) FROM unlogged)`); got != "5MB|0" {
		t.Errorf("work_mem and rows of the unlogged table: %s, want 5MB|0", got)
	}
	c.Exec(t, `INSERT INTO unlogged SELECT i, repeat(md5(i::text), 100) FROM generate_series(1, 1000) i`)
	site.Sound(t, c)
	restoreAsRoot(t, s, filepath.Join(elsewhere, "space one"))
}

// relations makes tables in all kinds of places.
func relations(t testing.TB, s *site.Site, space string) {
	t.Helper()
	inner := filepath.Join(s.Data, "spaces", "inner")
	if err := os.MkdirAll(inner, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := testenv.ChownPostgres(filepath.Dir(inner)); err != nil {
		t.Fatal(err)
	}
	s.Exec(t, `CREATE TABLESPACE outside LOCATION '`+space+`'`)
	s.Exec(t, `CREATE TABLESPACE inside LOCATION '`+inner+`'`)
	s.Exec(t, `CREATE TABLESPACE inplace LOCATION ''`)
	s.Exec(t, `CREATE DATABASE second TABLESPACE outside`)
	for _, space := range []string{"pg_default", "outside", "inside", "inplace"} {
		s.Exec(t, `CREATE TABLE t_`+space+` TABLESPACE `+space+` AS SELECT i, md5(i::text) FROM generate_series(1, 3000) i`)
		s.Exec(t, `CREATE INDEX ON t_`+space+` (i) TABLESPACE `+space)
	}
	s.SQLIn(t, "second", `CREATE TABLE t AS SELECT i FROM generate_series(1, 100) i`)
	s.Exec(t, `CREATE UNLOGGED TABLE unlogged (i int PRIMARY KEY, long text);
		INSERT INTO unlogged SELECT i, repeat(md5(i::text), 100) FROM generate_series(1, 1000) i`)
	s.Exec(t, `CREATE UNLOGGED TABLE unlogged_outside TABLESPACE outside AS SELECT i FROM generate_series(1, 1000) i`)
}

// furnishRunning makes what a server clears away when it starts.
func furnishRunning(t testing.TB, s *site.Site) {
	t.Helper()
	for _, name := range []string{"base/pgsql_tmp/pgsql_tmp77.1", "pg_stat_tmp/x.stat", "pg_notify/junk", "pg_replslot/slot/state", "pg_snapshots/00000003-1", "pg_dynshmem/mmap.1"} {
		full := filepath.Join(s.Data, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			t.Fatal(err)
		}
		site.WriteFile(t, full, "of the running server", 0o600)
		if err := testenv.ChownPostgres(filepath.Dir(full)); err != nil {
			t.Fatal(err)
		}
	}
}

var (
	emptied   = regexp.MustCompile(`^(pg_replslot|pg_dynshmem|pg_notify|pg_serial|pg_snapshots|pg_stat_tmp|pg_subtrans|pg_wal(/archive_status)?)/`)
	leftOut   = regexp.MustCompile(`^postmaster\.(pid|opts)$|(^|/)(pgsql_tmp|pg_internal\.init)|/t[0-9]+_[0-9]+(_[a-z]+)?$`)
	ofRestore = []string{"backup_label", "tablespace_map", "backup_manifest", "recovery.signal", "pg_wal/pgobj_restore.json"}
)

// compareTrees holds a restored tree against the source's.
func compareTrees(t testing.TB, from, to string, source, restored map[string]site.Thing, unlogged []string) {
	t.Helper()
	left := map[string]int{} // how many were left out for each reason: a test without any would prove nothing
	for _, p := range slices.Sorted(maps.Keys(source)) {
		x := source[p]
		got, there := restored[p]
		delete(restored, p)
		reason := ""
		switch {
		case emptied.MatchString(p) && p != "pg_wal/archive_status":
			reason = "emptied"
		case leftOut.MatchString(p):
			reason = "temporary"
		case slices.Contains(unlogged, strings.TrimSuffix(strings.TrimSuffix(p, "_fsm"), "_vm")):
			reason = "unlogged"
		case x.Mode&fs.ModeNamedPipe != 0:
			reason = "no file"
		}
		if reason != "" {
			left[reason]++
			if there {
				t.Errorf("%q was restored (%s)", p, reason)
			}
			continue
		}
		switch {
		case p == "pg_wal":
			x = site.Thing{Mode: fs.ModeDir | 0o700, Uid: x.Uid, Gid: x.Gid} // a directory in place of the link
		case p == "extra.conf":
			x = site.Survey(t, filepath.Dir(x.Content))["extra.conf"] // the file in place of the link
		case strings.HasPrefix(x.Content, from):
			x.Content = to + strings.TrimPrefix(x.Content, from) // the tablespace in the data directory went with it
		case p == "global/pg_control":
			x.Mtime = got.Mtime // it was made last
		case p == "postgresql.auto.conf":
			x.Mtime, x.Content = got.Mtime, got.Content
		}
		if !there {
			t.Errorf("%q is missing", p)
		} else if got.String() != x.String() {
			t.Errorf("%q is %v, was %v", p, got, x)
		}
	}
	for _, p := range ofRestore {
		if restored[p].Mode != 0o600 {
			t.Errorf("%s has mode %v", p, restored[p].Mode)
		}
		delete(restored, p)
	}
	delete(restored, "pg_wal/archive_status") // it was behind the link
	if len(restored) != 0 {
		t.Errorf("restored, but not in the source: %q", slices.Sorted(maps.Keys(restored)))
	}
	if left["emptied"] < 6 || left["temporary"] < 4 || left["unlogged"] < 5 || left["no file"] != 1 {
		t.Errorf("left out: %v: the source lacked what the test is about", left)
	}
}

// restoreAsRoot: root may give files away, and has to.
func restoreAsRoot(t testing.TB, s *site.Site, space string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Log("not root: that root restores the owner cannot be seen")
		return
	}
	if err := os.Rename(space, space+".first"); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(testenv.Dir(t), "data")
	cmd := exec.Command(s.Pgobj, "backup-fetch", target)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, s.Settings...)
	if o := site.Finish(t, cmd); o.Code != 0 {
		t.Fatal(o)
	}
	owner := site.Survey(t, s.Data)["."]
	for p, x := range site.Survey(t, target) {
		if x.Uid != owner.Uid || x.Gid != owner.Gid {
			t.Errorf("%q belongs to %d:%d, want %d:%d", p, x.Uid, x.Gid, owner.Uid, owner.Gid)
		}
	}
	s.Spawn(t, target, site.NoArchiving...)
}
