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

// Fails runs pgobj with other settings on top, and checks how it refuses: exit code, and texts on stderr.
func (s *Site) Fails(t testing.TB, settings []string, code int, texts []string, args ...string) {
	t.Helper()
	cmd := s.Command(args...)
	cmd.Env = append(cmd.Env, settings...)
	o := Finish(t, cmd)
	line := strings.Join(append(slices.Clone(settings), args...), " ")
	if o.Code != code || o.Out != "" || !strings.Contains(o.Err, "ERROR:  ") {
		t.Errorf("%s: %v, want exit code %d, an ERROR and nothing on stdout", line, o, code)
	}
	for _, text := range texts {
		if !strings.Contains(o.Err, text) {
			t.Errorf("%s: stderr does not say %q: %s", line, text, o.Err)
		}
	}
	if strings.Contains(o.Err, Canary) {
		t.Errorf("%s: stderr has the secret: %s", line, o.Err)
	}
}

func Says(texts ...string) []string { return texts }
