package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/app"
)

// TestVerifyNothing: who mistypes the name of a server in a cron job has to hear of it.
func TestVerifyNothing(t *testing.T) {
	w := newWorld(t)
	server := catalog.Record{Type: "server", Server: &catalog.Server{SystemID: sysid, PGVersion: 150004, SegmentSize: walSize}}
	w.add("fresh", server)
	w.add("lost", server)
	w.backup("lost", "20261116T010000Z-0001", 1, 1, nil, nil)
	w.add("offline", server)
	w.backup("offline", "20261116T010000Z-0001", 1, 1, nil, func(b *catalog.Backup) { b.From = "offline" })
	for _, c := range []struct {
		code                int
		kind, command, name string
	}{
		{app.ExitNotFound, "no-server", "backup-verify all --server=typo", "typo"},
		{app.ExitNotFound, "no-server", "backup-verify all --server=typo --json", "typo"},
		{app.ExitNotFound, "no-backup", "backup-verify all --server=fresh", ""},
		{app.ExitNotFound, "no-server", "wal-verify --server=typo", "typo"},
		{app.ExitNotFound, "no-server", "wal-verify --server=typo --json", "typo"},
		{app.ExitUsage, "usage", "wal-verify --server=lost --acknowledge=000000010000000000000001", "--reason"},
		{app.ExitUsage, "usage", "wal-verify --server=lost --acknowledge=1 --reason=x", `--acknowledge is "1"`},
	} {
		if f := w.fails(c.code, c.kind, strings.Fields(c.command)...); !strings.Contains(f.Text, c.name) {
			t.Errorf("%s: it does not name %s: %+v", c.command, c.name, f)
		}
	}
	for _, c := range []struct{ command, says string }{
		{"wal-verify --server=lost", "000000010000000000000001\nexit code 11\n"},
		{"wal-verify --server=offline", "checked 0 files, 0 B as stored: 0 damaged\n"},
		{"wal-list --server=lost", "no WAL in file:///STORAGE/lost\n"},
		{"pitr-windows --server=lost", "all its WAL in file:///STORAGE/lost\n"},
	} {
		if got := w.pgobj(strings.Fields(c.command)...); !strings.HasSuffix(got, c.says) {
			t.Errorf("%s: want %s, got\n%s", c.command, c.says, got)
		}
	}
}

// TestLostCatalogIsToldOnce: however many backups the catalog has lost.
func TestLostCatalogIsToldOnce(t *testing.T) {
	w := newWorld(t)
	w.add("main", catalog.Record{Type: "server", Server: &catalog.Server{SystemID: sysid, PGVersion: 150004, SegmentSize: walSize}})
	for _, id := range []string{"20261116T010000Z-0001", "20261116T020000Z-0002", "20261116T030000Z-0003"} {
		w.backup("main", id, 1, 1, nil, nil)
	}
	w.must(os.RemoveAll(filepath.Join(w.dir, "main", "catalog")))
	var out, log bytes.Buffer
	Run(t.Context(), "v0.1", []string{"--storage=file://" + w.dir, "backup-list"}, app.Streams{Out: &out, Err: &log})
	got := log.String()
	if strings.Count(got, "level=WARN") != 1 || !strings.Contains(got, "catalog-rebuild\" backups=3 first=20261116T010000Z-0001 last=20261116T030000Z-0003") {
		t.Errorf("backup-list: %s", got)
	}
}
