package site

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pgobj/pgobj/test/testenv"
)

// Space makes a directory, and of it a tablespace with a table of the same name in it.
func (s *Site) Space(t testing.TB, dir, name string) (location string) {
	t.Helper()
	location = filepath.Join(dir, name)
	if err := os.Mkdir(location, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := testenv.ChownPostgres(location); err != nil {
		t.Fatal(err)
	}
	s.Exec(t, `CREATE TABLESPACE `+name+` LOCATION '`+location+`'`)
	s.Exec(t, `CREATE TABLE `+name+` TABLESPACE `+name+` AS SELECT i, md5(i::text) FROM generate_series(1, 1000) i`)
	return location
}
