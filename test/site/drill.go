package site

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/testenv"
)

// drilled is what users may rely on in drill --json.
type drilled struct {
	Backup     string  `json:"backup"`
	OK         bool    `json:"ok"`
	Reason     string  `json:"reason"`
	Kind       string  `json:"-"` // of its failure
	Recovery   float64 `json:"recovery_seconds"`
	EndLSN     string  `json:"end_lsn"`
	Timeline   int     `json:"timeline"`
	Directory  string  `json:"directory"`
	Steps      []struct{ Name, Result, Text string }
	Overridden []struct{ Name, Was, Now string }
}

func (d drilled) StepNames() string {
	var s []string
	for _, x := range d.Steps {
		s = append(s, x.Name+" "+x.Result)
	}
	return strings.Join(s, ", ")
}

// Drill holds one, as JSON, in a directory of its own in which it may leave nothing.
func (s *Site) Drill(t testing.TB, code int, args ...string) (d drilled) {
	t.Helper()
	scratch := testenv.Dir(t)
	o := s.Run(t, append([]string{"--log-format=json", "drill", "--json", "--scratch", scratch, "--bindir", s.BinDir}, args...)...)
	if o.Code != code {
		t.Fatalf("drill %v: %v, want exit code %d", args, o, code)
	}
	if err := json.Unmarshal([]byte(o.Out), &d); err != nil {
		t.Fatalf("drill --json: %v in %v", err, o)
	}
	d.Kind = o.Failure().Kind
	if names, err := os.ReadDir(scratch); err != nil || len(names) > 0 {
		t.Errorf("the drill has left %v (%v)", names, err)
	}
	if d.OK != (code == 0) || d.OK != (d.Recovery > 0) {
		t.Errorf("exit code %d, and the result says %+v", code, d)
	}
	return d
}

// DrillsAreListed holds that the catalog has the last drill of each backup: the first one's failed.
func (s *Site) DrillsAreListed(t testing.TB, failed, passed string) {
	t.Helper()
	var list []struct {
		Backup string
		Drill  struct {
			OK       bool
			Reason   string
			Recovery float64 `json:"recovery_seconds"`
			End      string  `json:"end_lsn"`
		}
	}
	o := s.Must(t, "backup-list", "--json")
	if err := json.Unmarshal([]byte(o.Out), &list); err != nil || len(list) != 2 {
		t.Fatalf("%v: %v", err, o)
	}
	if b := list[0]; b.Backup != failed || b.Drill.OK || b.Drill.Reason == "" {
		t.Errorf("after a drill that failed: %+v", b)
	}
	if b := list[1]; b.Backup != passed || !b.Drill.OK || b.Drill.Recovery <= 0 || b.Drill.End == "" {
		t.Errorf("after a drill: %+v", b)
	}
	if o := s.Must(t, "backup-list"); !strings.Contains(o.Out, "DRILL FAILED") || !strings.Contains(o.Out, "drilled ") {
		t.Errorf("backup-list does not speak of drills: %v", o)
	}
}

// DrillsAsRoot: the server never runs as root, who may still hold drills.
func (s *Site) DrillsAsRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Log("not root: that a drill drops its rights cannot be seen")
		return
	}
	scratch, err := os.MkdirTemp("", "pgobj-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(scratch)
	if err := os.Chmod(scratch, 0o755); err != nil {
		t.Fatal(err)
	}
	s.Exec(t, fmt.Sprintf(`CREATE TABLESPACE beside LOCATION '%s'`, Mkdir(t, filepath.Join(testenv.Dir(t), "beside"), 0o700, -1)))
	s.Exec(t, `CREATE TABLE in_beside (n int) TABLESPACE beside`)
	s.Backup(t)
	for _, args := range [][]string{nil, {"--user", "postgres"}} {
		cmd := exec.Command(s.Pgobj, append([]string{"drill", "--scratch", scratch}, args...)...)
		cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, s.Settings...)
		if o := Finish(t, cmd); o.Code != 0 {
			t.Errorf("a drill as root: %v", o)
		}
		if names, err := os.ReadDir(scratch); err != nil || len(names) > 0 {
			t.Errorf("it has left %v (%v)", names, err)
		}
	}
	if o := s.Must(t, "backup-list"); !strings.Contains(o.Out, "drilled ") { // as postgres: root's record has to be readable
		t.Errorf("after drills as root: %v", o)
	}
}
