package site

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/testenv"
)

// Refuses holds that a restore is refused with a code, a kind and a name, before a directory is made; and that its plan is.
func (s *Site) Refuses(t testing.TB, code int, kind, name string, args []string) {
	t.Helper()
	target := filepath.Join(testenv.Dir(t), "data")
	for _, plan := range [][]string{nil, {"--plan"}} {
		o := s.Run(t, append(append([]string{"--log-format=json", "backup-fetch", target}, args...), plan...)...)
		if f := o.Failure(); o.Code != code || f.Kind != kind || !f.Names(name) {
			t.Errorf("backup-fetch %v: it should end with %d, %s and %q: %v", args, code, kind, name, o)
		}
		if _, err := os.Lstat(target); err == nil {
			t.Errorf("backup-fetch %v was refused, and has made its target", args)
		}
	}
}

// Gaps takes a segment between A and C out of the archive.
func (s *Site) Gaps(t *testing.T, a, c BackupEntry, end string) {
	missing := filepath.Join(s.Directory, "main/wal", a.SystemID, "00000001", c.FirstWAL+".zst")
	data := ReadFile(t, missing)
	if err := os.Remove(missing); err != nil {
		t.Fatal(err)
	}
	s.Refuses(t, 14, "unreachable-target", c.FirstWAL+" is missing", []string{a.Backup, "--target-timeline=1"})
	s.Refuses(t, 14, "unreachable-target", "Any point up to ", []string{a.Backup, "--target-timeline=1", "--target-lsn", end})
	s.Refuses(t, 14, "unreachable-target", "backup "+c.Backup+" needs", []string{c.Backup})
	before := s.Must(t, "backup-fetch", filepath.Join(testenv.Dir(t), "data"), a.Backup, "--target-timeline=1", "--target-lsn", a.StopLSN, "--plan")
	if strings.Contains(before.Out, "gap") {
		t.Errorf("a target before the gap: %v", before)
	}
	PutFile(t, missing, data)
}
