package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestStorageInside: a storage in the data directory would be in its own backups, and a delta restore would remove it.
func TestStorageInside(t *testing.T) {
	t.Parallel()
	s := newSite(t, folderStore(t), pgtest.Options{Template: true})
	s.Exec(t, `CREATE TABLE steps (n int)`)
	s.backup(t)
	s.Stop(t, "fast")
	inside := filepath.Join(s.Data, "back ups")
	if o := execute(t, s.program("cp", "-a", s.folder, inside), nil); o.code != 0 {
		t.Fatal(o)
	}
	byLink := filepath.Join(testenv.Dir(t), "link")
	must(t, os.Symlink(s.Data, byLink))
	before := survey(t, s.Data)
	for _, url := range []string{"file://" + strings.ReplaceAll(inside, " ", "%20"), "file://" + byLink + "/back%20ups/"} {
		for _, args := range [][]string{{"backup-push", "--offline", s.Data}, {"backup-push", "--offline", byLink}, {"backup-fetch", s.Data, "--delta", "--discard-wal"}, {"backup-fetch", byLink, "--delta", "--discard-wal"}} {
			if o := s.run(t, append([]string{"--storage", url}, args...)...); o.code != exitUsage || !strings.Contains(o.err, "the storage is inside of what it is for: ") {
				t.Errorf("%s %v: %v", url, args, o)
			}
		}
	}
	for path, x := range survey(t, s.Data) {
		if before[path] != x {
			t.Errorf("%s has changed from %v to %v", path, before[path], x)
		}
	}
	o := s.must(t, "--storage", "file://"+strings.ReplaceAll(inside, " ", "%20"), "backup-fetch", filepath.Join(testenv.Dir(t), "data"))
	if !strings.Contains(o.out, "is restored to") {
		t.Error(o)
	}
}
