package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// collect walks, and checks what holds for every walk: the order, and that sources can be opened.
func collect(t *testing.T, root string, opt WalkOptions) (map[string]Entry, []string) {
	t.Helper()
	entries, warned, last := map[string]Entry{}, []string{}, ""
	opt.Warn = func(path, reason string) { warned = append(warned, path+": "+reason) }
	for e, err := range Walk(root, opt) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Path <= last {
			t.Errorf("%q comes after %q", e.Path, last)
		}
		if parent := filepath.Dir(e.Path); parent != "." {
			if p, ok := entries[parent]; !ok || p.Type != TypeDir && p.Type != TypeTablespace {
				t.Errorf("%q comes before its directory", e.Path)
			}
		}
		if _, err := os.Lstat(e.Source); err != nil {
			t.Error(err)
		}
		entries[e.Path], last = e, e.Path
	}
	return entries, warned
}

// tree makes files (directories when the name ends in a slash, links when it has " -> ").
func tree(t *testing.T, root string, names ...string) {
	t.Helper()
	for _, n := range names {
		name, target, isLink := strings.Cut(n, " -> ")
		path := filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		switch {
		case err != nil:
		case isLink:
			err = os.Symlink(target, path)
		case strings.HasSuffix(n, "/"):
			err = os.MkdirAll(path, 0o750)
		default:
			err = os.WriteFile(path, []byte(n), 0o640)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func paths(entries map[string]Entry) []string { return slices.Sorted(maps.Keys(entries)) }

func TestWalkEqualsPgBasebackup(t *testing.T) {
	wal := testenv.Dir(t) + "/wal"
	c := pgtest.Start(t, pgtest.Options{Conf: []string{"autovacuum = off"}, InitdbArgs: []string{"--waldir=" + wal}})
	outside, inside := testenv.Dir(t), filepath.Join(c.Data, "my spaces", "ts")
	tree(t, c.Data, "my spaces/ts/", "my spaces/other", "odd\nname", "odd\\name", "odd\xff\xfename", "base.d", "base-/x", "base/1.d",
		"global.", "etc/log/x", "base/pgsql_tmp/pgsql_tmp1.0", "pg_replslot/x/state",
		"postgresql.auto.conf.tmp", "base/t1_2")
	if err := filepath.WalkDir(c.Data, func(p string, _ fs.DirEntry, err error) error {
		return errors.Join(err, testenv.ChownPostgres(p))
	}); err != nil {
		t.Fatal(err)
	}
	c.Exec(t, fmt.Sprintf("CREATE TABLESPACE outside LOCATION '%s'", outside))
	c.Exec(t, fmt.Sprintf("CREATE TABLESPACE inside LOCATION '%s'", inside))
	conn, err := pgconn.Connect(t.Context(), c.DSN("postgres")) // temporary tables live as long as it does
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	sql := "SET allow_in_place_tablespaces = on; CREATE TABLESPACE inplace LOCATION ''"
	for _, s := range append(strings.Split(sql, ";"), "CREATE TEMP TABLE temp AS SELECT 1") {
		if err := conn.Exec(t.Context(), s).Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, space := range []string{"pg_default", "outside", "inside", "inplace"} {
		c.Exec(t, fmt.Sprintf("CREATE TABLE t_%s TABLESPACE %[1]s AS SELECT repeat('x', i) FROM generate_series(1, 500) i", space))
		c.Exec(t, fmt.Sprintf("CREATE UNLOGGED TABLE u_%s (i serial PRIMARY KEY, s text) TABLESPACE %[1]s", space))
		c.Exec(t, fmt.Sprintf("INSERT INTO u_%s (s) SELECT repeat('x', i) FROM generate_series(1, 500) i", space))
		c.Exec(t, fmt.Sprintf("VACUUM u_%s", space))
	}
	c.Exec(t, "CHECKPOINT")
	out := testenv.Dir(t)
	pgtest.Run(t, c.Bin("pg_basebackup"), "-d", c.DSN("postgres"), "-D", out+"/data", "-X", "none", "-c", "fast",
		"-T", outside+"="+out+"/outside", "-T", inside+"="+out+"/inside")

	ctl, _, err := ReadControl(c.Data)
	if err != nil {
		t.Fatal(err)
	}
	entries, warned := collect(t, c.Data, WalkOptions{Major: 15, CatalogVersion: ctl.CatalogVersion})
	if len(warned) > 0 {
		t.Error(warned)
	}
	want := map[string]bool{}
	list(t, out+"/data", "", want)
	for _, own := range []string{"backup_label", "backup_manifest", controlFile} {
		if !want[own] {
			t.Errorf("pg_basebackup did not make %s", own)
		}
		delete(want, own)
	}
	if got, want := paths(entries), slices.Sorted(maps.Keys(want)); !slices.Equal(got, want) {
		t.Errorf("only in the walk: %q", minus(got, want))
		t.Errorf("only in pg_basebackup's: %q", minus(want, got))
	}
	if e := entries["pg_wal"]; e.Type != TypeDir || e.Link != wal || !e.Mode.IsDir() {
		t.Errorf("pg_wal: %+v", e)
	}
	for space, location := range map[string]string{"outside": outside, "inside": inside} {
		e := entries["pg_tblspc/"+c.SQL(t, "SELECT oid FROM pg_tablespace WHERE spcname = $1", space)]
		if e.Type != TypeTablespace || e.Link != location {
			t.Errorf("%s: %+v", space, e)
		}
	}
	for _, kind := range []string{"t", "u"} {
		for _, space := range []string{"pg_default", "outside", "inside", "inplace"} {
			rel := c.SQL(t, fmt.Sprintf("SELECT pg_relation_filepath('%s_%s')", kind, space))
			_, data := entries[rel]
			if init := entries[rel+"_init"]; data != (kind == "t") || (init.Fork == "init") != (kind == "u") || init.Relation != (kind == "u") {
				t.Errorf("%s_%s (%s): data %t, init fork %+v", kind, space, rel, data, init)
			}
		}
	}
}

// list adds everything below dir, over the links of tablespaces.
func list(t *testing.T, dir, prefix string, into map[string]bool) {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		path := filepath.Join(prefix, n.Name())
		into[path] = true
		if n.IsDir() || n.Type()&fs.ModeSymlink != 0 {
			list(t, filepath.Join(dir, n.Name()), path, into)
		}
	}
}

func minus(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

func TestWalkRules(t *testing.T) {
	root := t.TempDir()
	kept := []string{
		"PG_VERSION", "base/", "base/5/", "base/5/1", "base/5/1_fsm", "base/5/1.12", "base/5/2_init", "base/5/2_init.1", "base/5/3x",
		"base/5/x/", "base/5/x/2", "base/6/", "base/6/2", "ext/", "ext/postmaster.pid", "ext/pg_wal/", "ext/pg_wal/x", "ext/pg_control",
		"ext/2", "ext/2_init", "ext/t1_1", "global/", "global/1", "global/t1_1", "log/", "log/a", "pg_stat/", "pg_stat/x", "pg_tblspc/", "pg_xact/", "pg_xact/0000",
		"pg_dynshmem/", "pg_notify/", "pg_serial/", "pg_snapshots/", "pg_stat_tmp/", "pg_subtrans/", "pg_replslot/", "stats/",
		"pg_wal/", "pg_wal/archive_status/", "pg_wal/summaries/", "current_logfiles",
	}
	tree(t, root, kept...)
	tree(t, root, "base/5/2", "base/5/2.1", "base/5/2_fsm", "base/5/2_vm.3", "base/5/t3_7", "base/5/t3_7_fsm.1", "base/5/pg_internal.init",
		"base/5/pg_internal.init.77", "pgsql_tmp1", "base/pgsql_tmp/x", "global/pg_control", "global/pg_internal.init", "postmaster.pid", "postmaster.opts",
		"backup_label", "tablespace_map", "backup_label.old", "tablespace_map.old", "backup_manifest", "backup_manifest.tmp",
		"postgresql.auto.conf.tmp", "current_logfiles.tmp", "recovery.signal", "standby.signal", "recovery.conf", "recovery.done",
		"pg_dynshmem/x", "pg_notify/x", "pg_serial/x", "pg_snapshots/x", "pg_stat_tmp/x", "pg_subtrans/x", "pg_replslot/s/state", "stats/x",
		"pg_wal/000000010000000000000001", "pg_wal/archive_status/x.ready", "pg_wal/summaries/x.summary", "lost+found/", "ext/.DS_Store")
	for i := range kept {
		kept[i] = strings.TrimSuffix(kept[i], "/")
	}
	slices.Sort(kept)
	entries, warned := collect(t, root, WalkOptions{Major: 17, StatsTempDir: "stats"})
	if got := paths(entries); !slices.Equal(got, kept) || len(warned) != 0 {
		t.Errorf("too much: %q\nmissing: %q\nwarnings: %q", minus(got, kept), minus(kept, got), warned)
	}
	for path, want := range map[string]Entry{
		"base/5/1": {Relation: true}, "base/5/1_fsm": {Relation: true, Fork: "fsm"}, "base/5/1.12": {Relation: true, Segno: 12},
		"base/5/2_init.1": {Relation: true, Fork: "init", Segno: 1}, "base/5/3x": {}, "global/1": {Relation: true}, "ext/2": {}, "pg_xact/0000": {},
	} {
		if e := entries[path]; e.Relation != want.Relation || e.Fork != want.Fork || e.Segno != want.Segno {
			t.Errorf("%s: %+v", path, e)
		}
	}
	if e := entries["PG_VERSION"]; e.Mode != 0o640 || e.Size != 10 || e.UID != os.Getuid() || e.Mtime.IsZero() || e.Ctime.IsZero() || e.Ino == 0 {
		t.Errorf("%+v", e)
	}
	entries, _ = collect(t, root, WalkOptions{Major: 16, StatsTempDir: filepath.Join(root, "log")})
	if _, summaries := entries["pg_wal/summaries"]; summaries || entries["stats/x"].Path == "" || entries["log/a"].Path != "" {
		t.Errorf("%q", paths(entries))
	}
}

func TestWalkLinks(t *testing.T) {
	root, out := t.TempDir(), t.TempDir()
	tree(t, out, "conf", "dir/a", "dir/sub/b", "dir/back -> "+root+"/base", "db/1", "db/2", "db/2_init", "wal/x", "ts/PG_15_99/5/1", "ts/PG_14_88/5/1", "ts/other",
		"many/ts/PG_15_99/7/3", "many/plain")
	tree(t, root, "base/", "base/5 -> "+out+"/db", "pg_hba.conf -> "+out+"/conf", "dir -> "+out+"/dir", "same -> base", "nowhere -> "+out+"/none",
		"null -> /dev/null", "pg_wal -> "+out+"/wal", "many -> "+out+"/many", "pg_stat_tmp -> wal2", "wal2/x",
		"pg_tblspc/16384 -> "+out+"/ts", "pg_tblspc/16385 -> "+out+"/none", "pg_tblspc/16386 -> "+out+"/wal", "pg_tblspc/16387 -> "+out+"/many/ts",
		"pg_tblspc/16388/PG_15_99/5/1", "pg_tblspc/16388/PG_14_88/5/1")
	if err := unix.Mkfifo(filepath.Join(root, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	entries, warned := collect(t, root, WalkOptions{Major: 15, CatalogVersion: 99})
	want := []string{"base", "base/5", "base/5/1", "base/5/2_init", "dir", "dir/a", "dir/back", "dir/sub", "dir/sub/b", "many", "many/plain", "many/ts", "nowhere", "null",
		"pg_hba.conf", "pg_stat_tmp", "pg_tblspc", "pg_tblspc/16384", "pg_tblspc/16384/PG_15_99", "pg_tblspc/16384/PG_15_99/5", "pg_tblspc/16384/PG_15_99/5/1",
		"pg_tblspc/16385", "pg_tblspc/16386", "pg_tblspc/16387", "pg_tblspc/16387/PG_15_99", "pg_tblspc/16387/PG_15_99/7", "pg_tblspc/16387/PG_15_99/7/3",
		"pg_tblspc/16388", "pg_tblspc/16388/PG_15_99", "pg_tblspc/16388/PG_15_99/5", "pg_tblspc/16388/PG_15_99/5/1", "pg_wal", "same", "wal2"}
	if got := paths(entries); !slices.Equal(got, want) {
		t.Errorf("too much: %q\nmissing: %q", minus(got, want), minus(want, got))
	}
	for path, want := range map[string]Entry{
		"pg_hba.conf": {Type: TypeFile, Link: out + "/conf"}, "dir": {Type: TypeDir, Link: out + "/dir"}, "dir/a": {Type: TypeFile},
		"base/5": {Type: TypeDir, Link: out + "/db"}, "same": {Type: TypeLink, Link: "base"}, "dir/back": {Type: TypeLink, Link: root + "/base"},
		"nowhere": {Type: TypeLink, Link: out + "/none"}, "null": {Type: TypeLink, Link: "/dev/null"}, "pg_wal": {Type: TypeDir, Link: out + "/wal"},
		"pg_stat_tmp": {Type: TypeDir, Link: "wal2"}, "pg_tblspc/16384": {Type: TypeTablespace, Link: out + "/ts"},
		"pg_tblspc/16385": {Type: TypeTablespace, Link: out + "/none"}, "pg_tblspc/16388": {Type: TypeDir},
	} {
		if e := entries[path]; e.Type != want.Type || e.Link != want.Link {
			t.Errorf("%s: %+v", path, e)
		}
	}
	for path, want := range map[string]string{"pg_tblspc/16384": "", "pg_tblspc/16385": "nothing is there", "pg_tblspc/16386": "there is no directory PG_15_99", "pg_tblspc/16388": ""} {
		if got := entries[path].Unseen; got != want {
			t.Errorf("%s: not seen because %q, want %q", path, got, want)
		}
	}
	for i, path := range []string{"fifo", "nowhere", "null"} {
		if len(warned) != 3 || !strings.HasPrefix(warned[i], path+": ") {
			t.Fatalf("%q", warned)
		}
	}
	if !entries["base/5/1"].Relation || !entries["pg_tblspc/16384/PG_15_99/5/1"].Relation || entries["many/plain"].Relation {
		t.Error("what is a relation is told wrongly")
	}
}

func TestWalkRefusesLoopsAndWhatItMayNotRead(t *testing.T) {
	for name, links := range map[string][]string{
		"loop": {"a -> b", "b -> a"}, "self": {"self -> self"}, "up": {"up -> .."}, "system": {"system -> /"}, "out": {"out -> OUT", "OUT/again -> OUT"},
	} {
		root, out := t.TempDir(), t.TempDir()
		for _, l := range links {
			l = strings.ReplaceAll(l, "-> OUT", "-> "+out)
			if rest, ok := strings.CutPrefix(l, "OUT/"); ok {
				tree(t, out, rest)
			} else {
				tree(t, root, l)
			}
		}
		first, _, _ := strings.Cut(links[0], " ")
		if err := walkError(root); err == nil || !strings.Contains(err.Error(), "follow link "+root+"/"+first) {
			t.Errorf("%s: %v", name, err)
		}
	}
	root := t.TempDir()
	tree(t, root, "open", "secret/x", "then")
	for dir := root; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(root+"/secret", 0); err != nil {
		t.Fatal(err)
	}
	if err := asNobody(t, func() error { return walkError(root) }); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), root+"/secret") {
		t.Errorf("%v", err)
	}
	if err := walkError(root + "/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// walkError is the error that a walk ends with.
func walkError(root string) (last error) {
	for e, err := range Walk(root, WalkOptions{Major: 15}) {
		if last != nil {
			return fmt.Errorf("the walk goes on with %s after: %v", e.Path, last)
		}
		last = err
	}
	return last
}

// asNobody runs f without root's right to read everything.
func asNobody(t *testing.T, f func() error) error {
	t.Helper()
	if os.Geteuid() != 0 {
		return f()
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if _, err := unix.SetfsuidRetUid(65534); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	return <-result
}

func TestWalkToleratesVanishingFiles(t *testing.T) {
	root := t.TempDir()
	for i := range 100 {
		tree(t, root, fmt.Sprintf("d%03d/f", i), fmt.Sprintf("f%03d", i))
	}
	n := 0
	for e, err := range Walk(root, WalkOptions{Major: 15}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; e.Path == "d010" { // its content, and all that follows, has been listed but not looked at
			for i := 10; i < 100; i++ {
				if err := errors.Join(os.RemoveAll(fmt.Sprintf("%s/d%03d", root, i)), os.Remove(fmt.Sprintf("%s/f%03d", root, i))); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if want := 2*10 + 1 + 10; n != want {
		t.Errorf("%d entries, want %d", n, want)
	}
}

func TestWalkCanBeLeft(t *testing.T) {
	root := t.TempDir()
	tree(t, root, "a/b/c", "a/b/d", "e")
	for stop := range 6 {
		n := 0
		for range Walk(root, WalkOptions{Major: 15}) {
			if n++; n > stop {
				break
			}
		}
	}
}
