package target

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pgobj/pgobj/backup/content"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/catalog"
)

// A backup whose list lacks a tablespace of the manifest can be restored, with it.
func TestTablespaceOfTheManifestOnly(t *testing.T) {
	places := t.TempDir()
	s := &content.ManifestScan{Bytes: map[string]int64{}, Links: map[string]content.Linked{}, Entries: map[string]bool{}, Files: map[string]bool{}, Spaces: map[uint32]string{}}
	lines := map[string]*manifest.File{}
	for path, link := range map[string]string{"pg_tblspc/16400": filepath.Join(places, "listed"), "pg_tblspc/16401": filepath.Join(places, "not listed")} {
		f := &manifest.File{Type: manifest.TypeLink}
		f.SetPath(path)
		f.SetLink(link)
		lines[path] = f
		s.Add(f)
	}
	b := &catalog.Backup{PGDATA: "/nowhere", Owner: "root:root", Tablespaces: []catalog.Tablespace{{OID: 16400, Name: "listed", Location: filepath.Join(places, "listed")}}}
	to, err := New(filepath.Join(places, "data"), false, Layout{TablespaceRoot: filepath.Join(places, "spaces"), Tablespaces: map[string]string{"16401": filepath.Join(places, "here")}}, b, s)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if err := to.Open(); err != nil {
		t.Fatal(err)
	}
	if err := to.Root.Mkdir("pg_tblspc", 0o700); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"pg_tblspc/16400": filepath.Join(places, "spaces", "listed"), "pg_tblspc/16401": filepath.Join(places, "here")} {
		if err := to.Link(lines[path]); err != nil {
			t.Error(err)
		}
		if got, err := os.Readlink(filepath.Join(to.Dir, path)); got != want {
			t.Errorf("%s leads to %s (%v), want %s", path, got, err, want)
		}
	}
	if len(b.Tablespaces) != 1 {
		t.Errorf("the backup itself was changed: %+v", b.Tablespaces)
	}
}
