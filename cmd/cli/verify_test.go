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
	for _, c := range []struct{ command, says string }{
		{"backup-verify all --server=typo", "A server is listed after its first wal-push or backup-push.\nexit code 6\n"},
		{"backup-verify all --server=typo --json", "exit code 6\n"},
		{"backup-verify all --server=fresh", "exit code 6\n"},
		{"wal-verify --server=typo", "A server is listed after its first wal-push or backup-push.\nexit code 6\n"},
		{"wal-verify --server=typo --json", "exit code 6\n"},
		{"wal-verify --server=lost", "backup 20261116T010000Z-0001 CANNOT BE RESTORED: it needs 000000010000000000000001\nexit code 11\n"},
		{"wal-verify --server=lost --acknowledge=000000010000000000000001", "--acknowledge needs --reason: wal-list and wal-verify will print why the segments are lost\nHINT:  See pgobj --help, and --help of the command. The help names the environment variables, too.\nexit code 2\n"},
		{"wal-verify --server=lost --acknowledge=1 --reason=x", "--acknowledge is \"1\": use FROM..TO, two names of WAL segments\nHINT:  See pgobj --help, and --help of the command. The help names the environment variables, too.\nexit code 2\n"},
		{"wal-verify --server=offline", "checked 0 files, 0 B as stored: 0 damaged\n"},
		{"wal-list --server=lost", "server lost has no WAL in file:///STORAGE/lost\n"},
		{"pitr-windows --server=lost", "nothing can be restored: server lost has no backup with all its WAL in file:///STORAGE/lost\n"},
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
