package site

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/testenv"
)

// WithoutHistory takes the history file of timeline 2 out of the archive.
func (s *Site) WithoutHistory(t *testing.T, old, b BackupEntry) {
	object := filepath.Join(s.Directory, "main/wal", b.SystemID, "00000002/00000002.history.zst")
	Must(t, os.Remove(object))
	for _, args := range [][]string{nil, {"--target-timeline", "2"}, {"--target", "immediate"}, {b.Backup}, {old.Backup, "--target-timeline", "latest"}} {
		s.Refuses(t, 14, "unreachable-target", "00000002.history", args)
		s.Refuses(t, 14, "unreachable-target", "pgobj wal-push pg_wal/00000002.history", args)
	}
	if o := s.Must(t, "backup-fetch", filepath.Join(testenv.Dir(t), "data"), old.Backup, "--plan"); !strings.Contains(o.Out, "00000002.history") {
		t.Errorf("the plan does not warn: %v", o)
	}
	if f := s.FailsWith(t, 11, "wal-gap", "backup-verify", b.Backup); !f.Names("00000002.history") {
		t.Errorf("backup-verify: %+v", f)
	}
	o := s.Run(t, "wal-verify")
	for _, text := range []string{"no history file", b.Backup + " CANNOT BE RESTORED"} {
		if o.Code != 11 || !strings.Contains(o.Out, text) {
			t.Errorf("wal-verify does not say %q: %v", text, o)
		}
	}
	if o := s.Must(t, "pitr-windows"); strings.Contains(o.Out, b.Backup) {
		t.Errorf("nothing can be restored from backup %s: %v", b.Backup, o)
	}
	s.Backup(t)
	if !Exists(object) {
		t.Error("backup-push has not archived the history file")
	}
	Must(t, os.Remove(object))
	Must(t, os.Remove(filepath.Join(s.Data, "pg_wal/00000002.history")))
	if f := s.FailsWith(t, 11, "backup-wal-missing", "backup-push"); !f.Names("pg_wal/00000002.history") {
		t.Errorf("backup-push without any history file: %+v", f)
	}
}
