package site

import (
	"path/filepath"
	"syscall"
	"testing"
)

// TakesNoRoom counts the files of a database's directory, and holds that they are empty on the disk.
func TakesNoRoom(t testing.TB, directory string) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(directory, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		var st syscall.Stat_t
		if err := syscall.Stat(f, &st); err != nil {
			t.Fatal(err)
		}
		if st.Blocks > 0 && filepath.Base(f) != "PG_VERSION" {
			t.Errorf("%s takes %d blocks", f, st.Blocks)
		}
	}
	return len(files)
}

// ChangesItsMind: a delta restore brings the other database back, and another one empties it again.
func (s *Site) ChangesItsMind(t testing.TB, dir, oid string, places []string) {
	t.Helper()
	s.Must(t, append([]string{"backup-fetch", dir, "--delta", "--discard-wal"}, places...)...)
	c := s.Spawn(t, dir)
	if got, want := Contents(t, c, "other"), Contents(t, s.Cluster, "other"); got != want {
		t.Errorf("the other database has\n%s\nwant\n%s", got, want)
	}
	c.Stop(t, "fast")
	s.Must(t, append([]string{"backup-fetch", dir, "--delta", "--discard-wal", "--only-database", s.SQL(t, `SELECT oid FROM pg_database WHERE datname = 'wanted'`)}, places...)...)
	if n := TakesNoRoom(t, filepath.Join(dir, "base", oid)); n < 100 {
		t.Errorf("only %d files of the other database are there", n)
	}
	c = s.Spawn(t, dir)
	SameContents(t, c, "wanted", Contents(t, s.Cluster, "wanted"))
}
