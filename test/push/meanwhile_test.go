package push

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// copiedMeanwhile is what is done while a backup runs, and whether the backup then holds all databases.
type copiedMeanwhile struct {
	do   []string
	code int
	says string
}

// kind is that of the backup's failure, if it fails.
func (c copiedMeanwhile) kind() string { return map[bool]string{true: "database-changed"}[c.code != 0] }

func copiesMeanwhile(major int, space string) []copiedMeanwhile {
	copying := ""
	if major >= 15 {
		copying = " STRATEGY file_copy"
	}
	const lost = 9
	all := []copiedMeanwhile{
		{do: []string{`CREATE DATABASE plain TEMPLATE template0` + copying, `CREATE DATABASE plainer` + copying}},
		{do: []string{`CREATE DATABASE new TEMPLATE old` + copying, `DROP DATABASE old`, `ALTER DATABASE new RENAME TO old`}, code: lost, says: "(old)"},
		{do: []string{`ALTER DATABASE old SET TABLESPACE ` + space}, code: lost, says: "(old)"},
		{do: []string{`CREATE DATABASE new TEMPLATE old` + copying, site.InOld + `CREATE TABLE later AS SELECT 1`}, code: lost, says: "(new)"},
		{do: []string{`DROP DATABASE new`, `CREATE DATABASE new TEMPLATE old` + copying, `DROP DATABASE old`, `DROP DATABASE new`, `CREATE DATABASE old`}},
	}
	if major >= 15 {
		all = append(all, copiedMeanwhile{do: []string{`CREATE DATABASE new TEMPLATE old`, `DROP DATABASE old`}})
	}
	return all
}

// TestDatabaseCopiedMeanwhile: replay copies a database from the directory as it is in the backup. A backup that lacks it, or has
// another one there than was copied, is not entered; one that replays to what was is.
func TestDatabaseCopiedMeanwhile(t *testing.T) {
	for _, major := range []int{10, 13, 15, 17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, Conf: []string{"checkpoint_timeout = '30s'", "autovacuum = off"}})
			s.Space(t, testenv.Dir(t), "apart")
			s.Exec(t, `CREATE DATABASE old TEMPLATE template0`)
			for _, c := range copiesMeanwhile(major, "apart") {
				before := len(s.List(t))
				o := s.PushWhile(t, s, func() { s.Statements(t, c.do) })
				if f := o.Failure(); o.Code != c.code || f.Kind != c.kind() || !f.Names(c.says) || len(s.List(t))-before != map[bool]int{true: 1}[c.code == 0] {
					t.Errorf("%q: %v, want exit code %d and %q", c.do, o, c.code, c.says)
				}
				if c.code == 0 {
					r := s.Spawn(t, s.Fetch(t, "--tablespace-map-all", testenv.Dir(t), "--target", "immediate", "--target-action", "promote"), site.NoArchiving...)
					const databases = `SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database`
					if got, want := r.SQL(t, databases), s.SQL(t, databases); got != want {
						t.Errorf("%q: the copy has the databases %s, want %s", c.do, got, want)
					}
					for name := range strings.SplitSeq(s.SQL(t, `SELECT datname FROM pg_database WHERE datallowconn`), "\n") {
						site.SameContents(t, r, name, site.Contents(t, s.Cluster, name))
					}
					r.Stop(t, "immediate")
				}
			}
		})
	}
}

// TestDatabaseCopiedMeanwhileOnAStandby: the same where the records are replayed.
func TestDatabaseCopiedMeanwhileOnAStandby(t *testing.T) {
	for _, major := range []int{13, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, Conf: []string{"checkpoint_timeout = '30s'", "autovacuum = off"}})
			s.Exec(t, `CREATE DATABASE old TEMPLATE template0`)
			s.Backup(t)
			standby := site.StandbyOf(t, s)
			for _, c := range copiesMeanwhile(major, "")[:2] {
				o := standby.PushWhile(t, s, func() {
					s.Statements(t, c.do)
					site.CaughtUp(t, s.Cluster, standby.Cluster)
				})
				if f := o.Failure(); o.Code != c.code || f.Kind != c.kind() || !f.Names(c.says) {
					t.Errorf("%q: %v, want exit code %d and %q", c.do, o, c.code, c.says)
				}
			}
			standby.Stop(t, "immediate")
		})
	}
}

// TestDirectoryRemovedAfterTheEnd: a standby has removed the directory that a database was copied from, and its backup ends before that, in an
// earlier segment: nothing but the next write of a page, or a commit, moves its end.
func TestDirectoryRemovedAfterTheEnd(t *testing.T) {
	for _, major := range []int{13, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, Conf: []string{"autovacuum = off", "bgwriter_lru_maxpages = 0"}})
			s.Exec(t, `CREATE DATABASE old TEMPLATE template0`)
			s.Backup(t)
			standby := site.StandbyOf(t, s)
			create := copiesMeanwhile(major, "")[1].do[0]
			directory := filepath.Join(standby.Data, "base", s.SQL(t, `SELECT oid FROM pg_database WHERE datname = 'old'`))
			o := standby.PushWhile(t, s, func() {
				s.Exec(t, create)
				site.CaughtUp(t, s.Cluster, standby.Cluster)
				standby.Exec(t, `ALTER SYSTEM SET recovery_min_apply_delay = '1h'`) // commits wait, other records do not
				standby.Exec(t, `SELECT pg_reload_conf()`)
				s.Exec(t, `SELECT pg_switch_wal()`)
				s.Exec(t, `DROP DATABASE old`)
				testenv.Eventually(t, site.Generous, "the standby has removed the directory", func() bool { return !site.Exists(directory) })
				if n := standby.SQL(t, `SELECT count(*) FROM pg_database WHERE datname = 'old'`); n != "1" {
					t.Fatal("the standby has replayed the commit of DROP DATABASE, too: this is not what is tried here")
				}
			})
			if o.Code != 9 || !strings.Contains(o.Err, "(new): it was copied") {
				t.Errorf("%v, want exit code 9", o)
			}
			standby.Stop(t, "immediate")
		})
	}
}
