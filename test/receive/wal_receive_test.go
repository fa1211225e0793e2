package receive

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// onlyReceived is a server whose archive_command never works, so that all WAL comes from wal-receive.
func onlyReceived(t testing.TB, st site.Store, o pgtest.Options) *site.Site {
	t.Helper()
	o.Conf = append(o.Conf, "archive_command = 'false'")
	return site.NewSite(t, st, o)
}

// The server waits for wal-receive before it acknowledges a commit; then all of it is lost, without a warning. What was
// acknowledged is there after the restore.
func TestReceivedSynchronously(t *testing.T) {
	t.Parallel()
	for _, major := range []int{10, 15, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			o := pgtest.Options{Major: major}
			if major > 10 {
				o.WALSegMB = 1
			}
			s := onlyReceived(t, site.DirectoryStore(t), o)
			s.Exec(t, `CREATE TABLE w (i int, filler text)`)
			r := s.Receive(t, "--slot=safe", "--create-slot", "--synchronous", "--application-name=safe")
			s.Streaming(t, "async")
			s.Must(t, "backup-push", "--wal-timeout=10m")
			s.Exec(t, `ALTER SYSTEM SET synchronous_standby_names = 'safe'`)
			s.Exec(t, `SELECT pg_reload_conf()`)
			s.Streaming(t, "sync")
			w := s.Write(t, "w")
			w.Reaches(t, 300)
			site.Must(t, s.Crash())
			<-w.Done
			acked := w.Acked.Load()
			site.Must(t, os.RemoveAll(s.Data))
			testenv.Eventually(t, site.Generous, "the loss is noticed", func() bool { return strings.Contains(r.Said(), "connecting again") })
			if code := r.Stop(t, syscall.SIGTERM); code != 0 {
				t.Errorf("wal-receive ended with %d", code)
			}
			c := s.Spawn(t, s.Fetch(t), "-c", "synchronous_standby_names=")
			n := site.Number(t, c.SQL(t, `SELECT count(*) FROM w`))
			last := site.Number(t, c.SQL(t, `SELECT max(i) FROM w`))
			t.Logf("%d rows were acknowledged, %d are there", acked, n)
			if n < acked || last != n || n > acked+1 {
				t.Errorf("%d rows were acknowledged, %d are there, up to %d", acked, n, last)
			}
			s.Must(t, "wal-list")
			s.Must(t, "wal-verify")
			if left, err := filepath.Glob(filepath.Join(os.TempDir(), "pgobj-wal-receive-*")); err != nil || len(left) > 0 {
				t.Error(left, err)
			}
		})
	}
}
