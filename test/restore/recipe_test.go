package restore

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// recipe is the script in FORMAT.md, as it stands there.
func recipe(t testing.TB) string {
	t.Helper()
	root, err := testenv.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "catalog", "FORMAT.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, script, found := strings.Cut(string(text), "\n```bash\n")
	script, _, end := strings.Cut(script, "\n```\n")
	if !found || !end || strings.Contains(script, "pgobj ") {
		t.Fatal("FORMAT.md has no script, or one that needs pgobj")
	}
	return script + "\n"
}

// TestRestoreWithoutPgobj: what is in the repository can be read with a few stock tools.
func TestRestoreWithoutPgobj(t *testing.T) {
	for _, tool := range []string{"zstd", "lz4", "jq", "dd", "bash"} {
		testenv.Tool(t, tool)
	}
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Checksums: true, Template: true, Conf: []string{"autovacuum = off"}})
	dir := filepath.Join(s.Data, "odd names")
	if err := os.MkdirAll(filepath.Join(dir, "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range site.OddNames {
		site.WriteFile(t, filepath.Join(dir, name), strings.Repeat(name, 1000), 0o640)
	}
	for name, to := range map[string]string{"link": "../PG_VERSION", "no\xffwhere": "in 'quotes' \xfe\n"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := testenv.ChownPostgres(dir); err != nil {
		t.Fatal(err)
	}
	s.Exec(t, `CREATE TABLE numbers AS SELECT i, md5(i::text) FROM generate_series(1, 30000) i; CREATE INDEX ON numbers (i)`)
	zstd := s.Backup(t, "--compression=zstd:3")
	// Scattered changes: the second backup puts some chunks together from pages in both.
	s.Exec(t, `UPDATE numbers SET md5 = 'changed' WHERE i = 100; INSERT INTO numbers SELECT i, 'later' FROM generate_series(1, 2000) i; CHECKPOINT`)
	lz4 := s.Backup(t, "--compression=lz4")
	want := site.Contents(t, s.Cluster, "postgres")
	s.Archived(t)

	listParts(t, s, zstd.Backup, "zstd -dcq")
	listParts(t, s, lz4.Backup, "lz4 -dcq")
	script := filepath.Join(testenv.Dir(t), "restore.sh")
	site.WriteFile(t, script, recipe(t), 0o755)
	for _, b := range []site.BackupEntry{zstd, lz4} {
		target := filepath.Join(testenv.Dir(t), "data")
		if o := site.Finish(t, s.Program("bash", script, filepath.Join(s.Directory, "main"), b.Backup, target)); o.Code != 0 || o.Err != "" {
			t.Fatalf("restore of %s by the recipe: %v", b.Backup, o)
		}
		fetched := s.Fetch(t, b.Backup)
		if err := os.Remove(filepath.Join(fetched, "pg_wal/pgobj_restore.json")); err != nil { // the restore's note of itself
			t.Fatal(err)
		}
		sameFiles(t, target, fetched)

		site.WriteFile(t, filepath.Join(target, "recovery.signal"), "", 0o600)
		wal := filepath.Join(s.Directory, "main", "wal", b.SystemID)
		c := s.Spawn(t, target, append([]string{"-c", "restore_command=zstd -dcq " + wal + "/$(echo %f | cut -c1-8)/%f.zst > %p"}, site.NoArchiving...)...)
		site.SameContents(t, c, "postgres", want)
		site.Sound(t, c)
	}
}

// sameFiles compares what the recipe restored with what pgobj did.
func sameFiles(t testing.TB, recipe, pgobj string) {
	t.Helper()
	a, b := site.Survey(t, recipe), site.Survey(t, pgobj)
	delete(b, "recovery.signal")
	delete(a, "postgresql.auto.conf")
	delete(b, "postgresql.auto.conf")
	for _, p := range slices.Sorted(maps.Keys(b)) {
		x, y := a[p], b[p]
		if delete(a, p); x.Mode != y.Mode || x.Content != y.Content {
			t.Errorf("%q: by the recipe it is %v, by pgobj %v", p, x, y)
		}
	}
	if len(a) != 0 {
		t.Errorf("only the recipe restored %q", slices.Sorted(maps.Keys(a)))
	}
}

// listParts looks into the parts of a backup as a curious administrator would.
func listParts(t testing.TB, s *site.Site, id, decompress string) {
	t.Helper()
	parts, err := filepath.Glob(filepath.Join(s.Directory, "main", "parts", id, "*"))
	if err != nil || len(parts) == 0 {
		t.Fatalf("no parts of %s: %v", id, err)
	}
	var all strings.Builder
	for _, p := range parts {
		o := site.Finish(t, s.Program("bash", "-c", "set -o pipefail; "+decompress+" '"+p+"' | tar -tv"))
		if o.Code != 0 || o.Err != "" {
			t.Fatalf("list %s: %v", p, o)
		}
		all.WriteString(o.Out)
	}
	for _, name := range []string{" backup_label\n", " global/pg_control\n", " .pgobj-index.jsonl\n", " base/", "-rw------- "} {
		if !strings.Contains(all.String(), name) {
			t.Errorf("the listing of %s does not have %q:\n%.2000s", id, name, all.String())
		}
	}
}
