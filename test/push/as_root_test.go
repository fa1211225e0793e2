package push

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// access replaces the rules for connections, and returns when the server goes by them: the tests connect by the line for
// role postgres in their own database "tests", as nothing else does.
func access(t testing.TB, c *pgtest.Cluster, method string) {
	t.Helper()
	site.WriteFile(t, filepath.Join(c.Data, "pg_hba.conf"), "local tests all trust\nlocal all all "+method+"\nlocal replication all "+method+"\n", 0o600)
	c.SQLIn(t, "tests", `SELECT pg_reload_conf()`)
	testenv.Eventually(t, time.Minute, "the server goes by its new pg_hba.conf", func() bool {
		_, err := c.Query(t.Context(), "postgres", `SELECT 1`)
		return (err == nil) == (method == "trust")
	})
}

// TestRestoreCheckAsks: root asks as the owner of the data directory, in any database. That nobody may ask is another answer
// than that recovery goes on; and when pg_control says that it is over, nobody has to be asked.
func TestRestoreCheckAsks(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("not root: as whom root asks cannot be seen")
		return
	}
	for _, major := range []int{10, 13, 15, 17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, Template: true})
			s.Exec(t, `CREATE DATABASE tests`)
			s.Exec(t, `CREATE DATABASE app`)
			s.Backup(t)
			s.Exec(t, `CREATE TABLE t AS SELECT 1`)
			at := s.SQL(t, `SELECT pg_current_wal_insert_lsn()`)
			s.Exec(t, `DROP TABLE t`)
			s.Archived(t)
			dir := s.Fetch(t, "--target-lsn", at)
			c := s.Spawn(t, dir)

			access(t, c, "peer")
			s.Asked(t, dir, 0, "paused at the target")
			access(t, c, "reject")
			s.Asked(t, dir, site.ExitPostgres, "cannot be asked")
			c.SQLIn(t, "tests", `SELECT pg_wal_replay_resume()`)
			testenv.Eventually(t, time.Minute, "the server is open", func() bool {
				return c.SQLIn(t, "tests", `SELECT pg_is_in_recovery()`) == "f"
			})
			s.Asked(t, dir, 0, "in production")
			access(t, c, "peer")
			s.Asked(t, dir, 0, "open, on timeline 2")
			c.SQLIn(t, "tests", `UPDATE pg_database SET datallowconn = false WHERE datname IN ('template1', 'postgres')`)
			s.Asked(t, dir, 0, "open, on timeline 2")
		})
	}
}

// TestBackupAsRoot: everything that asks a server does it for root as the server's owner.
func TestBackupAsRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("not root: as whom root asks cannot be seen")
		return
	}
	t.Parallel()
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{})
	s.Exec(t, `CREATE DATABASE tests`)
	access(t, s.Cluster, "peer")
	if o := s.AsRoot(t, s.Cluster, "backup-push", "--wal-timeout=1m"); o.Code != 0 {
		t.Errorf("backup-push as root: %v", o)
	}
	dsn := fmt.Sprintf("host=%s port=%d dbname=postgres user=postgres", s.SocketDir, s.Port)
	if o := s.AsRoot(t, nil, "backup-push", "--wal-timeout=1m", "--dsn", dsn); o.Code != 0 {
		t.Errorf("backup-push as root, who names the owner's role: %v", o)
	}
	if o := s.AsRoot(t, s.Cluster, "wal-receive", "--slot", "no_such_slot"); o.Code != site.ExitPostgres || !strings.Contains(o.Err, "no_such_slot") {
		t.Errorf("wal-receive as root: %v, want that it was let in", o)
	}
	// What root has written into the repository, the server's user goes on with.
	s.SQLIn(t, "tests", `SELECT pg_switch_wal()`)
	s.Must(t, "wal-list")
}
