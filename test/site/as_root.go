package site

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
)

// AsRoot runs pgobj as root, with the settings and what leads to a server, but without a role.
func (s *Site) AsRoot(t testing.TB, c *pgtest.Cluster, args ...string) Outcome {
	t.Helper()
	cmd := exec.Command(s.Pgobj, args...)
	cmd.Env = slices.Concat([]string{"PATH=" + os.Getenv("PATH")}, s.Settings, s.Credentials)
	if c != nil {
		cmd.Env = append(cmd.Env, "PGHOST="+c.SocketDir, fmt.Sprintf("PGPORT=%d", c.Port), "PGDATABASE=postgres")
	}
	return Finish(t, cmd)
}

// Asked holds what restore-check says to root.
func (s *Site) Asked(t testing.TB, dir string, code int, state string) {
	t.Helper()
	o := s.AsRoot(t, nil, "restore-check", "--json", dir)
	var r struct {
		Reached, Recovering bool
		State               string
	}
	if err := json.Unmarshal([]byte(o.Out), &r); err != nil {
		t.Fatalf("restore-check --json: %v in %v", err, o)
	}
	if o.Code != code || r.Reached != (code == 0) || r.Recovering || !strings.Contains(r.State, state) {
		t.Errorf("restore-check as root: %v, want exit code %d and the state %q", o, code, state)
	}
}
