package cli

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
)

// TestBackupCat: every kind of file comes out as a restore would write it, and nothing that is damaged.
func TestBackupCat(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Conf: []string{"include_if_exists = 'extra/more.conf'"}})
	s.Exec(t, `CREATE TABLE big AS SELECT i, md5(i::text) AS text FROM generate_series(1, 60000) i; CHECKPOINT`)
	big := s.SQL(t, `SELECT pg_relation_filepath('big')`)
	s.Backup(t, "--full")
	s.Exec(t, `UPDATE big SET text = 'other' WHERE i % 5000 = 0; CHECKPOINT`)
	second := s.Backup(t) // the table's chunks are put together from two backups' parts
	dir := s.Fetch(t)
	for _, path := range []string{big, "PG_VERSION", "postgresql.conf", "backup_label", "global/pg_control", filepath.Join(s.Data, "pg_hba.conf")} {
		o := s.Must(t, "backup-cat", second.Backup, path)
		rel := strings.TrimPrefix(path, s.Data+"/")
		if want := string(site.ReadFile(t, filepath.Join(dir, rel))); o.Out != want {
			t.Errorf("%s: %d bytes come out, want %d (or others)", path, len(o.Out), len(want))
		}
	}
	for path, says := range map[string]string{"no/such": "", "base": "is a dir", "../x": "", "/etc/passwd": "configuration"} {
		if f := s.FailsWith(t, site.ExitNotFound, "no-file", "backup-cat", "LATEST", path); !f.Names(path, says) {
			t.Errorf("%s: %+v", path, f)
		}
	}
	whole := string(site.ReadFile(t, filepath.Join(dir, big)))
	parts, err := filepath.Glob(filepath.Join(s.Directory, "main", "parts", "*", "*"))
	if err != nil || len(parts) < 2 {
		t.Fatal(parts, err)
	}
	damaged := 0
	for _, part := range parts { // one after the other: a byte in the middle of each
		data := site.ReadFile(t, part)
		bad := slices.Clone(data)
		bad[len(bad)/2] ^= 1
		site.Overwrite(t, part, bad)
		if o := s.Run(t, "backup-cat", second.Backup, big); o.Code == site.ExitDamaged {
			damaged++
			if !strings.HasPrefix(whole, o.Out) || len(o.Out) == len(whole) {
				t.Errorf("with a damaged part it writes %d bytes that are not the file's beginning", len(o.Out))
			}
		} else if o.Code != 0 || o.Out != whole {
			t.Errorf("with a damaged part: exit code %d, %d bytes of %d", o.Code, len(o.Out), len(whole))
		}
		site.Overwrite(t, part, data)
	}
	if damaged == 0 {
		t.Error("no damage hit the file: this test cannot fail")
	}
}
