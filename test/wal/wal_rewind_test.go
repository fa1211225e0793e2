package wal

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
	"github.com/pgobj/pgobj/walstore/spool"
)

// inUse puts all into the spool of a data directory that there can be in it, and leaves it there, as processes that are killed
// do. The server can list it, and cannot read the files: nobody but us has a use for them.
func inUse(t *testing.T, dataDir string) *spool.Window {
	t.Helper()
	dir := filepath.Join(dataDir, spool.Directory)
	site.Must(t, os.RemoveAll(filepath.Join(dataDir, "pgsql_tmp_pgobj"))) // one of the server's user, which this process would not believe
	m := spool.NewMarkers(dir, "scope")
	_, err := m.Hold([]string{"a", "b"})
	site.Must(t, err)
	site.Must(t, m.Add("a", spool.Archived{}))
	w := spool.NewWindow(dir, "scope")
	_, _, err = w.Hold(t.Context())
	site.Must(t, err)
	fill(t, w, "whole", true)
	fill(t, w, "half", false)
	site.Must(t, filepath.WalkDir(filepath.Join(dataDir, "pgsql_tmp_pgobj"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return testenv.ChownPostgres(path)
	}))
	return w
}

func fill(t testing.TB, w *spool.Window, name string, keep bool) {
	t.Helper()
	f, err := w.Create(name)
	site.Must(t, err)
	defer f.Close()
	site.Must(t, f.Truncate(site.Mib))
	if keep {
		site.Must(t, w.Keep(f, name, 1))
	}
}

// pg_rewind copies nothing of the source's spool, which changes all the time, and takes away what is left in the target's.
func TestRewindAndTheSpool(t *testing.T) {
	t.Parallel()
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{WALSegMB: 1, Conf: []string{"wal_log_hints = on", "wal_keep_size = 64MB"}})
	s.Exec(t, `CREATE TABLE x (i int)`)
	s.Backup(t)
	source := site.StandbyOf(t, s)
	site.CaughtUp(t, s.Cluster, source.Cluster)
	if o := site.Finish(t, s.Program(s.Bin("pg_ctl"), "promote", "-D", source.Data)); o.Code != 0 {
		t.Fatal(o)
	}
	source.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
	source.Exec(t, `CHECKPOINT`)
	source.Exec(t, `INSERT INTO x VALUES (1)`)
	s.Exec(t, `INSERT INTO x VALUES (2)`)
	s.Stop(t, "fast")
	inUse(t, s.Data)
	live := inUse(t, source.Data)
	done, changing := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(changing)
		for {
			select {
			case <-done:
				return
			default:
				fill(t, live, "next", true)
				live.Asked("next")
				live.Forget("next")
			}
		}
	}()
	o := site.Finish(t, s.Program(s.Bin("pg_rewind"), "-D", s.Data, "--source-server", source.DSN("postgres"), "--write-recovery-conf"))
	close(done)
	<-changing
	if o.Code != 0 {
		t.Fatal(o)
	}
	if left, err := os.ReadDir(filepath.Join(s.Data, spool.Directory)); len(left) > 0 {
		t.Errorf("the target's spool has %v %v", left, err)
	}
	s.Start(t)
	s.Eventually(t, `SELECT i FROM x`, "1")
}
