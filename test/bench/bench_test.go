package main

import (
	"log"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/testenv"
)

// A benchmark that is not run for months rots: this runs all of it, small, with the tools that test/install
// brings in any case. What was measured is not looked at, but run fails when a tool fails or restores
// something else than was backed up.
func TestShort(t *testing.T) {
	withoutPeers(t)
	o := options{checksums: true, jobs: 2, out: filepath.Join(t.TempDir(), "bench.md"), only: "pgobj,pg_basebackup"}
	o.short()
	var printed strings.Builder
	if err := run(t.Context(), o, &printed, log.New(t.Output(), "", 0)); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(o.out)
	if err != nil {
		t.Fatal(err)
	}
	if string(written) != printed.String() {
		t.Error("the report in the file is not the one that was printed")
	}
	for _, row := range []string{"| pgobj zstd |", "| pgobj lz4 |", "| pgobj zstd (S3) |", "| pg_basebackup plain |",
		"| pgobj zstd / pg_basebackup tar zstd |", "| pgobj wal-push |", "| stored after nothing changed |", "1000 more files", "| wal-push / zstd", "| recovery, pgobj", "of latency / none",
		"| backup-list | 300 backups |", "| backup-show latest |", "| delete policy, REDUNDANCY 276 | a plan: 24 backups,", "| … and --confirm |"} {
		if !strings.Contains(printed.String(), row) {
			t.Errorf("the report has no row %q", row)
		}
	}
	if strings.Contains(printed.String(), "NaN") || strings.Contains(printed.String(), "pgbackrest zst") {
		t.Errorf("the report has figures of what was not run:\n%s", &printed)
	}
}

// withoutPeers makes the peers' programs fail, as on a machine that has none: a test must not pass only where somebody
// has run make bench.
func withoutPeers(t *testing.T) {
	dir := testenv.Dir(t)
	for _, name := range []string{"pgbackrest", "barman-cloud-backup", "barman-cloud-restore"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho \"$0 was run\" >&2\nexit 1\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := testenv.ChownPostgres(dir); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}
