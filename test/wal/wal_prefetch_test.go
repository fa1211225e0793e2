package wal

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
	"github.com/pgobj/pgobj/walstore/spool"
)

// prefetchers are the processes that fill windows for a data directory.
func prefetchers(t testing.TB, dataDir string) []int { return site.Helpers(t, "wal-prefetch", dataDir) }

// The window follows what is asked for, holds no more than it may, asks the storage once at the end of the
// archive, and gives nothing away that is not what was stored (rows 24, 25).
func TestPrefetch(t *testing.T) {
	t.Parallel()
	st, server := site.VersityStore(t)
	r := site.NewWALRig(t, st)
	var names []string
	contents := map[string][]byte{}
	for i := range 20 {
		names = append(names, numbered(i))
		contents[names[i]] = site.WalSegment(names[i], r.Sysid, site.Mib, byte(i+1))
		r.MustPush(t, names[i], contents[names[i]])
	}
	proxy := faultproxy.ForTest(t, server.Endpoint)
	r.Env = append(r.Env, "PGOBJ_S3_ENDPOINT="+proxy.URL, "PGOBJ_WAL_PREFETCH=6MB")
	r.FetchesAhead(t, names[0], contents[names[0]])
	if len(prefetchers(t, r.Data)) != 0 {
		t.Error("something is fetched ahead although no server recovers")
	}
	r.Recovery(t)
	r.FetchesAhead(t, names[0], contents[names[0]])
	r.Window(t, 6)
	if !r.FetchesAhead(t, names[1], contents[names[1]]) {
		t.Error("not from the window")
	}
	for what, spoil := range map[string]func(data []byte) []byte{
		"flipped":           func(d []byte) []byte { d[len(d)/2] ^= 1; return d },
		"short":             func(d []byte) []byte { return d[:len(d)-1] },
		"empty":             func([]byte) []byte { return nil },
		"another's":         func([]byte) []byte { return contents[names[9]] },
		"another cluster's": func([]byte) []byte { return site.WalSegment(names[2], r.Sysid+1, site.Mib, 3) },
	} {
		w := r.Window(t, 6)
		site.Must(t, os.WriteFile(w[names[2]], spoil(bytes.Clone(contents[names[2]])), 0o600))
		if r.FetchesAhead(t, names[2], contents[names[2]]) {
			t.Errorf("%s: the file was handed over", what)
		}
		r.FetchesAhead(t, names[1], contents[names[1]]) // the window goes back
	}
	for i := 2; i < len(names); i++ {
		r.FetchesAhead(t, names[i], contents[names[i]])
	}
	testenv.Eventually(t, site.Patience, "the window is empty", func() bool { return len(r.Window(t, 0)) == 0 })
	proxy.Reset()
	for range 3 {
		if o, _ := r.Fetch(t, numbered(20)); o.Code != 1 {
			t.Errorf("at the end: %v", o)
		}
	}
	for _, q := range proxy.Requests() {
		if strings.Contains(q.Path, numbered(21)) {
			t.Errorf("%s %s at the end of the archive", q.Method, q.Path)
		}
	}
	// What a gap, an outage or a damaged object is, wal-fetch says itself, and a window changes nothing.
	r.MustPush(t, numbered(22), site.WalSegment(numbered(22), r.Sysid, site.Mib, 1))
	if o, _ := r.Fetch(t, numbered(20)); o.Code != 255 || !strings.Contains(o.Err, "gap") {
		t.Errorf("a gap: %v", o)
	}
	proxy.On(faultproxy.Always, faultproxy.Fail(503, "SlowDown"))
	if o, _ := r.Fetch(t, numbered(20)); o.Code != 255 {
		t.Errorf("an outage: %v", o)
	}
}

// A window belongs to one run of one server, one repository and one data directory; a process that nobody asks ends.
func TestPrefetchBelongsToOneRestore(t *testing.T) {
	t.Parallel()
	st := site.DirectoryStore(t)
	r := site.NewWALRig(t, st)
	contents := map[string][]byte{}
	for i := range 6 {
		contents[numbered(i)] = site.WalSegment(numbered(i), r.Sysid, site.Mib, byte(i+1))
		r.MustPush(t, numbered(i), contents[numbered(i)])
	}
	r.Recovery(t)
	r.FetchesAhead(t, numbered(0), contents[numbered(0)])
	r.Window(t, 5)
	other := site.DirectoryStore(t)
	copyTree(t, filepath.Join(r.Repo, "main"), filepath.Join(other.Directory, "main"))
	saved := r.Env
	r.Env = other.Settings
	if r.FetchesAhead(t, numbered(1), contents[numbered(1)]) {
		t.Error("another repository's window was used")
	}
	r.Env = saved
	r.Put(t, "../postmaster.pid", []byte(fmt.Sprintf("%d\n%s\n1795000001\n", r.Postmaster(t), r.Data)))
	if r.FetchesAhead(t, numbered(1), contents[numbered(1)]) {
		t.Error("the window of an earlier run was used")
	}
	testenv.Eventually(t, site.Patience, "only the new run's process is left", func() bool { return len(prefetchers(t, r.Data)) <= 1 })
	r.Put(t, "../recovery.signal", nil)
	done := site.Execute(t, r.Command(r.Pgobj, "wal-prefetch", numbered(0), r.Data+"/.", "--idle=100ms", fmt.Sprintf("--of=%d/1795000001", r.Postmaster(t))), nil)
	if done.Code != 0 { // busy, or idle
		t.Errorf("%v", done)
	}
}

// Killed at any moment, neither process leaves anything behind that is served and differs (row 24).
func TestPrefetchKilled(t *testing.T) {
	t.Parallel()
	r := site.NewWALRig(t, site.DirectoryStore(t))
	const segments = 12
	contents := map[string][]byte{}
	for i := range segments {
		data := site.WalSegment(numbered(i), r.Sysid, site.Mib, byte(i+1))
		rnd := rand.NewChaCha8([32]byte{byte(i)})
		_, _ = rnd.Read(data[64:])
		contents[numbered(i)] = data
		r.MustPush(t, numbered(i), data)
	}
	r.Recovery(t)
	rounds := 4
	if site.Torture() {
		rounds = 60
	}
	killed, served, ahead := 0, 0, 0
	for range rounds {
		for i := range segments {
			dest := filepath.Join(r.Data, "pg_wal/RECOVERYXLOG")
			_ = os.Remove(dest)
			victim := rand.IntN(3)
			after := time.Duration(rand.IntN(30_000)) * time.Microsecond
			o := site.Execute(t, r.Command(r.Pgobj, "wal-fetch", numbered(i), "pg_wal/RECOVERYXLOG", "--log-level=debug"), func(p *os.Process) {
				switch victim {
				case 0:
					time.AfterFunc(after, func() { _ = p.Signal(syscall.SIGKILL) })
				case 1:
					for _, pid := range prefetchers(t, r.Data) {
						_ = syscall.Kill(pid, syscall.SIGKILL)
						killed++
					}
				}
			})
			got, err := os.ReadFile(dest)
			if err == nil && !bytes.Equal(got, contents[numbered(i)]) {
				t.Fatalf("%s: %d bytes that are not what was stored", numbered(i), len(got))
			}
			switch {
			case o.Code == 0 && err != nil:
				t.Fatalf("%s: success without a file", numbered(i))
			case o.Code == 0:
				served++
			case o.Code == -1:
				killed++
			default:
				t.Errorf("%v", o)
			}
			if strings.Contains(o.Err, "fetched ahead") {
				ahead++
			}
		}
	}
	t.Logf("%d killed, %d served, %d of them from the window", killed, served, ahead)
	if killed == 0 || ahead == 0 {
		t.Error("nothing was tried")
	}
	testenv.Eventually(t, site.Patience, "a process fills the window again, which takes it away in the end", func() bool {
		r.FetchesAhead(t, numbered(0), contents[numbered(0)])
		return len(prefetchers(t, r.Data)) > 0
	})
	r.Window(t, segments-1)
}

// A real recovery, a real standby, and what is left of them when they end, in each way that they can.
func TestPrefetchOnRealServer(t *testing.T) {
	t.Parallel()
	st := site.DirectoryStore(t)
	s := site.NewSite(t, st, pgtest.Options{WALSegMB: 1})
	s.Exec(t, `CREATE TABLE x (i int)`)
	s.Must(t, "backup-push")
	for range 40 {
		s.Exec(t, `INSERT INTO x SELECT generate_series(1, 5000)`)
		s.Exec(t, `SELECT pg_switch_wal()`)
	}
	s.Archived(t)
	rows := s.SQL(t, `SELECT count(*) FROM x`)
	s.Stop(t, "fast")
	for _, end := range []string{"promoted", "fast", "immediate", "killed"} {
		t.Run(end, func(t *testing.T) {
			dir := s.Fetch(t)
			c, err := pgtest.Attach(dir, 15, "-c", "archive_mode=off")
			site.Must(t, err)
			t.Cleanup(func() { site.Must(t, c.Close()) })
			c.AddEnv(append(st.Settings, "PGOBJ_LOG_LEVEL=debug")...)
			if end != "promoted" {
				site.Must(t, os.Rename(filepath.Join(dir, "recovery.signal"), filepath.Join(dir, "standby.signal")))
			}
			c.Start(t)
			c.Eventually(t, `SELECT count(*) FROM x`, rows)
			if n := strings.Count(c.Log(), "fetched ahead"); n < 20 {
				t.Errorf("only %d segments came from the window", n)
			}
			if end != "promoted" && len(prefetchers(t, dir)) == 0 {
				t.Error("nothing fetches ahead for the standby")
			}
			switch end {
			case "promoted":
				c.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
			case "killed":
				c.Kill(t)
			default:
				c.Stop(t, end)
			}
			site.NoPrefetchers(t, dir)
			if left, _ := filepath.Glob(filepath.Join(dir, spool.Directory, "fetched-*")); len(left) > 0 {
				t.Errorf("windows are left: %v", left)
			}
		})
	}
}
