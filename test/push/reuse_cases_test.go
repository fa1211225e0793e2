package push

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// bulk makes two tables of incompressible text, frozen, so that later visits change nothing of them.
func bulk(t testing.TB, c *pgtest.Cluster) {
	t.Helper()
	c.Exec(t, `CREATE TABLE idle AS SELECT i, md5(i::text) || md5((-i)::text) AS t FROM generate_series(1, 100000) i`)
	c.Exec(t, `CREATE TABLE small AS SELECT i, md5((i * 7)::text) AS t FROM generate_series(1, 20000) i`)
	c.Exec(t, `VACUUM FREEZE`)
	c.Exec(t, `CHECKPOINT`)
}

// TestReuseFollowsTheCluster: from the primary to a standby and back, after a failover, and after a restore on
// another host: every inode is another one, and what is the same is neither stored again nor believed unseen.
func TestReuseFollowsTheCluster(t *testing.T) {
	for _, o := range []pgtest.Options{{Major: 15, Checksums: true}, {Major: 18, Conf: []string{"summarize_wal = on"}}} {
		t.Run(fmt.Sprint(o.Major), func(t *testing.T) {
			t.Parallel()
			o.Template = true
			s := site.NewSite(t, site.DirectoryStore(t), o)
			bulk(t, s.Cluster)
			first := s.Reuse(t)
			standby := site.StandbyOf(t, s)
			const limit = 200_000 // the rows that are new, and the list of all files, as every inode is another one
			if first.Stored < 20*limit {
				t.Fatalf("the first backup stored %d bytes: this shows nothing", first.Stored)
			}
			next := func(what string, on *site.Site, args ...string) site.ReuseFigures {
				t.Helper()
				f := on.Reuse(t, args...)
				if f.Stored > limit {
					t.Errorf("%s: %d bytes were stored, at most %d had to be: %+v", what, f.Stored, limit, f)
				}
				return f
			}
			change := func(on *site.Site, n int) {
				t.Helper()
				on.Exec(t, `INSERT INTO small SELECT i, 'round' FROM generate_series(1, $1::int) i`, n)
				if on == s {
					site.CaughtUp(t, s.Cluster, standby.Cluster)
				}
			}
			change(s, 10)
			onStandby := next("from the standby", standby, "--primary-dsn", s.DSN("postgres"))
			s.Proven(t, onStandby.Backup, site.Contents(t, s.Cluster, "postgres"))
			change(s, 20)
			next("back on the primary", s)

			change(s, 30)
			s.Stop(t, "immediate")
			standby.Exec(t, `SELECT pg_promote()`)
			standby.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
			change(standby, 40)
			after := next("after the failover", standby)
			s.Proven(t, after.Backup, site.Contents(t, standby.Cluster, "postgres"))

			standby.Archived(t)
			dir := s.Fetch(t, "--keep-archiving")
			standby.Stop(t, "immediate")
			elsewhere := &site.Site{Store: s.Store, Pgobj: s.Pgobj, Cluster: s.StartArchiving(t, dir)}
			change(elsewhere, 50)
			third := next("on another host", elsewhere)
			if third.Read < third.Size*9/10 && o.Major < 17 {
				t.Errorf("of %d bytes only %d were read, though all files are others", third.Size, third.Read)
			}
			s.Proven(t, third.Backup, site.Contents(t, elsewhere.Cluster, "postgres"))
		})
	}
}

// TestReuseAfterRewrites: what rewrites a table costs that table, what rewrites every page costs them all, and
// nothing more.
func TestReuseAfterRewrites(t *testing.T) {
	t.Parallel()
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Template: true, Conf: []string{"autovacuum = off"}})
	bulk(t, s.Cluster)
	first := s.Reuse(t)
	s.Exec(t, `VACUUM FULL small`)
	full := s.Reuse(t)
	var small int64
	if _, err := fmt.Sscan(s.SQL(t, `SELECT pg_table_size('small')`), &small); err != nil {
		t.Fatal(err)
	}
	if full.Stored > small+200_000 || full.Stored < small/4 {
		t.Errorf("VACUUM FULL of a table of %d bytes made the backup store %d", small, full.Stored)
	}
	s.Proven(t, full.Backup, site.Contents(t, s.Cluster, "postgres"))

	s.Stop(t, "fast")
	if o := site.Finish(t, s.Program(s.Bin("pg_checksums"), "--enable", "--pgdata", s.Data)); o.Code != 0 {
		t.Fatal(o)
	}
	s.Start(t)
	b := s.Backup(t)
	if b.DamagedPages != 0 || b.Stored > first.Stored*11/10 {
		t.Errorf("with page checksums: %d pages are called damaged; %d bytes were stored, the first backup stored %d", b.DamagedPages, b.Stored, first.Stored)
	}
	s.Proven(t, b.Backup, site.Contents(t, s.Cluster, "postgres"))
	if f := s.Reuse(t); f.Stored > 100_000 {
		t.Errorf("the backup after that stored %d bytes", f.Stored)
	}
}

// TestReuseAfterUpgrade: pg_upgrade --link leaves the tables' files as they are, in a cluster with another system
// identifier. Their backup is a new one of the same content.
func TestReuseAfterUpgrade(t *testing.T) {
	t.Parallel()
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: 14, Checksums: true})
	bulk(t, s.Cluster)
	first := s.Reuse(t)
	want := site.Contents(t, s.Cluster, "postgres")
	s.Stop(t, "fast")

	upgraded := upgrade(t, s)
	f := upgraded.Reuse(t)
	var tables int64
	if _, err := fmt.Sscan(upgraded.SQL(t, `SELECT pg_relation_size('idle') + pg_relation_size('small')`), &tables); err != nil {
		t.Fatal(err)
	}
	// What is new is the system catalogs, of three databases, some 3 MB of them.
	if f.Reused < tables || f.Stored > 3_500_000 {
		t.Errorf("after pg_upgrade --link %d bytes were stored, and of the tables' %d bytes at most %d reused", f.Stored, tables, f.Reused)
	}
	upgraded.Proven(t, f.Backup, want)
	site.SameContents(t, s.Spawn(t, s.Fetch(t, first.Backup, "--target", "immediate", "--target-action", "promote")), "postgres", want)
}

// upgrade makes a cluster of 15 of one of 14 that is stopped, with pg_upgrade --link, and starts it.
//
// There is no complete PostgreSQL 14 here: of its programs pg_upgrade also wants pg_controldata and pg_resetwal -n,
// which only print what is in pg_control. The two versions have one format of that, so those of 15 will do.
func upgrade(t testing.TB, s *site.Site) *site.Site {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), site.Generous)
	defer cancel()
	c, err := pgtest.Create(ctx, pgtest.Options{Major: 15, Checksums: true, Env: append(s.Settings, s.Credentials...)})
	site.Must(t, err)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	work := testenv.Dir(t)
	old := filepath.Join(work, "old")
	site.Must(t, os.Mkdir(old, 0o755))
	for name, to := range map[string]string{"postgres": s.Bin("postgres"), "pg_ctl": s.Bin("pg_ctl"), "pg_controldata": c.Bin("pg_controldata")} {
		site.Must(t, os.Symlink(to, filepath.Join(old, name)))
	}
	site.WriteFile(t, filepath.Join(old, "pg_resetwal"), `#!/bin/sh -e
case $1 in -V|--version) exec '`+c.Bin("pg_resetwal")+`' -V;; esac
for dir; do :; done
copy=$(mktemp -d)
trap 'rm -r "$copy"' EXIT
mkdir "$copy/global" "$copy/pg_wal"
cp "$dir/global/pg_control" "$copy/global"
echo 15 > "$copy/PG_VERSION"
'`+c.Bin("pg_resetwal")+`' -n "$copy"
`, 0o755)
	site.Must(t, testenv.ChownPostgres(work))
	// The old server must not archive while its catalogs are dumped: there may be nothing to archive to by then.
	cmd := s.Program(c.Bin("pg_upgrade"), "--link", "-b", old, "-B", c.BinDir, "-d", s.Data, "-D", c.Data, "-U", "postgres", "-s", work, "-p", fmt.Sprint(s.Port), "-P", fmt.Sprint(c.Port))
	cmd.Dir = work
	if o := site.Finish(t, cmd); o.Code != 0 {
		t.Fatalf("pg_upgrade: %v", o)
	}
	site.Must(t, c.AppendConf(site.Archiving(s.Pgobj)...))
	c.Start(t)
	return &site.Site{Store: s.Store, Pgobj: s.Pgobj, Cluster: c}
}
