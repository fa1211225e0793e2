package site

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// Stops holds that a restored server ends in its recovery, before it makes the tablespace, and never opens.
func (s *Site) Stops(t testing.TB, space string, env []string, args ...string) {
	t.Helper()
	before := Survey(t, space)
	dir := filepath.Join(testenv.Dir(t), "data")
	o := s.Must(t, append([]string{"backup-fetch", dir}, args...)...)
	if !strings.Contains(o.Out, "tablespace in "+space) {
		t.Errorf("it does not warn: %v", o)
	}
	c, err := pgtest.Attach(dir, s.Major)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.AddEnv(env...)
	_ = c.Launch(t.Context()) // a standby is open before it stops
	testenv.Eventually(t, time.Minute, "the server stops", func() bool { return !c.Running() })
	if !strings.Contains(c.Log(), "would create a tablespace") {
		t.Errorf("%v: it did not stop for that:\n%s", args, LastLines(c.Log(), 20))
	}
	if got := c.Log(); strings.Contains(got, "selected new timeline") {
		t.Errorf("%v: it was promoted:\n%s", args, LastLines(got, 20))
	}
	SameThings(t, fmt.Sprint("the original's tablespace, beside a copy ", args), before, Survey(t, space))
}

// DrillIsNotHeld: it is no word against the backup, and none is entered.
func (s *Site) DrillIsNotHeld(t testing.TB, space string) {
	t.Helper()
	before := Survey(t, space)
	if d := s.Drill(t, ExitUsage); d.Kind != "drill-tablespace" {
		t.Errorf("the drill: %+v", d)
	}
	if o := s.Must(t, "backup-list"); strings.Contains(o.Out, "DRILL FAILED") {
		t.Errorf("it is entered as failed: %v", o)
	}
	SameThings(t, "the original's tablespace, after a drill", before, Survey(t, space))
}
