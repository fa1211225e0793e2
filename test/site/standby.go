package site

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// StandbyOf restores the newest backup as a standby that follows a primary, with the same environment.
func StandbyOf(t testing.TB, s *Site, args ...string) *Site {
	t.Helper()
	dir := s.Fetch(t, "--standby", "--primary-conninfo", fmt.Sprintf("host=%s port=%d user=postgres", s.SocketDir, s.Port))
	return &Site{Store: s.Store, Pgobj: s.Pgobj, Cluster: s.StartArchiving(t, dir, args...)}
}

// CaughtUp makes a checkpoint on the primary and waits until a standby has replayed it.
func CaughtUp(t testing.TB, primary, standby *pgtest.Cluster) {
	t.Helper()
	primary.Exec(t, `CHECKPOINT`)
	at := primary.SQL(t, `SELECT pg_current_wal_insert_lsn()`)
	standby.Eventually(t, `SELECT pg_last_wal_replay_lsn() >= '`+at+`'`, "t")
}

// Standby makes one of a primary.
func (r *FaultRig) Standby(t *testing.T, primary *pgtest.Cluster, args ...string) *pgtest.Cluster {
	t.Helper()
	dir := filepath.Join(testenv.Dir(t), "data")
	r.MustRun(t, "backup-fetch", dir, "--standby", "--primary-conninfo", fmt.Sprintf("host=%s port=%d user=postgres", primary.SocketDir, primary.Port))
	c, err := pgtest.Attach(dir, primary.Major, args...)
	Must(t, err)
	c.AddEnv(r.Env...)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	c.Start(t)
	return c
}
