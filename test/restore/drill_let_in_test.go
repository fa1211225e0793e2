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

// TestDrillIsLetIn: whatever keeps people out of most databases, or away from the superuser, a drill finds the way in that
// there is. Where there is none it ends, and says what PostgreSQL says.
func TestDrillIsLetIn(t *testing.T) {
	for _, major := range []int{10, 13, 15, 17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, Template: true})
			psql := psqlOf15(t)
			for _, sql := range hardening(major) {
				s.Exec(t, sql)
			}
			s.Exec(t, shutOut) // from here on only boss is let in
			boss := func(sql string) {
				t.Helper()
				if o := site.Finish(t, s.Program(psql, "-Xq", "-v", "ON_ERROR_STOP=1", "-U", "boss", "-d", "app", "-c", sql)); o.Code != 0 {
					t.Fatal(o)
				}
			}
			if major >= 17 {
				boss(`CREATE FUNCTION shut() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''get out''; END'`)
				boss(`CREATE EVENT TRIGGER shut ON login EXECUTE FUNCTION shut()`)
			}
			dsn := strings.ReplaceAll(s.DSN("app"), "user=postgres", "user=boss")
			b := s.Backup(t, "--dsn", dsn)
			d := s.Drill(t, 0)
			if d.Backup != b.Backup || major == 15 && !strings.Contains(d.StepNames(), "pg_amcheck ok") {
				t.Errorf("the drill: %+v", d)
			}

			boss(`UPDATE pg_database SET datallowconn = false WHERE datname = 'other'; UPDATE pg_database SET datcollate = 'xx_YY', datctype = 'xx_YY' WHERE datname = 'app'`)
			s.Stop(t, "fast") // which archives all that it has
			o := s.Run(t, "drill", "--scratch", testenv.Dir(t), "--bindir", s.BinDir)
			if o.Code != site.ExitUsage || !strings.Contains(o.Err, "(SQLSTATE 55000)") || !strings.Contains(o.Err, "xx_YY") {
				t.Errorf("a drill of a cluster that lets nobody in: %v, want exit code %d and the server's words", o, site.ExitUsage)
			}
		})
	}
}

// hardening is what people do to a cluster that a drill meets in a copy.
func hardening(major int) []string {
	sql := []string{
		`CREATE ROLE boss SUPERUSER LOGIN`, `CREATE ROLE nobody`, `CREATE DATABASE app TEMPLATE template0`, `CREATE DATABASE other TEMPLATE template0`,
		`UPDATE pg_database SET datistemplate = false WHERE datname = 'template1'`, `DROP DATABASE template1`,
		`ALTER DATABASE app CONNECTION LIMIT 0`, `ALTER DATABASE other CONNECTION LIMIT 0`,
	}
	if major >= 17 {
		sql = append(sql, `ALTER ROLE boss SET event_triggers = off`)
	}
	return sql
}

// shutOut leaves the superuser postgres without a session of its own.
const shutOut = `
	ALTER ROLE postgres SET session_preload_libraries = 'no_such_library';
	ALTER ROLE postgres IN DATABASE app SET default_transaction_read_only = on;
	ALTER ROLE postgres SET statement_timeout = '1ms';
	ALTER ROLE postgres SET role = 'nobody';
	UPDATE pg_database SET datallowconn = false WHERE datname = 'postgres'`

// psqlOf15 is a program that only one of the versions here has, and that speaks to all.
func psqlOf15(t testing.TB) string {
	t.Helper()
	bin, err := pgtest.BinDir(15)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(bin, "psql")
}
