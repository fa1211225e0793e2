package wal

import (
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// A server whose storage is gone can be stopped within the minute for which pg_ctl waits, and keeps what is not archived.
func TestStopWithoutStorage(t *testing.T) {
	for name, gap := range map[string]bool{"refused": false, "black hole": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			site.Must(t, err)
			t.Cleanup(func() { _ = l.Close() })
			if !gap {
				site.Must(t, l.Close())
			}
			s := site.NewSite(t, site.Store{
				Settings:    []string{"PGOBJ_STORAGE=s3://bucket/pg", "PGOBJ_S3_REGION=us-east-1", "PGOBJ_S3_ENDPOINT=http://" + l.Addr().String()},
				Credentials: []string{"AWS_ACCESS_KEY_ID=key", "AWS_SECRET_ACCESS_KEY=secret"},
			}, pgtest.Options{Template: true})
			s.Exec(t, `CREATE TABLE a (i int)`)
			first := s.SwitchWAL(t)
			s.Exec(t, `INSERT INTO a VALUES (1)`)
			second := s.SwitchWAL(t)
			if gap {
				c, err := l.Accept() // nobody ever reads from it
				site.Must(t, err)
				t.Cleanup(func() { _ = c.Close() })
			} else {
				testenv.Eventually(t, site.Patience, "wal-push tries", func() bool { return strings.Contains(s.Log(), "trying again") })
			}

			s.Stop(t, "fast") // which has less patience than six attempts of five minutes take
			ready, err := filepath.Glob(filepath.Join(s.Data, "pg_wal/archive_status/*.ready"))
			site.Must(t, err)
			for i, path := range ready {
				ready[i] = strings.TrimSuffix(filepath.Base(path), ".ready")
			}
			if !slices.Contains(ready, first) || !slices.Contains(ready, second) {
				t.Errorf("only %v wait to be archived, of %s and %s", ready, first, second)
			}
			for _, says := range []string{"the server is stopping", "pgobj wal-push --all"} {
				if !strings.Contains(s.Log(), says) {
					t.Errorf("the log does not say %q:\n%s", says, site.LastLines(s.Log(), 30))
				}
			}

			s.Store = site.DirectoryStore(t)
			s.Must(t, "wal-push", "--all", s.Data)
			for _, name := range []string{first, second} {
				if found, err := filepath.Glob(filepath.Join(s.Directory, "main/wal/*/*", name+".zst")); err != nil || len(found) != 1 {
					t.Errorf("wal-push --all: %s is archived as %v, %v", name, found, err)
				}
			}
			site.NoHelpers(t, "wal-push-ahead", s.Data)
		})
	}
}
