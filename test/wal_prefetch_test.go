package test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
	"github.com/pgobj/pgobj/walstore/spool"
)

// helpers are the processes with a command of pgobj's that work ahead for a data folder.
func helpers(t testing.TB, command, dataDir string) (pids []int) {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, p := range procs {
		line, _ := os.ReadFile(p) // it may have ended
		args := strings.Split(string(line), "\x00")
		if len(args) > 3 && args[1] == command && args[3] == dataDir {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			must(t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}

func noHelpers(t testing.TB, command, dataDir string) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second) // what the issue promises; the wait is the test
	for len(helpers(t, command, dataDir)) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("processes %v are left 5 s after the end", helpers(t, command, dataDir))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// prefetchers are the processes that fill windows for a data folder.
func prefetchers(t testing.TB, dataDir string) []int { return helpers(t, "wal-prefetch", dataDir) }

func noPrefetchers(t testing.TB, dataDir string) { noHelpers(t, "wal-prefetch", dataDir) }

// recovery turns a rig into a data folder in whose server a recovery runs, as far as wal-fetch can tell.
func (r *walRig) recovery(t testing.TB) {
	t.Helper()
	r.put(t, "../recovery.signal", nil)
	r.put(t, "../postmaster.pid", []byte(r.postmaster()))
	t.Cleanup(func() {
		must(t, os.Remove(filepath.Join(r.data, "recovery.signal")))
		noPrefetchers(t, r.data)
		if left, _ := filepath.Glob(filepath.Join(r.spoolDir(), "fetched-*")); len(left) > 0 {
			t.Errorf("windows are left: %v", left)
		}
	})
}

// window returns the files of the window once there are n whole segments in it and none is on its way.
func (r *walRig) window(t testing.TB, n int) map[string]string {
	t.Helper()
	files := map[string]string{}
	testenv.Eventually(t, patience, fmt.Sprintf("%d segments are in the window", n), func() bool {
		clear(files)
		all, err := filepath.Glob(filepath.Join(r.spoolDir(), "fetched-*", "*.*"))
		must(t, err)
		for _, f := range all {
			name, ext, _ := strings.Cut(filepath.Base(f), ".")
			if ext == "part" {
				return false
			}
			files[name] = f
		}
		return len(files) == n
	})
	return files
}

func (r *walRig) fetchesAhead(t testing.TB, name string, want []byte) (ahead bool) {
	t.Helper()
	o, got := r.fetch(t, name, "--log-level=debug")
	if o.code != 0 || !bytes.Equal(got, want) {
		t.Errorf("wal-fetch %s gives %d bytes of %d: %v", name, len(got), len(want), o)
	}
	return strings.Contains(o.err, "fetched ahead")
}

// The window follows what is asked for, holds no more than it may, asks the storage once at the end of the
// archive, and gives nothing away that is not what was stored (rows 24, 25).
func TestPrefetch(t *testing.T) {
	t.Parallel()
	st, server := versityStore(t)
	r := newWALRig(t, st)
	var names []string
	contents := map[string][]byte{}
	for i := range 20 {
		names = append(names, numbered(i))
		contents[names[i]] = walSegment(names[i], r.sysid, mib, byte(i+1))
		r.mustPush(t, names[i], contents[names[i]])
	}
	proxy := faultproxy.ForTest(t, server.Endpoint)
	r.env = append(r.env, "PGOBJ_S3_ENDPOINT="+proxy.URL, "PGOBJ_WAL_PREFETCH=6MB")
	r.fetchesAhead(t, names[0], contents[names[0]])
	if len(prefetchers(t, r.data)) != 0 {
		t.Error("something is fetched ahead although no server recovers")
	}
	r.recovery(t)
	r.fetchesAhead(t, names[0], contents[names[0]])
	r.window(t, 6)
	if !r.fetchesAhead(t, names[1], contents[names[1]]) {
		t.Error("not from the window")
	}
	for what, spoil := range map[string]func(data []byte) []byte{
		"flipped":           func(d []byte) []byte { d[len(d)/2] ^= 1; return d },
		"short":             func(d []byte) []byte { return d[:len(d)-1] },
		"empty":             func([]byte) []byte { return nil },
		"another's":         func([]byte) []byte { return contents[names[9]] },
		"another cluster's": func([]byte) []byte { return walSegment(names[2], r.sysid+1, mib, 3) },
	} {
		w := r.window(t, 6)
		must(t, os.WriteFile(w[names[2]], spoil(bytes.Clone(contents[names[2]])), 0o600))
		if r.fetchesAhead(t, names[2], contents[names[2]]) {
			t.Errorf("%s: the file was handed over", what)
		}
		r.fetchesAhead(t, names[1], contents[names[1]]) // the window goes back
	}
	for i := 2; i < len(names); i++ {
		r.fetchesAhead(t, names[i], contents[names[i]])
	}
	testenv.Eventually(t, patience, "the window is empty", func() bool { return len(r.window(t, 0)) == 0 })
	proxy.Reset()
	for range 3 {
		if o, _ := r.fetch(t, numbered(20)); o.code != 1 {
			t.Errorf("at the end: %v", o)
		}
	}
	for _, q := range proxy.Requests() {
		if strings.Contains(q.Path, numbered(21)) {
			t.Errorf("%s %s at the end of the archive", q.Method, q.Path)
		}
	}
	// What a hole, an outage or a damaged object is, wal-fetch says itself, and a window changes nothing.
	r.mustPush(t, numbered(22), walSegment(numbered(22), r.sysid, mib, 1))
	if o, _ := r.fetch(t, numbered(20)); o.code != 255 || !strings.Contains(o.err, "hole") {
		t.Errorf("a hole: %v", o)
	}
	proxy.On(faultproxy.Always, faultproxy.Fail(503, "SlowDown"))
	if o, _ := r.fetch(t, numbered(20)); o.code != 255 {
		t.Errorf("an outage: %v", o)
	}
}

// A window belongs to one run of one server, one repository and one data folder; a process that nobody asks ends.
func TestPrefetchBelongsToOneRestore(t *testing.T) {
	t.Parallel()
	st := folderStore(t)
	r := newWALRig(t, st)
	contents := map[string][]byte{}
	for i := range 6 {
		contents[numbered(i)] = walSegment(numbered(i), r.sysid, mib, byte(i+1))
		r.mustPush(t, numbered(i), contents[numbered(i)])
	}
	r.recovery(t)
	r.fetchesAhead(t, numbered(0), contents[numbered(0)])
	r.window(t, 5)
	other := folderStore(t)
	copyTree(t, filepath.Join(r.repo, "main"), filepath.Join(other.folder, "main"))
	saved := r.env
	r.env = other.settings
	if r.fetchesAhead(t, numbered(1), contents[numbered(1)]) {
		t.Error("another repository's window was used")
	}
	r.env = saved
	r.put(t, "../postmaster.pid", []byte(fmt.Sprintf("%d\n%s\n1795000001\n", os.Getpid(), r.data)))
	if r.fetchesAhead(t, numbered(1), contents[numbered(1)]) {
		t.Error("the window of an earlier run was used")
	}
	testenv.Eventually(t, patience, "only the new run's process is left", func() bool { return len(prefetchers(t, r.data)) <= 1 })
	r.put(t, "../recovery.signal", nil)
	done := execute(t, r.command(r.pgobj, "wal-prefetch", numbered(0), r.data+"/.", "--idle=100ms", fmt.Sprintf("--of=%d/1795000001", os.Getpid())), nil)
	if done.code != 0 { // busy, or idle
		t.Errorf("%v", done)
	}
}

// Killed at any moment, neither process leaves anything behind that is served and differs (row 24).
func TestPrefetchKilled(t *testing.T) {
	t.Parallel()
	r := newWALRig(t, folderStore(t))
	const segments = 12
	contents := map[string][]byte{}
	for i := range segments {
		data := walSegment(numbered(i), r.sysid, mib, byte(i+1))
		rnd := rand.NewChaCha8([32]byte{byte(i)})
		_, _ = rnd.Read(data[64:])
		contents[numbered(i)] = data
		r.mustPush(t, numbered(i), data)
	}
	r.recovery(t)
	rounds := 4
	if torture() {
		rounds = 60
	}
	killed, served, ahead := 0, 0, 0
	for range rounds {
		for i := range segments {
			dest := filepath.Join(r.data, "pg_wal/RECOVERYXLOG")
			_ = os.Remove(dest)
			victim := rand.IntN(3)
			after := time.Duration(rand.IntN(30_000)) * time.Microsecond
			o := execute(t, r.command(r.pgobj, "wal-fetch", numbered(i), "pg_wal/RECOVERYXLOG", "--log-level=debug"), func(p *os.Process) {
				switch victim {
				case 0:
					time.AfterFunc(after, func() { _ = p.Signal(syscall.SIGKILL) })
				case 1:
					for _, pid := range prefetchers(t, r.data) {
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
			case o.code == 0 && err != nil:
				t.Fatalf("%s: success without a file", numbered(i))
			case o.code == 0:
				served++
			case o.code == -1:
				killed++
			default:
				t.Errorf("%v", o)
			}
			if strings.Contains(o.err, "fetched ahead") {
				ahead++
			}
		}
	}
	t.Logf("%d killed, %d served, %d of them from the window", killed, served, ahead)
	if killed == 0 || ahead == 0 {
		t.Error("nothing was tried")
	}
	testenv.Eventually(t, patience, "a process fills the window again, which takes it away in the end", func() bool {
		r.fetchesAhead(t, numbered(0), contents[numbered(0)])
		return len(prefetchers(t, r.data)) > 0
	})
	r.window(t, segments-1)
}

// A real recovery, a real standby, and what is left of them when they end, in each way that they can.
func TestPrefetchOnRealServer(t *testing.T) {
	t.Parallel()
	st := folderStore(t)
	s := newSite(t, st, pgtest.Options{WALSegMB: 1})
	s.Exec(t, `CREATE TABLE x (i int)`)
	s.must(t, "backup-push")
	for range 40 {
		s.Exec(t, `INSERT INTO x SELECT generate_series(1, 5000)`)
		s.Exec(t, `SELECT pg_switch_wal()`)
	}
	s.archived(t)
	rows := s.SQL(t, `SELECT count(*) FROM x`)
	s.Stop(t, "fast")
	for _, end := range []string{"promoted", "fast", "immediate", "killed"} {
		t.Run(end, func(t *testing.T) {
			dir := s.fetch(t)
			c, err := pgtest.Attach(dir, 15, "-c", "archive_mode=off")
			must(t, err)
			t.Cleanup(func() { must(t, c.Close()) })
			c.AddEnv(append(st.settings, "PGOBJ_LOG_LEVEL=debug")...)
			if end != "promoted" {
				must(t, os.Rename(filepath.Join(dir, "recovery.signal"), filepath.Join(dir, "standby.signal")))
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
			noPrefetchers(t, dir)
			if left, _ := filepath.Glob(filepath.Join(dir, spool.Folder, "fetched-*")); len(left) > 0 {
				t.Errorf("windows are left: %v", left)
			}
		})
	}
}
