package site

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/testenv"
	"github.com/pgobj/pgobj/walstore/spool"
)

// Wait leaves files in pg_wal as PostgreSQL does that are to be archived, and returns their contents.
func (r *WalRig) Wait(t testing.TB, names ...string) map[string][]byte {
	t.Helper()
	contents := map[string][]byte{}
	for i, name := range names {
		data := []byte("1\t0/A200000\tno recovery target specified\n")
		if !strings.HasSuffix(name, ".history") {
			data = WalSegment(name, r.Sysid, Mib, byte(i+1))
		}
		r.Put(t, name, data)
		r.Put(t, "archive_status/"+name+".ready", nil)
		contents[name] = data
	}
	return contents
}

func (r *WalRig) SpoolDir() string { return filepath.Join(r.Data, spool.Directory) }

func (r *WalRig) Markers(t testing.TB) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(r.SpoolDir())
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if scoped, is := strings.CutPrefix(e.Name(), "pushed-"); is {
			_, name, _ := strings.Cut(scoped, "-")
			names = append(names, name)
		}
	}
	return names
}

// Pushers are the processes that push ahead for a data directory.
func Pushers(t testing.TB, dataDir string) []int { return Helpers(t, "wal-push-ahead", dataDir) }

// Serves lets the rig look as if a server ran on it.
func (r *WalRig) Serves(t testing.TB) {
	t.Helper()
	r.Put(t, "../postmaster.pid", []byte(r.postmaster(t)))
	t.Cleanup(func() {
		_ = os.Remove(filepath.Join(r.Data, "postmaster.pid"))
		NoHelpers(t, "wal-push-ahead", r.Data)
	})
}

func (r *WalRig) postmaster(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("%d\n%s\n1795000000\n", r.Postmaster(t), r.Data)
}

// Postmaster is a process that stands in for that of the rig's server.
func (r *WalRig) Postmaster(t testing.TB) (pid int) {
	t.Helper()
	if r.standIn == 0 {
		pid, stop, err := testenv.StandIn()
		Must(t, err)
		t.Cleanup(stop)
		r.standIn = pid
	}
	return r.standIn
}

// Settled waits until nothing is pushed ahead any more.
func (r *WalRig) Settled(t testing.TB) {
	t.Helper()
	testenv.Eventually(t, Patience, "nothing is pushed ahead", func() bool { return len(Pushers(t, r.Data)) == 0 })
}

// Asks calls wal-push for a file that lies there, and says whether another process has archived it.
func (r *WalRig) Asks(t testing.TB, name string) (ahead bool) {
	t.Helper()
	o := r.Run(t, "wal-push", "--log-level=debug", "pg_wal/"+name)
	if o.Code != 0 {
		t.Fatalf("wal-push %s: %v", name, o)
	}
	return strings.Contains(o.Err, "archived ahead")
}

func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// MarkerHolds asks for a file with the storage out of reach: only a marker can make this a success.
func (r *WalRig) MarkerHolds(t testing.TB, name string) bool {
	t.Helper()
	Must(t, os.Rename(r.Repo, r.Repo+".away"))
	Must(t, os.WriteFile(r.Repo, nil, 0o600)) // not a directory: nothing can be stored
	o := r.Run(t, "wal-push", "--retry-for=1s", "pg_wal/"+name)
	r.Settled(t)
	Must(t, os.Remove(r.Repo))
	Must(t, os.Rename(r.Repo+".away", r.Repo))
	return o.Code == 0
}

// PileUp has segments wait for the archiver, and returns their names.
func (s *Site) PileUp(t testing.TB, segments int) (names []string) {
	t.Helper()
	for range segments {
		s.Exec(t, `INSERT INTO x SELECT generate_series(1, 1000)`)
		s.Exec(t, `SELECT pg_switch_wal()`)
	}
	ready, err := filepath.Glob(filepath.Join(s.Data, "pg_wal/archive_status/*.ready"))
	if err != nil || len(ready) < segments {
		t.Fatal(ready, err)
	}
	slices.Sort(ready)
	for _, path := range ready {
		names = append(names, strings.TrimSuffix(filepath.Base(path), ".ready"))
	}
	return names
}

func (s *Site) SpoolLeft(t testing.TB) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.Data, spool.Directory))
	Must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
