package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
)

// TestCatalogRebuild: of a repository that has lost its catalog and every description of a backup, what PostgreSQL
// has written into the backups is enough to restore them and to recover along the WAL.
func TestCatalogRebuild(t *testing.T) {
	s := newSite(t, folderStore(t), pgtest.Options{Major: 15, Checksums: true})
	s.SQL(t, `CREATE TABLE marks (n int)`)
	first := s.backup(t)
	before := s.mark(t, 1, 1)
	second := s.backup(t)
	after := s.mark(t, 2, 1)
	s.Exec(t, `INSERT INTO marks VALUES (0)`)
	s.archived(t)
	s.Stop(t, "fast")
	server := filepath.Join(s.folder, "main")
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
	if list := s.list(t); len(list) != 0 {
		t.Fatalf("listed are %+v", list)
	}
	if o := s.must(t, "catalog-rebuild"); !strings.Contains(o.out, "Nothing has been changed") || strings.Count(o.out, "IS MENDED") != 2 || !strings.Contains(o.out, "20260101T000000Z-ffff  left alone") ||
		!strings.Contains(o.out, "format version 2, this pgobj reads 1: use a newer one") {
		t.Errorf("the plan: %v", o)
	}
	if o := s.must(t, "catalog-rebuild", "--confirm"); !strings.Contains(o.out, "done.") {
		t.Errorf("done: %v", o)
	}
	if o := s.must(t, "catalog-log"); !strings.Contains(o.out, "the catalog was rebuilt, and lists 2 backups from here on\n") || strings.Contains(o.out, "{") {
		t.Errorf("catalog-log: %v", o)
	}
	if o := s.must(t, "catalog-rebuild"); !strings.Contains(o.out, "nothing to rebuild") {
		t.Errorf("once more: %v", o)
	}
	list := s.list(t)
	if len(list) != 2 || list[0].Backup != first.Backup || list[1].Backup != second.Backup {
		t.Fatalf("listed are %+v", list)
	}
	s.must(t, "backup-verify", "all")
	s.restores(t, before)
	s.restores(t, after)
}
