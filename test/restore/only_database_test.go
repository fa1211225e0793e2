package restore

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestOnlyDatabase: the database that was named is whole, whatever the WAL says of the others, which take no room,
// can be dropped, and cannot be taken for empty ones.
func TestOnlyDatabase(t *testing.T) {
	for _, major := range []int{10, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			// Without checksums VACUUM writes WAL that cannot be replayed onto empty pages; up to 12 nothing helps.
			s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, Template: true, Checksums: major < 13})
			space := testenv.Dir(t)
			s.Exec(t, `CREATE TABLESPACE apart LOCATION '`+space+`'`)
			for _, db := range []string{"wanted", "other"} {
				s.Exec(t, `CREATE DATABASE `+db)
				for _, where := range []string{"", "TABLESPACE apart"} {
					s.SQLIn(t, db, fmt.Sprintf(`CREATE TABLE "t%s" %s AS SELECT i, md5(i::text) AS text FROM generate_series(1, 40000) i`, where, where))
				}
				s.SQLIn(t, db, `CREATE INDEX ON t (text)`)
			}
			s.Exec(t, `CREATE DATABASE "odd ""name"`)
			s.Backup(t)
			for _, db := range []string{"wanted", "other"} {
				for _, sql := range []string{`VACUUM`, `DELETE FROM t WHERE i % 3 = 0`, `INSERT INTO t SELECT i, 'new' FROM generate_series(1, 20000) i`, `VACUUM FREEZE t`, `CREATE TABLE more AS SELECT * FROM t`, `DELETE FROM t WHERE i > 20000`, `VACUUM t`} {
					s.SQLIn(t, db, sql)
				}
			}
			s.Archived(t)
			want := site.Contents(t, s.Cluster, "wanted")
			oid := s.SQL(t, `SELECT oid FROM pg_database WHERE datname = 'other'`)

			spaces := testenv.Dir(t)
			f := s.FailsWith(t, site.ExitUsage, "restore-request", "backup-fetch", filepath.Join(spaces, "x"), "--only-database", "nosuch", "--tablespace-map-all", spaces)
			if !f.Names("nosuch", "wanted") {
				t.Errorf("a database that is not there: %+v", f)
			}
			args := []string{"--only-database", "wanted", "--tablespace-map-all", filepath.Join(spaces, "spaces"), "--target-action", "promote"}
			plan := s.Must(t, append([]string{"backup-fetch", filepath.Join(spaces, "x"), "--plan"}, args...)...)
			for _, text := range []string{"left out  ", `DROP DATABASE "other"; DROP DATABASE "odd ""name"`, "nobody can connect"} {
				if !strings.Contains(plan.Out, text) {
					t.Errorf("the plan does not say %q: %v", text, plan)
				}
			}
			if has := strings.Contains(plan.Out, "ignore_invalid_pages = 'on'"); has != (major >= 13) {
				t.Errorf("ignore_invalid_pages is written: %v", plan)
			}
			dir := s.Fetch(t, args...)
			left := site.TakesNoRoom(t, filepath.Join(dir, "base", oid)) + site.TakesNoRoom(t, filepath.Join(spaces, "spaces", "apart", "PG_*", oid))
			if left < 100 {
				t.Errorf("only %d files of the other database are there", left)
			}
			c := s.Spawn(t, dir)
			site.SameContents(t, c, "wanted", want)
			if met := strings.Contains(c.Log(), "is uninitialized"); met != (major >= 13) {
				t.Errorf("recovery met pages that it could not replay onto: %v, so this test is not about what it should be", met)
			}
			if got, err := c.Query(t.Context(), "other", `SELECT 1`); err == nil {
				t.Errorf("the other database can be used: %s", got)
			}
			c.Exec(t, `DROP DATABASE other`)
			c.Exec(t, `DROP DATABASE "odd ""name"`)
			c.Exec(t, `CREATE DATABASE fresh`)
			if names, _ := filepath.Glob(filepath.Join(dir, "base", oid)); len(names) > 0 {
				t.Errorf("after DROP DATABASE there is %v", names)
			}
			if major == 15 {
				c.Stop(t, "fast")
				s.ChangesItsMind(t, dir, oid, args[2:4])
			}
		})
	}
}
