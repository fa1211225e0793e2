package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestSuccessor: a restored copy takes the original's place as backup-fetch says. It was promoted while archiving was off, so
// PostgreSQL never archives the history of its timeline, and without that no backup of it can be restored.
func TestSuccessor(t *testing.T) {
	s := newSite(t, folderStore(t), pgtest.Options{})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	old := s.backup(t)
	s.Exec(t, `INSERT INTO steps VALUES (2)`)
	s.archived(t)
	dir := filepath.Join(testenv.Dir(t), "data")
	if o := s.must(t, "backup-fetch", dir); !strings.Contains(o.out, "ALTER SYSTEM RESET archive_mode, and max_logical_replication_workers; restart, and take a backup") {
		t.Fatalf("this is not what is tried here: %v", o)
	}
	s.Stop(t, "fast")
	next := &site{store: s.store, pgobj: s.pgobj, Cluster: s.startArchiving(t, dir)}
	next.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
	next.Exec(t, `ALTER SYSTEM RESET archive_mode`)
	next.Exec(t, `ALTER SYSTEM RESET max_logical_replication_workers`)
	next.Restart(t)
	b := next.backup(t)
	next.Exec(t, `INSERT INTO steps VALUES (3)`)
	next.archived(t)
	next.must(t, "backup-verify")
	next.must(t, "wal-verify")
	for name, args := range map[string][]string{
		"to the end":                     nil,
		"along its timeline":             {"--target-timeline", "2"},
		"until the backup is consistent": {"--target", "immediate", "--target-action", "promote"},
	} {
		t.Run(name, func(t *testing.T) {
			want := "1 2 3"
			if len(args) > 2 {
				want = "1 2"
			}
			if got := steps(t, next.start(t, next.fetch(t, args...))); got != want {
				t.Errorf("it has the steps %s, there should be %s", got, want)
			}
		})
	}
	t.Run("without the history", func(t *testing.T) { next.withoutHistory(t, old, b) })
}

// withoutHistory takes the history file of timeline 2 out of the archive.
func (s *site) withoutHistory(t *testing.T, old, b backupEntry) {
	object := filepath.Join(s.folder, "main/wal", b.SystemID, "00000002/00000002.history.zst")
	must(t, os.Remove(object))
	for _, args := range [][]string{nil, {"--target-timeline", "2"}, {"--target", "immediate"}, {b.Backup}, {old.Backup, "--target-timeline", "latest"}} {
		s.refuses(t, 14, "has WAL of timeline 2, but not its history file 00000002.history", args)
		s.refuses(t, 14, "pgobj wal-push pg_wal/00000002.history", args)
	}
	if o := s.must(t, "backup-fetch", filepath.Join(testenv.Dir(t), "data"), old.Backup, "--plan"); !strings.Contains(o.out, "00000002.history is not in the archive") {
		t.Errorf("the plan does not warn: %v", o)
	}
	if o := s.run(t, "backup-verify", b.Backup); o.code != 11 || !strings.Contains(o.err, "00000002.history") {
		t.Errorf("backup-verify: %v", o)
	}
	o := s.run(t, "wal-verify")
	for _, text := range []string{"timeline 2 has WAL, and no history file", "backup " + b.Backup + " CANNOT BE RESTORED: it needs 00000002.history"} {
		if o.code != 11 || !strings.Contains(o.out, text) {
			t.Errorf("wal-verify does not say %q: %v", text, o)
		}
	}
	if o := s.must(t, "pitr-windows"); strings.Contains(o.out, b.Backup) {
		t.Errorf("nothing can be restored from backup %s: %v", b.Backup, o)
	}
	s.backup(t)
	if !exists(object) {
		t.Error("backup-push has not archived the history file")
	}
	must(t, os.Remove(object))
	must(t, os.Remove(filepath.Join(s.Data, "pg_wal/00000002.history")))
	if o := s.run(t, "backup-push"); o.code != 11 || !strings.Contains(o.err, "pgobj wal-push pg_wal/00000002.history") {
		t.Errorf("backup-push without any history file: %v", o)
	}
}
