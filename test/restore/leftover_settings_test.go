package restore

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestSettingsOfAnotherRecovery: what postgresql.conf has of the recovery that the original once came from, or of a standby
// that is to be late, does not steer the recovery of a copy.
func TestSettingsOfAnotherRecovery(t *testing.T) {
	for _, major := range []int{12, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, Template: true})
			ran := filepath.Join(testenv.Dir(t), "ran")
			site.Must(t, s.AppendConf("recovery_target_name = 'before_migration'", "recovery_target_inclusive = off", "recovery_min_apply_delay = '1h'",
				"recovery_end_command = 'touch "+ran+"'", "archive_cleanup_command = 'touch "+ran+"'"))
			p := history(t, s)
			s.Stop(t, "immediate")
			if o := s.Must(t, "backup-fetch", "/nonexistent/data", "--plan"); !strings.Contains(o.Out, "'before_migration' (overridden") || !strings.Contains(o.Out, "  recovery_min_apply_delay = '0'\n") {
				t.Errorf("the plan: %v", o)
			}
			for _, c := range []struct {
				want string
				args []string
			}{
				{"1 2 3 4 5 6 7", nil},
				{"1 2", []string{"--target-time", p.time}},
				{"1 2 3 4", []string{"--target-xid", p.xid}},
				{"1 2 3 4 5", []string{"--target-name", "it's here"}},
			} {
				if got := site.Steps(t, s.Spawn(t, s.Fetch(t, append(c.args, "--target-action=promote")...))); got != c.want {
					t.Errorf("%v: it has the steps %s, want %s", c.args, got, c.want)
				}
			}
			s.Drill(t, 0)
			if site.Exists(ran) {
				t.Error("a command of the original's has run")
			}
			c := s.Spawn(t, s.Fetch(t, "--standby"))
			if got := c.SQL(t, `SELECT current_setting('recovery_min_apply_delay'), current_setting('recovery_target_name')`); got != "1h|" {
				t.Errorf("the standby has %s", got)
			}
		})
	}
}
