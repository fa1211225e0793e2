package retention

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
)

// TestCatalogRebuild: of a repository that has lost its catalog and every description of a backup, what PostgreSQL
// has written into the backups is enough to restore them and to recover along the WAL.
func TestCatalogRebuild(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: 15, Checksums: true})
	s.SQL(t, `CREATE TABLE marks (n int)`)
	first := s.Backup(t)
	before := s.Mark(t, 1, 1)
	second := s.Backup(t)
	after := s.Mark(t, 2, 1)
	s.Exec(t, `INSERT INTO marks VALUES (0)`)
	s.Archived(t)
	s.Stop(t, "fast")
	server := filepath.Join(s.Directory, "main")
	if err := os.RemoveAll(filepath.Join(server, "catalog")); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{first.Backup + "/backup.json", first.Backup + "/manifest.jsonl.zst", second.Backup + "/backup.json"} {
		if err := os.Remove(filepath.Join(server, "backups", key)); err != nil {
			t.Fatal(err)
		}
	}
	// What a newer pgobj has left, and no backup refers to, is in nobody's way.
	data, err := os.ReadFile(filepath.Join(server, "parts", first.Backup, "00001.tar.zst"))
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-72+16] = 2 // the version in its trailer
	stray := filepath.Join(server, "parts", "20260101T000000Z-ffff")
	if err := os.MkdirAll(stray, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(stray, "00001.tar.zst"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	if list := s.List(t); len(list) != 0 {
		t.Fatalf("listed are %+v", list)
	}
	if o := s.Must(t, "catalog-rebuild"); !strings.Contains(o.Out, "Nothing has been changed") || strings.Count(o.Out, "IS MENDED") != 2 || !strings.Contains(o.Out, "20260101T000000Z-ffff  left alone") ||
		!strings.Contains(o.Out, "format version 2") {
		t.Errorf("the plan: %v", o)
	}
	if o := s.Must(t, "catalog-rebuild", "--confirm"); !strings.Contains(o.Out, "done.") {
		t.Errorf("done: %v", o)
	}
	if o := s.Must(t, "catalog-log"); !strings.Contains(o.Out, "lists 2 backups") || strings.Contains(o.Out, "{") {
		t.Errorf("catalog-log: %v", o)
	}
	if o := s.Must(t, "catalog-rebuild"); !strings.Contains(o.Out, "nothing to rebuild") {
		t.Errorf("once more: %v", o)
	}
	list := s.List(t)
	if len(list) != 2 || list[0].Backup != first.Backup || list[1].Backup != second.Backup {
		t.Fatalf("listed are %+v", list)
	}
	s.Must(t, "backup-verify", "all")
	s.Restores(t, before)
	s.Restores(t, after)
}
