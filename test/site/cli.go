package site

import (
	"slices"
	"strings"
	"testing"
)

// Exit codes beside those of the fault tests.
const (
	ExitUsage    = 2
	ExitStorage  = 3
	ExitTimeout  = 18
	ExitDenied   = 4
	ExitNoStore  = 5
	ExitNotFound = 6
	ExitConflict = 7
)

// Canary stands for every secret. It must not come back out of pgobj, however wrong it is.
const Canary = "CANARY/s3cr3t+wJalrXUtnFEMI"

// Fails runs pgobj with other settings on top, and checks how it refuses: exit code, kind, and names on stderr.
func (s *Site) Fails(t testing.TB, settings []string, code int, kind string, names []string, args ...string) {
	t.Helper()
	cmd := s.Command(args...)
	cmd.Env = append(append(cmd.Env, JSONLog), settings...)
	o := Finish(t, cmd)
	line := strings.Join(append(slices.Clone(settings), args...), " ")
	if f := o.Failure(); o.Code != code || o.Out != "" || f.Kind != kind || !f.Names(names...) {
		t.Errorf("%s: %v, want exit code %d, kind %s, %q and nothing on stdout", line, o, code, kind, names)
	}
	if strings.Contains(o.Err, Canary) {
		t.Errorf("%s: stderr has the secret: %s", line, o.Err)
	}
}

func Says(texts ...string) []string { return texts }
