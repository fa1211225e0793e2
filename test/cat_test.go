package test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
)

// TestBackupCat: every kind of file comes out as a restore would write it, and nothing that is damaged.
func TestBackupCat(t *testing.T) {
	s := newSite(t, folderStore(t), pgtest.Options{Conf: []string{"include_if_exists = 'extra/more.conf'"}})
	s.Exec(t, `CREATE TABLE big AS SELECT i, md5(i::text) AS text FROM generate_series(1, 60000) i; CHECKPOINT`)
	big := s.SQL(t, `SELECT pg_relation_filepath('big')`)
	s.backup(t, "--full")
	s.Exec(t, `UPDATE big SET text = 'other' WHERE i % 5000 = 0; CHECKPOINT`)
	second := s.backup(t) // the table's chunks are put together from two backups' parts
	dir := s.fetch(t)
	for _, path := range []string{big, "PG_VERSION", "postgresql.conf", "backup_label", "global/pg_control", filepath.Join(s.Data, "pg_hba.conf")} {
		o := s.must(t, "backup-cat", second.Backup, path)
		rel := strings.TrimPrefix(path, s.Data+"/")
		if want := string(readFile(t, filepath.Join(dir, rel))); o.out != want {
			t.Errorf("%s: %d bytes come out, want %d (or others)", path, len(o.out), len(want))
		}
	}
	for path, says := range map[string]string{"no/such": `has no "no/such"`, "base": `"base" is a dir`, "../x": `has no "../x"`, "/etc/passwd": "no configuration file"} {
		if o := s.run(t, "backup-cat", "LATEST", path); o.code != exitNotFound || o.out != "" || !strings.Contains(o.err, says) {
			t.Errorf("%s: %v", path, o)
		}
	}
	whole := string(readFile(t, filepath.Join(dir, big)))
	parts, err := filepath.Glob(filepath.Join(s.folder, "main", "parts", "*", "*"))
	if err != nil || len(parts) < 2 {
		t.Fatal(parts, err)
	}
	damaged := 0
	for _, part := range parts { // one after the other: a byte in the middle of each
		data := readFile(t, part)
		bad := slices.Clone(data)
		bad[len(bad)/2] ^= 1
		overwrite(t, part, bad)
		if o := s.run(t, "backup-cat", second.Backup, big); o.code == exitDamaged {
			damaged++
			if !strings.HasPrefix(whole, o.out) || len(o.out) == len(whole) {
				t.Errorf("with a damaged part it writes %d bytes that are not the file's beginning", len(o.out))
			}
		} else if o.code != 0 || o.out != whole {
			t.Errorf("with a damaged part: exit code %d, %d bytes of %d", o.code, len(o.out), len(whole))
		}
		overwrite(t, part, data)
	}
	if damaged == 0 {
		t.Error("no damage hit the file: this test cannot fail")
	}
}

// overwrite changes an object of a folder store, which pgobj never does.
func overwrite(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
