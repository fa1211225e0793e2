package restore

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestLabelRemoved: without backup_label, which people remove to get a server to start, the copy does not
// start, and so cannot be corrupt. With it PostgreSQL's own checker finds nothing to say.
func TestLabelRemoved(t *testing.T) {
	for _, major := range []int{10, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, Template: true})
			s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
			s.Backup(t)
			dir := s.Fetch(t)
			if major == 15 {
				s.Verified(t, dir)
			}
			label := filepath.Join(dir, "backup_label")
			if err := os.Rename(label, label+".away"); err != nil {
				t.Fatal(err)
			}
			s.DoesNotStart(t, dir, "checkpoint record")
			signal := filepath.Join(dir, map[bool]string{true: "recovery.conf", false: "recovery.signal"}[major < 12])
			if err := os.Rename(signal, signal+".away"); err != nil {
				t.Fatal(err)
			}
			s.DoesNotStart(t, dir, "checkpoint record")
			for _, name := range []string{label, signal} {
				if err := os.Rename(name+".away", name); err != nil {
					t.Fatal(err)
				}
			}
			if got := site.Steps(t, s.Spawn(t, dir)); got != "1" {
				t.Errorf("with the label it has the steps %s", got)
			}
		})
	}
}

// spaced is a server with a table in each kind of tablespace, and pg_wal on another disk.
func spaced(t *testing.T) (s *site.Site, outside string) {
	t.Helper()
	outside = testenv.Dir(t)
	s = site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: 15, Checksums: true, InitdbArgs: []string{"--waldir=" + filepath.Join(outside, "wal")},
		Conf: []string{"allow_in_place_tablespaces = on"}})
	for name, dir := range map[string]string{"plain": filepath.Join(outside, "plain"), "odd name/é": filepath.Join(outside, "very odd\n\\"), "within": filepath.Join(s.Data, "within")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := testenv.ChownPostgres(dir); err != nil {
			t.Fatal(err)
		}
		s.Exec(t, fmt.Sprintf(`CREATE TABLESPACE "%s" LOCATION '%s'`, name, strings.ReplaceAll(dir, "'", "''")))
		s.Exec(t, fmt.Sprintf(`CREATE TABLE "in %s" TABLESPACE "%[1]s" AS SELECT i, md5(i::text) FROM generate_series(1, 5000) i`, name))
	}
	s.Exec(t, `CREATE TABLESPACE inplace LOCATION ''`)
	s.Exec(t, `CREATE TABLE "in place" TABLESPACE inplace AS SELECT i FROM generate_series(1, 1000) i`)
	s.Backup(t)
	return s, outside
}

// TestRestoreBesideTheOriginal: a copy on the same host, with everything elsewhere, while the original runs.
func TestRestoreBesideTheOriginal(t *testing.T) {
	s, outside := spaced(t)
	want := site.Contents(t, s.Cluster, "postgres")
	s.Refuses(t, 10, "restore-directory", "is not empty", nil)
	s.Refuses(t, 10, "restore-directory", "--tablespace-map-all DIR", []string{"--waldir", filepath.Join(testenv.Dir(t), "w")})
	s.Refuses(t, 10, "restore-directory", s.Data, []string{"--tablespace-map-all", filepath.Join(outside, "wal", "new")})
	s.Refuses(t, 10, "restore-directory", "/tmp/same", []string{"--tablespace", "plain=/tmp/same", "--tablespace", "within=/tmp/same"})
	s.Refuses(t, 10, "restore-directory", "--tablespace nosuch", []string{"--tablespace", "nosuch=/tmp/x"})

	places := testenv.Dir(t)
	target := filepath.Join(places, "data")
	before := site.Survey(t, outside)
	args := []string{"backup-fetch", target, "--tablespace", "plain=" + filepath.Join(places, "pl ain"), "--tablespace-map-all", filepath.Join(places, "others"),
		"--waldir", filepath.Join(places, "wal")}
	plan := s.Must(t, append(args, "--plan")...)
	for _, text := range []string{"tablespace plain", filepath.Join(places, "others", "within"), "pg_ctl -D " + target, "archive_mode = 'off'", "recovery.signal", "archive_command = "} {
		if !strings.Contains(plan.Out, text) {
			t.Errorf("the plan does not speak of %q: %v", text, plan)
		}
	}
	if names, _ := os.ReadDir(places); len(names) > 0 {
		t.Errorf("--plan has made %v", names)
	}
	s.Must(t, args...)
	c := s.Spawn(t, target)
	site.SameContents(t, c, "postgres", want)
	if wal, err := os.Readlink(filepath.Join(target, "pg_wal")); err != nil || wal != filepath.Join(places, "wal") {
		t.Errorf("pg_wal leads to %q (%v)", wal, err)
	}
	for _, l := range strings.Split(c.SQL(t, `SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname !~ '^pg_' AND spcname <> 'inplace'`), "\n") {
		if !strings.HasPrefix(l, places) {
			t.Errorf("a tablespace of the copy is in %s", l)
		}
	}
	// Row 6: the copy's WAL, and its new timeline, stay out of the archive.
	archive := site.Tree(t, s.Directory)
	c.Exec(t, `INSERT INTO "in plain" SELECT i, 'copy' FROM generate_series(1, 5000) i`)
	c.Exec(t, `SELECT pg_switch_wal()`)
	c.Exec(t, `CHECKPOINT`)
	if got := c.SQL(t, `SELECT timeline_id, (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'archiver') FROM pg_control_checkpoint()`); got != "2|0" {
		t.Errorf("timeline and archiver of the copy: %s", got)
	}
	if diff := site.Differences(archive, site.Tree(t, s.Directory)); len(diff) > 0 {
		t.Errorf("the copy changed the archive: %v", diff)
	}
	site.SameContents(t, s.Cluster, "postgres", want)
	after := site.Survey(t, outside)
	for path, x := range before {
		if !strings.HasPrefix(path, "wal") && after[path] != x {
			t.Errorf("%s of the original changed from %v to %v", path, x, after[path])
		}
	}
	// A copied data directory has links that lead to the original's tablespaces.
	if o := site.Execute(t, testenv.AsPostgres(s.Program("cp", "-a", target, target+"2")), nil); o.Code != 0 {
		t.Fatal(o)
	}
	if err := os.Remove(filepath.Join(target+"2", "postmaster.pid")); err != nil {
		t.Fatal(err)
	}
	f := s.FailsWith(t, site.ExitTarget, "restore-directory", "backup-fetch", target+"2", "--delta", "--discard-wal", "--tablespace", "plain="+filepath.Join(places, "pl ain"), "--tablespace-map-all", filepath.Join(places, "others"))
	if !f.Names("used by the server") {
		t.Errorf("a delta restore whose links lead to a running server's files: %+v", f)
	}
}

// TestRestoreInPlace: the same after a disaster: everything back where it was, with --delta over what is left.
func TestRestoreInPlace(t *testing.T) {
	s, outside := spaced(t)
	want := site.Contents(t, s.Cluster, "postgres")
	s.Exec(t, `DROP TABLE "in plain"; CREATE TABLE "lost" TABLESPACE within AS SELECT i FROM generate_series(1, 30000) i`)
	at := s.List(t)[0].StopLSN
	s.Stop(t, "immediate")
	if f := s.FailsWith(t, site.ExitTarget, "restore-directory", "backup-fetch", s.Data, "--delta", "--target", "immediate"); !f.Names("never archived") {
		t.Fatalf("WAL that was never archived should stop it: %+v", f)
	}
	saved := filepath.Join(outside, "saved")
	o := s.Must(t, "backup-fetch", s.Data, "--delta", "--save-wal", saved, "--target-lsn", at, "--target-action", "promote")
	if names, err := os.ReadDir(saved); err != nil || len(names) == 0 || !strings.Contains(o.Out, names[0].Name()) {
		t.Errorf("saved WAL: %v %v %v", names, err, o)
	}
	if wal, err := os.Readlink(filepath.Join(s.Data, "pg_wal")); err != nil || wal != filepath.Join(outside, "wal") {
		t.Errorf("pg_wal leads to %q (%v)", wal, err)
	}
	s.Start(t)
	site.SameContents(t, s.Cluster, "postgres", want)
	site.Sound(t, s.Cluster)
}

// TestRestoredStandby: a standby follows its primary, and falls back to the archive.
func TestRestoredStandby(t *testing.T) {
	for _, major := range []int{11, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, Template: true, Conf: []string{"wal_keep_size = '64MB'"}[:major/18]})
			s.Exec(t, `CREATE TABLE steps (n int); SELECT pg_create_physical_replication_slot('copy', true)`)
			s.Backup(t)
			dir := s.Fetch(t, "--standby", "--primary-conninfo", fmt.Sprintf("host=%s port=%d user=postgres application_name='it\\'s me'", s.SocketDir, s.Port), "--primary-slot-name", "copy")
			c := s.Spawn(t, dir)
			s.Exec(t, `INSERT INTO steps VALUES (1)`)
			c.Eventually(t, `SELECT count(*) FROM steps`, "1")
			s.Eventually(t, `SELECT application_name, state FROM pg_stat_replication`, "it's me|streaming")
			if got := s.SQL(t, `SELECT active FROM pg_replication_slots`); got != "t" {
				t.Errorf("the slot is active: %s", got)
			}
			s.Exec(t, `INSERT INTO steps VALUES (2)`)
			s.Archived(t)
			s.Stop(t, "immediate")
			c.Eventually(t, `SELECT count(*) FROM steps`, "2")
			if got := c.SQL(t, `SELECT pg_is_in_recovery(), current_setting('archive_mode')`); got != "t|on" {
				t.Errorf("in recovery, archive_mode: %s", got)
			}
		})
	}
}

// TestRestoredSettings: what a copy must not have of the original's is named, older recovery settings are
// out of the way, and configuration from elsewhere comes back where it is wanted.
func TestRestoredSettings(t *testing.T) {
	elsewhere := testenv.Dir(t)
	site.WriteFile(t, filepath.Join(elsewhere, "extra.conf"), "work_mem = '7MB'\nexternal_pid_file = '"+filepath.Join(elsewhere, "pid")+"'\n", 0o644)
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Conf: []string{"include '" + filepath.Join(elsewhere, "extra.conf") + "'", "ssl_cert_file = 'x.pem'"}})
	for _, sql := range []string{"ALTER SYSTEM SET restore_command = 'false'", "ALTER SYSTEM SET recovery_target_xid = '77'", "ALTER SYSTEM SET maintenance_work_mem = '9MB'",
		"ALTER SYSTEM SET primary_conninfo = 'host=old password=secret'"} {
		s.Exec(t, sql)
	}
	s.Backup(t)
	s.Stop(t, "fast")

	places := testenv.Dir(t)
	target, conf := filepath.Join(places, "data"), filepath.Join(places, "conf")
	plan := s.Must(t, "backup-fetch", target, "--plan")
	for _, text := range []string{"external_pid_file", "ssl_cert_file", "include '", "primary_conninfo", "postgresql.auto.conf, line ", "--config-dir DIR", filepath.Join(elsewhere, "extra.conf") + ", line 2"} {
		if !strings.Contains(plan.Out, text) {
			t.Errorf("the plan does not speak of %q: %v", text, plan)
		}
	}
	if strings.Contains(plan.Out, "secret") {
		t.Errorf("the plan shows a password: %v", plan)
	}
	s.Must(t, "backup-fetch", target, "--config-dir", conf)
	if got := string(site.ReadFile(t, filepath.Join(conf, "extra.conf"))); !strings.Contains(got, "work_mem = '7MB'") {
		t.Errorf("--config-dir has %q", got)
	}
	auto := string(site.ReadFile(t, filepath.Join(target, "postgresql.auto.conf")))
	for _, text := range []string{"# before pgobj's restore: restore_command = 'false'", "# before pgobj's restore: recovery_target_xid = '77'", "\nmaintenance_work_mem = '9MB'",
		"#   archive_mode = on (postgresql.conf, line ", "\narchive_mode = 'off'\n"} {
		if !strings.Contains(auto, text) {
			t.Errorf("postgresql.auto.conf lacks %q:\n%s", text, auto)
		}
	}
	c := s.Spawn(t, target)
	if got := c.SQL(t, `SELECT current_setting('archive_mode'), current_setting('maintenance_work_mem')`); got != "off|9MB" {
		t.Errorf("the copy has %s", got)
	}
	c.Stop(t, "fast")

	bare := s.Fetch(t, "--no-recovery-settings", "--keep-archiving")
	if names, _ := filepath.Glob(filepath.Join(bare, "*.signal")); len(names) > 0 {
		t.Errorf("--no-recovery-settings wrote %v", names)
	}
	if auto := string(site.ReadFile(t, filepath.Join(bare, "postgresql.auto.conf"))); strings.Contains(auto, "written by pgobj") {
		t.Errorf("--no-recovery-settings --keep-archiving wrote:\n%s", auto)
	}
	s.Refuses(t, 2, "usage", "--no-recovery-settings", []string{"--no-recovery-settings", "--target-xid", "9"})
}

// TestRestoredLinks: what lay behind links is put into the data directory, or behind links again where that is
// asked for; and a later delta restore keeps them.
func TestRestoredLinks(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	s.Stop(t, "fast")
	outside := testenv.Dir(t)
	for _, name := range []string{"pg_xact", "postgresql.conf"} {
		from, to := filepath.Join(s.Data, name), filepath.Join(outside, name)
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, from); err != nil {
			t.Fatal(err)
		}
		uid, gid := ownerOf(t, outside)
		if err := os.Lchown(from, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	// A link into the data directory itself must not lead a copy into the original's.
	if err := os.Symlink(filepath.Join(s.Data, "base"), filepath.Join(s.Data, "inner")); err != nil {
		t.Fatal(err)
	}
	s.Start(t)
	s.Backup(t)

	plain := s.Must(t, "backup-fetch", filepath.Join(testenv.Dir(t), "data"), "--plan")
	if !strings.Contains(plain.Out, filepath.Join(outside, "pg_xact")) || !strings.Contains(plain.Out, "--link pg_xact") {
		t.Errorf("the plan does not speak of the link: %v", plain)
	}
	s.Refuses(t, 10, "restore-directory", "pg_xact", []string{"--link", "pg_xact"})
	s.Refuses(t, 10, "restore-directory", "not a link", []string{"--link", "base"})
	s.Refuses(t, 10, "restore-directory", "must stay", []string{"--link", "global=/tmp/x"})
	s.Refuses(t, 2, "usage", "--link", []string{"--link", "../x=/tmp/x"})

	places := testenv.Dir(t)
	xact, conf := filepath.Join(places, "xact"), filepath.Join(places, "etc", "pg.conf")
	target := s.Fetch(t, "--link", "pg_xact="+xact, "--link", "postgresql.conf="+conf)
	check := func() {
		t.Helper()
		for name, want := range map[string]string{"pg_xact": xact, "postgresql.conf": conf, "inner": filepath.Join(target, "base")} {
			if to, err := os.Readlink(filepath.Join(target, name)); err != nil || to != want {
				t.Errorf("%s leads to %q (%v), want %q", name, to, err, want)
			}
		}
		c := s.Spawn(t, target)
		if got := site.Steps(t, c); got != "1" {
			t.Errorf("it has the steps %s", got)
		}
		c.Stop(t, "immediate")
	}
	check()
	s.Must(t, "backup-fetch", target, "--delta", "--discard-wal", "--link", "pg_xact="+xact, "--link", "postgresql.conf="+conf)
	check()
}

// TestRootRestoresToNewPlaces: the owner of the files gets through all directories that root makes for them, and directories that others
// use as well stay as they are.
func TestRootRestoresToNewPlaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may make directories for another user")
	}
	outside := testenv.Dir(t)
	ident := filepath.Join(outside, "ident.conf")
	site.WriteFile(t, ident, "# nobody\n", 0o600)
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Conf: []string{"ident_file = '" + ident + "'"}})
	s.Exec(t, fmt.Sprintf(`CREATE TABLESPACE space LOCATION '%s'`, site.Mkdir(t, filepath.Join(outside, "space"), 0o700, -1)))
	s.Exec(t, `CREATE TABLE steps (n int) TABLESPACE space; INSERT INTO steps VALUES (1)`)
	s.Backup(t)
	uid, gid := ownerOf(t, s.Data)
	place, err := os.MkdirTemp("", "pgobj-")
	site.Must(t, err)
	t.Cleanup(func() { os.RemoveAll(place) })
	site.Must(t, os.Chmod(place, 0o755))
	shared := map[string]os.FileMode{site.Mkdir(t, filepath.Join(place, "ssl"), 0o711, 0): 0o711, site.Mkdir(t, filepath.Join(place, "etc"), 0o755, 0): 0o755}
	target := filepath.Join(place, "new/one/data")
	asRoot := func(args ...string) {
		t.Helper()
		cmd := exec.Command(s.Pgobj, append([]string{"backup-fetch", target}, args...)...)
		cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, s.Settings...)
		if o := site.Finish(t, cmd); o.Code != 0 {
			t.Fatal(o)
		}
	}
	places := []string{"--tablespace-map-all", filepath.Join(place, "ts/all"), "--waldir", filepath.Join(place, "wal/of/it"),
		"--link", "pg_hba.conf=" + filepath.Join(place, "ssl/hba"), "--config-dir", filepath.Join(place, "etc")}
	check := func() {
		t.Helper()
		for _, name := range []string{"new", "new/one", "new/one/data", "ts", "ts/all", "ts/all/space", "wal", "wal/of", "wal/of/it", "ssl/hba", "etc/ident.conf"} {
			if u, g := ownerOf(t, filepath.Join(place, name)); u != uid || g != gid {
				t.Errorf("%s belongs to %d:%d, want %d:%d", name, u, g, uid, gid)
			}
		}
		for dir, mode := range shared {
			info, err := os.Stat(dir)
			site.Must(t, err)
			if u, g := ownerOf(t, dir); u != 0 || g != 0 || info.Mode().Perm() != mode {
				t.Errorf("%s has become %d:%d's, mode %o", dir, u, g, info.Mode().Perm())
			}
		}
	}
	asRoot(places...)
	check()
	c := s.Spawn(t, target)
	if got := site.Steps(t, c); got != "1" {
		t.Errorf("it has the steps %s", got)
	}
	c.Stop(t, "fast")
	asRoot(append(places, "--delta", "--save-wal", filepath.Join(place, "saved/here"))...)
	check()
	for _, name := range []string{"saved", "saved/here"} {
		if u, _ := ownerOf(t, filepath.Join(place, name)); u != uid {
			t.Errorf("%s belongs to %d", name, u)
		}
	}
}

func ownerOf(t testing.TB, path string) (uid, gid int) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	return int(st.Uid), int(st.Gid)
}

// Large files are written past the page cache where the file system has that: what comes out is the same on one that
// has, on one in memory, and over what is there already; whatever the size of a file.
func TestRestoredFilesAreTheSameAnywhere(t *testing.T) {
	t.Parallel()
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Template: true})
	s.Exec(t, `CREATE TABLE large AS SELECT g AS id, repeat(md5(g::text), 4) AS t FROM generate_series(1, 60000) g`)
	s.Exec(t, `CHECKPOINT`)
	random := rand.New(rand.NewPCG(4, 7))
	for _, size := range []int{1<<20 - 1, 1 << 20, 1<<20 + 1, 3<<20 + 4096, 5<<20 + 777} {
		data := make([]byte, size)
		for i := 0; i < size; i += 1 + random.IntN(9) {
			data[i] = byte(random.Uint32())
		}
		name := filepath.Join(s.Data, "base", fmt.Sprintf("odd-%d", size))
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := testenv.ChownPostgres(name); err != nil {
			t.Fatal(err)
		}
	}
	s.Backup(t)
	want := site.Survey(t, filepath.Join(s.Data, "base"))
	memory, err := os.MkdirTemp("/dev/shm", "pgobj-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(memory) })
	if err := testenv.ChownPostgres(memory); err != nil {
		t.Fatal(err)
	}
	disk := s.Fetch(t)
	s.Must(t, "backup-fetch", memory)
	for what, dir := range map[string]string{"on disk": disk, "in memory": memory} {
		site.SameThings(t, what, want, site.Survey(t, filepath.Join(dir, "base")))
	}
	for name := range want {
		if strings.Contains(name, "odd-") {
			site.Overwrite(t, filepath.Join(disk, "base", name), slices.Repeat([]byte("other "), random.IntN(1<<20)))
		}
	}
	s.Must(t, "backup-fetch", disk, "--delta", "--discard-wal")
	site.SameThings(t, "over what was there", want, site.Survey(t, filepath.Join(disk, "base")))
}
