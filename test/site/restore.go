package site

import (
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
)

func Now(t testing.TB, c *pgtest.Cluster) string {
	t.Helper()
	return c.SQL(t, `SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00'`)
}

func Steps(t testing.TB, c *pgtest.Cluster) string {
	t.Helper()
	return c.SQL(t, `SELECT string_agg(n::text, ' ' ORDER BY n) FROM steps`)
}

// StartArchiving starts a restored server that archives as the original did.
func (s *Site) StartArchiving(t testing.TB, dir string, args ...string) *pgtest.Cluster {
	t.Helper()
	c, err := pgtest.Attach(dir, s.Major, args...)
	if err != nil {
		t.Fatal(err)
	}
	c.AddEnv(append(s.Settings, s.Credentials...)...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the restored server:\n%s", LastLines(c.Log(), 40))
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	c.Start(t)
	return c
}
