package site

import (
	"encoding/json"
	"strings"
	"testing"
)

// JSONLog lets pgobj tell a failure in JSON on standard error, as every command can.
const JSONLog = "PGOBJ_LOG_FORMAT=json"

// Failure is why pgobj failed, as cmd/cli/JSON.md has it.
type Failure struct {
	ExitCode int    `json:"exit_code"`
	Kind     string `json:"kind"`
	Text     string `json:"text"`
	Detail   string `json:"detail"`
	Hint     string `json:"hint"`
}

// Names says whether it tells of all of these: a segment, a backup, a path, an option.
func (f Failure) Names(what ...string) bool {
	for _, w := range what {
		if !strings.Contains(f.Text+"\n"+f.Detail+"\n"+f.Hint, w) {
			return false
		}
	}
	return true
}

// Failure is the last line of a log in JSON. Without one it is empty.
func (o Outcome) Failure() (f Failure) {
	lines := strings.Split(strings.TrimSpace(o.Err), "\n")
	_ = json.Unmarshal([]byte(lines[len(lines)-1]), &struct{ Error *Failure }{&f}) // else it stays empty, which no test takes for a failure
	return f
}

// MustFail holds that a command with JSONLog failed with this exit code, for this kind of reason.
func (o Outcome) MustFail(t testing.TB, code int, kind string) Failure {
	t.Helper()
	f := o.Failure()
	if o.Code != code || f.Kind != kind || f.Text == "" {
		t.Fatalf("want exit code %d and kind %q: %v", code, kind, o)
	}
	return f
}

// FailsWith runs pgobj, which has to fail with this exit code, for this kind of reason, and with nothing on stdout.
func (s *Site) FailsWith(t testing.TB, code int, kind string, args ...string) Failure {
	t.Helper()
	return refused(t, s.Run(t, append([]string{"--log-format=json"}, args...)...), code, kind, args)
}

// FailsWith is that of Site.
func (r *FaultRig) FailsWith(t testing.TB, code int, kind string, args ...string) Failure {
	t.Helper()
	return refused(t, r.Run(t, append([]string{"--log-format=json"}, args...)...), code, kind, args)
}

func refused(t testing.TB, o Outcome, code int, kind string, args []string) Failure {
	t.Helper()
	if o.Out != "" {
		t.Errorf("pgobj %s: it fails, and stdout is not empty: %v", strings.Join(args, " "), o)
	}
	return o.MustFail(t, code, kind)
}
