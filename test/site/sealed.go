package site

import (
	"strings"
	"testing"
)

const ExitUnreadable = 19

// StoredAnew takes a backup that needs nothing of one that cannot be read, and says so.
func (s *Site) StoredAnew(t *testing.T, unreadable BackupEntry, says string) BackupEntry {
	t.Helper()
	before := len(s.List(t))
	o := s.Must(t, "backup-push", "--wal-timeout=1m")
	list := s.List(t)
	b := list[len(list)-1]
	if len(list) != before+1 || b.Stored < unreadable.Stored/2 || !strings.Contains(o.Err, says) {
		t.Errorf("%s: the next backup stores %d bytes, the first stored %d: %v", says, b.Stored, unreadable.Stored, o)
	}
	s.Must(t, "backup-verify", b.Backup)
	return b
}

// Sealed says of a backup that it cannot be read, why, and what to do.
func (s *Site) Sealed(t *testing.T, b BackupEntry, says string) {
	t.Helper()
	for _, args := range [][]string{{"backup-verify", b.Backup}, {"backup-fetch", t.TempDir() + "/data", b.Backup}, {"backup-cat", b.Backup, "PG_VERSION"}} {
		if f := s.FailsWith(t, ExitUnreadable, "object-unreadable", args...); !f.Names(says) {
			t.Errorf("%v: %+v", args, f)
		}
	}
}
