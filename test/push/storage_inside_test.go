package push

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestStorageInside: a storage in the data directory would be in its own backups, and a delta restore would remove it.
func TestStorageInside(t *testing.T) {
	t.Parallel()
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Template: true})
	s.Exec(t, `CREATE TABLE steps (n int)`)
	s.Backup(t)
	s.Stop(t, "fast")
	inside := filepath.Join(s.Data, "back ups")
	if o := site.Execute(t, s.Program("cp", "-a", s.Directory, inside), nil); o.Code != 0 {
		t.Fatal(o)
	}
	byLink := filepath.Join(testenv.Dir(t), "link")
	site.Must(t, os.Symlink(s.Data, byLink))
	before := site.Survey(t, s.Data)
	for _, url := range []string{"file://" + strings.ReplaceAll(inside, " ", "%20"), "file://" + byLink + "/back%20ups/"} {
		for _, args := range [][]string{{"backup-push", "--offline", s.Data}, {"backup-push", "--offline", byLink}, {"backup-fetch", s.Data, "--delta", "--discard-wal"}, {"backup-fetch", byLink, "--delta", "--discard-wal"}} {
			s.FailsWith(t, site.ExitUsage, "storage-inside", append([]string{"--storage", url}, args...)...)
		}
	}
	for path, x := range site.Survey(t, s.Data) {
		if before[path] != x {
			t.Errorf("%s has changed from %v to %v", path, before[path], x)
		}
	}
	o := s.Must(t, "--storage", "file://"+strings.ReplaceAll(inside, " ", "%20"), "backup-fetch", filepath.Join(testenv.Dir(t), "data"))
	if !strings.Contains(o.Out, "is restored to") {
		t.Error(o)
	}
}
