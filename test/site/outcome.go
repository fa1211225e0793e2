package site

import (
	"strings"
	"testing"
)

// Says holds what restore-check says of a recovery that is where it should be, and what it does not say.
func (s *Site) Says(t testing.TB, dir, yes, no string) {
	t.Helper()
	if o := s.Must(t, "restore-check", dir); !strings.Contains(o.Out, yes) || strings.Contains(o.Out, no) {
		t.Errorf("restore-check does not say %q, or says %q: %v", yes, no, o)
	}
}
