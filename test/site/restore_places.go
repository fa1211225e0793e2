package site

import (
	"path"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
)

// DoesNotStart holds that no server comes up on a directory, and why.
func (s *Site) DoesNotStart(t testing.TB, dir, why string) {
	t.Helper()
	c, err := pgtest.Open(t, dir, s.Major)
	if err == nil {
		t.Fatalf("PostgreSQL %d starts on %s", s.Major, dir)
	}
	if !strings.Contains(c.Log(), why) {
		t.Errorf("it does not start, but not for %q: %v", why, err)
	}
}

// SameThings compares files by all that can be told of them.
func SameThings(t testing.TB, what string, want, got map[string]Thing) {
	t.Helper()
	for p, x := range want {
		if path.Base(p) == "pg_internal.init" {
			continue
		}
		if y, ok := got[p]; !ok || x.String() != y.String() {
			t.Errorf("%s: %s was %v and is %v", what, p, x, y)
		}
	}
}
