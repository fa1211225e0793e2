package restore

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
)

// TestCopyOfASynchronousServer: nobody is there that the commits of a copy could wait for, wherever the original was told
// to wait. A successor is left as it was, and backup-fetch says what its commits wait for.
func TestCopyOfASynchronousServer(t *testing.T) {
	for _, major := range []int{11, 15} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, Template: true})
			s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
			site.Must(t, s.AppendConf("synchronous_standby_names = 'pgobj'"))
			s.Exec(t, `ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (a, b)'`)
			s.Backup(t)
			s.Stop(t, "immediate")

			o := s.Must(t, "backup-fetch", "/nonexistent/data", "--plan")
			for _, says := range []string{"'pgobj' (cleared", "'ANY 1 (a, b)' (cleared",
				"  synchronous_standby_names = ''\n"} {
				if !strings.Contains(o.Out, says) {
					t.Errorf("the plan does not say %q: %v", says, o)
				}
			}
			dir := s.Fetch(t)
			if text := string(site.ReadFile(t, dir+"/postgresql.auto.conf")); !strings.Contains(text, "#   synchronous_standby_names = 'ANY 1 (a, b)' (postgresql.auto.conf, line 3)") {
				t.Errorf("it is not noted what was set before:\n%s", text)
			}
			c := s.Spawn(t, dir)
			ctx, cancel := context.WithTimeout(t.Context(), site.Generous)
			defer cancel()
			if _, err := c.Query(ctx, "postgres", `INSERT INTO steps VALUES (2)`); err != nil {
				t.Errorf("the copy does not commit: %v", err)
			}

			o = s.Must(t, "backup-fetch", "/nonexistent/data", "--plan", "--keep-archiving")
			if !strings.Contains(o.Out, "synchronous_standby_names = 'pgobj' (commits wait until") || strings.Contains(o.Out, "  synchronous_standby_names = ''\n") {
				t.Errorf("the plan of a successor: %v", o)
			}
		})
	}
}
