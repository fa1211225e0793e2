package site

import (
	"testing"
)

// Proven restores a backup and compares it with the server that it was taken of.
func (s *Site) Proven(t testing.TB, backup, want string) {
	t.Helper()
	dir := s.Fetch(t, backup, "--target", "immediate", "--target-action", "promote")
	if s.Major == 15 {
		s.Verified(t, dir)
	}
	c := s.Spawn(t, dir)
	SameContents(t, c, "postgres", want)
	if s.Major == 15 && c.SQL(t, `SHOW data_checksums`) == "on" {
		Sound(t, c)
		return
	}
	Must(t, c.Close())
}
