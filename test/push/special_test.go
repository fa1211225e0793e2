package push

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestGroupAccess: of a cluster that the group may read, the group may read the restored copy.
func TestGroupAccess(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Template: true, InitdbArgs: []string{"--allow-group-access"}})
	s.Backup(t)
	target := s.Fetch(t)
	for p, x := range site.Survey(t, target) {
		if want := map[bool]fs.FileMode{true: fs.ModeDir | 0o750, false: 0o640}[x.Mode.IsDir()]; x.Mode != want {
			t.Errorf("%s has mode %v, want %v", p, x.Mode, want)
		}
	}
	s.Spawn(t, target, site.NoArchiving...)
}

// TestFileOverOneGiB goes on in further lines of the manifest.
func TestFileOverOneGiB(t *testing.T) {
	const size = 1<<30 + 3<<20
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Template: true})
	large := filepath.Join(s.Data, "large.bin")
	site.WriteFile(t, large, "", 0o600)
	f, err := os.OpenFile(large, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.NewChaCha8([32]byte{2})
	for _, at := range []int64{0, 1<<20 - 3, 512 << 20, 1<<30 - 5000, 1<<30 + 1<<20 + 5, size - 10000} {
		if _, err := f.WriteAt(site.RandomBytes(rnd, 10000), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	b := s.Backup(t)
	if b.Size < size || b.Stored > 64<<20 {
		t.Errorf("%d bytes are stored as %d", b.Size, b.Stored)
	}
	script := fmt.Sprintf(`cat '%s/main/parts/%s'/* | zstd -dcq | tar --ignore-zeros -xO --wildcards '.pgobj-manifest.jsonl*' | grep -c '"path":"large.bin"'`, s.Directory, b.Backup)
	if o := site.Finish(t, s.Program("sh", "-c", script)); o.Out != "5\n" {
		t.Errorf("lines of the manifest for the file, 256 MiB each: %v", o)
	}
	target := s.Fetch(t)
	sums := [2]string{}
	for i, dir := range []string{s.Data, target} {
		if sums[i], err = site.SumFile(filepath.Join(dir, "large.bin")); err != nil {
			t.Fatal(err)
		}
	}
	if sums[0] != sums[1] {
		t.Errorf("the file is restored as %s, was %s", sums[1], sums[0])
	}
}

// TestFilesComeAndGo: relations and other files vanish, appear, grow and shrink while they are copied.
func TestFilesComeAndGo(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Checksums: true, Template: true, Conf: []string{"fsync = off"}})
	s.Exec(t, `CREATE TABLE steady AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i; CREATE TABLE refilled (i int); CREATE INDEX ON refilled (i)`)
	dir := filepath.Join(s.Data, "churn")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := testenv.ChownPostgres(dir); err != nil {
		t.Fatal(err)
	}
	quit := make(chan struct{})
	failed := make(chan error, 2)
	ready := filepath.Join(testenv.Dir(t), "ready")
	go func() { failed <- churnFiles(dir, ready, quit) }() // both are waited for below
	go func() { failed <- churnRelations(t, s, quit) }()
	var backups []site.BackupEntry
	for range 4 {
		backups = append(backups, s.Backup(t))
	}
	close(quit)
	for range 2 {
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
	want := site.Contents(t, s.Cluster, "postgres")
	s.Archived(t)
	for _, b := range []site.BackupEntry{backups[0], backups[3]} {
		target := s.Fetch(t, b.Backup)
		s.Verified(t, target)
		c := s.Spawn(t, target, site.NoArchiving...)
		site.SameContents(t, c, "postgres", want)
		site.Sound(t, c)
	}
}

// churnFiles makes, grows, shrinks and removes files as fast as it can. What it makes is at the path ready until it
// belongs to the server's user: we may be root, and a backup that finds a file has to be able to read it.
func churnFiles(dir, ready string, quit <-chan struct{}) error {
	rnd := rand.New(rand.NewPCG(5, 6))
	for i := 0; ; i++ {
		select {
		case <-quit:
			return nil
		default:
		}
		name := filepath.Join(dir, fmt.Sprintf("%04d", rnd.IntN(1000)))
		var err error
		switch rnd.IntN(4) {
		case 0:
			err = os.Remove(name)
		case 1:
			err = os.Truncate(name, int64(rnd.IntN(100_000)))
		case 2: // only what is there
			err = regrow(name, bytes.Repeat([]byte("grown"), rnd.IntN(20_000)))
		default:
			err = errors.Join(os.WriteFile(ready, bytes.Repeat([]byte("new"), rnd.IntN(30_000)), 0o600), testenv.ChownPostgres(ready))
			if err == nil {
				err = os.Rename(ready, name)
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
}

// regrow gives a file that exists another content, as PostgreSQL does: truncated and written again, by its old inode.
func regrow(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// churnRelations does the same by SQL.
func churnRelations(t *testing.T, s *site.Site, quit <-chan struct{}) error {
	for {
		select {
		case <-quit:
			return nil
		default:
		}
		for _, sql := range []string{`CREATE TABLE shortlived AS SELECT i, md5(i::text) FROM generate_series(1, 5000) i; CREATE INDEX ON shortlived (i)`,
			`TRUNCATE refilled`, `INSERT INTO refilled SELECT i FROM generate_series(1, 20000) i`, `CHECKPOINT`, `DELETE FROM refilled WHERE i > 100`,
			`VACUUM refilled`, `DROP TABLE shortlived`} {
			if _, err := s.Query(t.Context(), "postgres", sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
	}
}

// TestConfigurationElsewhere: Debian and others keep it outside of the data directory.
func TestConfigurationElsewhere(t *testing.T) {
	etc := testenv.Dir(t)
	s := &site.Site{Store: site.DirectoryStore(t), Pgobj: testenv.Pgobj(t)}
	made, err := pgtest.Create(t.Context(), pgtest.Options{Template: true, Conf: append(site.Archiving(s.Pgobj), "hba_file = '"+etc+"/pg_hba.conf'",
		"ident_file = '"+etc+"/pg_ident.conf'", "include_dir = 'conf.d'")})
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	files := map[string]string{filepath.Join(etc, "conf.d", "10 extra.conf"): "work_mem = '7MB'\n"}
	for _, name := range []string{"postgresql.conf", "pg_hba.conf", "pg_ident.conf"} {
		data, err := os.ReadFile(filepath.Join(made.Data, name))
		if err == nil {
			err = os.Remove(filepath.Join(made.Data, name))
		}
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Join(etc, name)] = string(data)
	}
	if err := os.Mkdir(filepath.Join(etc, "conf.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		site.WriteFile(t, name, text, 0o640)
	}
	if s.Cluster, err = pgtest.Attach(made.Data, made.Major, "-c", "config_file="+etc+"/postgresql.conf"); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.AddEnv(s.Settings...)
	s.Start(t)

	b := s.Backup(t)
	got := map[string]string{}
	for _, f := range s.BackupJSON(t, b.Backup).ConfigFiles {
		got[f.Path] = string(f.Content)
	}
	if !maps.Equal(got, files) {
		t.Errorf("configuration files in the backup: %q\nwant %q", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(files)))
	}
	target := filepath.Join(testenv.Dir(t), "data")
	o := s.Must(t, "backup-fetch", target)
	for name := range files {
		if !strings.Contains(o.Out, name) {
			t.Errorf("backup-fetch does not say what became of %s: %v", name, o)
		}
	}
	c := s.Spawn(t, target, append([]string{"-c", "config_file=" + etc + "/postgresql.conf"}, site.NoArchiving...)...)
	if got := c.SQL(t, `SHOW work_mem`); got != "7MB" {
		t.Errorf("work_mem is %s", got)
	}
}

// TestDamagedPages: they are told, and kept as they are; the backup is complete and says so.
func TestDamagedPages(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Checksums: true, Template: true, Conf: []string{"autovacuum = off"}})
	s.Exec(t, `CREATE TABLE garbled AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i`)
	s.Exec(t, `CREATE TABLE shifted AS SELECT * FROM garbled; CHECKPOINT`)
	s.Backup(t)
	garbled, shifted := s.SQL(t, `SELECT pg_relation_filepath('garbled')`), s.SQL(t, `SELECT pg_relation_filepath('shifted')`)
	damage := func(file string, f func(pages []byte)) {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(s.Data, file))
		if err == nil {
			f(data)
			err = os.WriteFile(filepath.Join(s.Data, file), data, 0o600) // in place, so owner and mode stay
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	damage(garbled, func(pages []byte) { copy(pages[7*8192+4000:], "this is not what PostgreSQL wrote") })
	damage(shifted, func(pages []byte) { copy(pages[3*8192+3:5*8192], bytes.Clone(pages[3*8192:5*8192-3])) })

	for i, run := range []string{"the first backup with them", "the next one, which has nothing to read again"} {
		o := s.Run(t, "--log-format=json", "backup-push", "--wal-timeout=10m")
		if o.MustFail(t, 13, "damaged-pages"); !strings.Contains(o.Out, "is complete") {
			t.Fatalf("%s: %v", run, o)
		}
		for _, name := range []string{garbled, shifted} {
			if !strings.Contains(o.Err, name) {
				t.Errorf("%s: stderr does not name %s: %v", run, name, o)
			}
		}
		list := s.List(t)
		b := list[len(list)-1]
		if len(list) != 2+i || b.DamagedPages != 3 || list[0].DamagedPages != 0 {
			t.Errorf("%s: the list has %+v", run, list)
		}
		got := s.BackupJSON(t, b.Backup).Damaged
		want := []catalog.Damaged{{Path: garbled, Blocks: []uint32{7}}, {Path: shifted, Blocks: []uint32{3, 4}}}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: backup.json lists %v, want %v", run, got, want)
		}
	}
	if table := s.Must(t, "backup-list").Out; strings.Count(table, "3 DAMAGED PAGES") != 2 {
		t.Errorf("backup-list does not show them:\n%s", table)
	}
	target := s.Fetch(t)
	for _, name := range []string{garbled, shifted} {
		if a, b := site.Survey(t, s.Data)[name], site.Survey(t, target)[name]; a.Content != b.Content {
			t.Errorf("%s is restored as %v, was %v", name, b, a)
		}
	}
}
