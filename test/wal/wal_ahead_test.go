package wal

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/s3server"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

func numbered(n int) string { return fmt.Sprintf("0000000100000000%08X", 0xA0+n) }

// What waits is archived by a process of its own, history files first; requests are answered by its markers, of which
// none is believed when anything differs (row 17).
func TestPushAhead(t *testing.T) {
	t.Parallel()
	r := site.NewWALRig(t, site.DirectoryStore(t))
	names := []string{"00000002.history"}
	for i := range 12 {
		names = append(names, numbered(i))
	}
	contents := r.Wait(t, names...)
	if r.Asks(t, numbered(0)) || len(site.Pushers(t, r.Data)) != 0 || len(r.Markers(t)) != 0 {
		t.Fatal("something is pushed ahead although no server runs")
	}
	r.Serves(t)
	status := site.Tree(t, filepath.Join(r.Data, "pg_wal/archive_status"))
	if !r.Asks(t, numbered(0)) {
		t.Fatal("nothing is pushed ahead")
	}
	r.Settled(t)
	if got := r.Markers(t); !slices.Equal(got, slices.Sorted(slices.Values(names))) {
		t.Fatalf("markers for %v", got)
	}
	if after := site.Tree(t, filepath.Join(r.Data, "pg_wal/archive_status")); len(site.Differences(status, after)) != 0 {
		t.Errorf("archive_status was changed: %v", site.Differences(status, after))
	}
	for _, name := range names {
		r.Fetches(t, name, contents[name])
	}

	saved := r.Env
	for what, c := range map[string]struct {
		env    []string
		change func(path string)
	}{
		"another server":     {env: []string{"PGOBJ_SERVER=other"}},
		"another repository": {env: []string{"PGOBJ_STORAGE=file://" + testenv.Dir(t) + "/none"}},
		"--ahead=1":          {env: []string{"PGOBJ_WAL_PUSH_AHEAD=1"}},
		"another spool":      {env: []string{"PGOBJ_WAL_SPOOL=" + testenv.Dir(t)}},
		"another mtime":      {change: func(p string) { site.Must(t, os.Chtimes(p, time.Time{}, time.Unix(1e9, 0))) }},
		"same mtime again": {change: func(p string) { // the bytes differ, the size and the time do not
			info, err := os.Stat(p)
			site.Must(t, err)
			data, err := os.ReadFile(p)
			site.Must(t, err)
			site.Must(t, os.WriteFile(p, data, 0o600))
			site.Must(t, os.Chtimes(p, info.ModTime(), info.ModTime()))
		}},
		"a copy": {change: func(p string) {
			site.Must(t, exec.Command("cp", "-p", p, p+".copy").Run())
			site.Must(t, os.Rename(p+".copy", p))
		}},
	} {
		name := names[3]
		r.Env = saved
		path := filepath.Join(r.Data, "pg_wal", name)
		site.Must(t, os.Remove(path))
		r.Put(t, name, contents[name])
		site.Must(t, os.RemoveAll(r.SpoolDir()))
		r.Asks(t, numbered(0)) // makes new markers
		r.Settled(t)
		if !r.MarkerHolds(t, name) {
			t.Fatalf("%s: there is no good marker to begin with", what)
		}
		if c.change != nil {
			c.change(path)
		}
		r.Env = slices.Concat(saved, c.env)
		if r.MarkerHolds(t, name) {
			t.Errorf("%s: the marker was believed", what)
		}
	}
	r.Env = saved
	plantedMarkers(t, r, contents)
}

// plantedMarkers: torn markers, and other files' and other clusters' under the right name, are as none.
func plantedMarkers(t *testing.T, r *site.WalRig, contents map[string][]byte) {
	site.Must(t, os.RemoveAll(r.SpoolDir()))
	r.Asks(t, numbered(0))
	r.Settled(t)
	found, err := filepath.Glob(filepath.Join(r.SpoolDir(), "pushed-*-"+numbered(5)))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	good, err := os.ReadFile(found[0])
	site.Must(t, err)
	other, err := os.ReadFile(strings.Replace(found[0], numbered(5), numbered(6), 1))
	site.Must(t, err)
	for what, data := range map[string][]byte{"empty": nil, "half": good[:len(good)/2], "flipped": bytes.Replace(good, []byte(`"size":1`), []byte(`"size":2`), 1),
		"another file's": other, "zeros": make([]byte, len(good))} {
		site.Must(t, os.WriteFile(found[0], data, 0o600))
		if r.MarkerHolds(t, numbered(5)) {
			t.Errorf("%s: the marker was believed", what)
		}
	}
	// The clone of a data directory pushes for itself: not even a copy with all attributes is the same file.
	site.Must(t, os.WriteFile(found[0], good, 0o600))
	if !r.MarkerHolds(t, numbered(5)) {
		t.Error("the good marker is not believed")
	}
	clone := *r
	clone.Data = copyOf(t, r.Data)
	if clone.MarkerHolds(t, numbered(5)) {
		t.Error("a clone believes the original's marker")
	}
	r.Fetches(t, numbered(5), contents[numbered(5)])
}

// A file that fails is left to the process that is asked for it; nothing is begun far beyond a file that is missing.
func TestPushAheadUnderFaults(t *testing.T) {
	t.Parallel()
	st, server := site.VersityStore(t)
	r := site.NewWALRig(t, st)
	r.Serves(t)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	r.Env = append(r.Env, "PGOBJ_S3_ENDPOINT="+proxy.URL)
	var names []string
	for i := range 30 {
		names = append(names, numbered(i))
	}
	contents := r.Wait(t, names...)
	proxy.On(faultproxy.And(faultproxy.Method("PUT"), faultproxy.Path(numbered(2))), faultproxy.Fail(403, "AccessDenied"))
	r.Asks(t, numbered(0))
	r.Settled(t)
	archived := 0
	for i, name := range names {
		if _, err := os.Stat(filepath.Join(r.Repo, "main/wal", fmt.Sprint(r.Sysid), name[:8], name+".zst")); err == nil {
			archived++
			if i > 2+8 {
				t.Errorf("%s was archived although %s was not", name, numbered(2))
			}
		}
	}
	if slices.Contains(r.Markers(t), numbered(2)) || archived < 2 {
		t.Errorf("%d archived, markers for %v", archived, r.Markers(t))
	}
	o := r.Run(t, "wal-push", "pg_wal/"+numbered(2))
	if site.CheckPushCode(t, o); o.Code != 4 {
		t.Errorf("the file that is refused: %v", o)
	}
	// A black hole for a later file does not hold up the asked one, not even where both are pushed together.
	r.Settled(t)
	proxy.Reset()
	proxy.On(faultproxy.And(faultproxy.Method("PUT"), faultproxy.Path(numbered(20))), faultproxy.BlackHole())
	if !r.Asks(t, numbered(19)) || len(site.Pushers(t, r.Data)) == 0 {
		t.Error("the asked file waits for a later one")
	}
	proxy.Reset()
	for _, name := range names {
		r.Asks(t, name)
		r.Fetches(t, name, contents[name])
	}
}

// Where there is no room for markers, as on a disk that is nearly full, only a few files are pushed twice.
func TestPushAheadWithoutRoom(t *testing.T) {
	t.Parallel()
	st, server := site.VersityStore(t)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	r := site.NewWALRig(t, st)
	room, _ := site.Tmpfs(t, 4096) // for the list
	r.Env = append(r.Env, "PGOBJ_S3_ENDPOINT="+proxy.URL, "PGOBJ_WAL_SPOOL="+room)
	r.Serves(t)
	var names []string
	for i := range 40 {
		names = append(names, numbered(i))
	}
	contents := r.Wait(t, names...)
	for _, name := range names {
		r.Asks(t, name)
		site.Must(t, os.Remove(filepath.Join(r.Data, "pg_wal/archive_status", name+".ready")))
	}
	r.Settled(t)
	puts := 0
	for _, q := range proxy.Requests() {
		if q.Method == "PUT" {
			puts++
		}
	}
	t.Logf("%d requests to store %d files", puts, len(names))
	if puts > len(names)+2*4 {
		t.Errorf("%d requests to store %d files", puts, len(names))
	}
	for _, name := range names {
		r.Fetches(t, name, contents[name])
	}
}

// Killed at any moment, neither process has acknowledged what is not in the archive.
func TestPushAheadKilled(t *testing.T) {
	t.Parallel()
	r := site.NewWALRig(t, site.DirectoryStore(t))
	r.Serves(t)
	var names []string
	for i := range 6 {
		names = append(names, numbered(i))
	}
	contents := r.Wait(t, names...)
	rounds := 25
	if site.Torture() {
		rounds = 400
	}
	fresh := func() {
		for _, pid := range site.Pushers(t, r.Data) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		r.Settled(t)
		site.Must(t, os.RemoveAll(filepath.Join(r.Repo, "main")))
		site.Must(t, os.RemoveAll(r.SpoolDir()))
	}
	killed, acknowledged := 0, 0
	check := func(answered bool) {
		for _, name := range names {
			if answered && name == names[0] || slices.Contains(r.Markers(t), name) && r.MarkerHolds(t, name) {
				acknowledged++
				r.Fetches(t, name, contents[name])
			}
		}
	}
	for round := range rounds {
		fresh()
		after := time.Duration(rand.IntN(60_000)) * time.Microsecond
		o := site.Execute(t, r.Command(r.Pgobj, "wal-push", "pg_wal/"+names[0]), func(p *os.Process) {
			time.AfterFunc(after, func() {
				if round%2 == 0 {
					_ = p.Signal(syscall.SIGKILL)
				}
				for _, pid := range site.Pushers(t, r.Data) {
					if round%4 > 0 && syscall.Kill(pid, syscall.SIGKILL) == nil {
						killed++
					}
				}
			})
		})
		if o.Code != 0 {
			killed++
			if round%2 > 0 {
				t.Errorf("the process that was asked does not do it itself: %v", o)
			}
		}
		r.Settled(t)
		check(o.Code == 0)
	}
	t.Logf("killed %d times, %d files were acknowledged", killed, acknowledged)
	if killed == 0 || acknowledged == 0 {
		t.Errorf("killed %d times, %d files were acknowledged: nothing was tried", killed, acknowledged)
	}
	r.Killed(t, []string{"openat", "write", "linkat", "renameat", "flock"}, fresh, func(string, site.Outcome) { check(false) },
		"wal-push-ahead", filepath.Join(r.Data, "pg_wal"), r.Data, fmt.Sprintf("--of=%d/1795000000", r.Postmaster(t)))
}

// A real archiver with many files to catch up on, some of which fail: all arrive, archive_status and
// pg_stat_archiver are right, and the chain with a second archiver gets every file (row 13).
func TestPushAheadOnRealServer(t *testing.T) {
	t.Parallel()
	st := site.S3Store(t, s3server.ForTest(t, s3server.MinIOTLS), "minio")
	second := testenv.Dir(t)
	s := site.NewSite(t, st, pgtest.Options{WALSegMB: 1, Conf: []string{"archive_command = 'false'"}})
	s.Exec(t, `CREATE TABLE x (i int)`)
	for range 40 {
		s.Exec(t, `INSERT INTO x SELECT generate_series(1, 1000)`)
		s.Exec(t, `SELECT pg_switch_wal()`)
	}
	site.Must(t, s.AppendConf("archive_command = '"+s.Pgobj+" --log-level=debug wal-push %p && cp %p "+second+"/'"))
	s.Exec(t, `SELECT pg_reload_conf()`)
	s.Archived(t)
	pieces, err := os.ReadDir(second)
	if err != nil || len(pieces) < 40 {
		t.Errorf("the second archiver has %d files, %v", len(pieces), err)
	}
	ahead := strings.Count(s.Log(), "archived ahead")
	if ahead < 20 {
		t.Errorf("only %d requests were answered by markers", ahead)
	}
	var same atomic.Int64
	for _, p := range pieces {
		dest := filepath.Join(s.Data, "pg_wal", "fetched")
		o := s.Run(t, "wal-fetch", p.Name(), dest)
		a, _ := os.ReadFile(dest)
		b, err := os.ReadFile(filepath.Join(second, p.Name()))
		if o.Code != 0 || err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs: %v %v", p.Name(), o, err)
		}
		same.Add(1)
	}
	for _, e := range s.SpoolLeft(t) {
		if strings.HasPrefix(e, ".new-") {
			t.Errorf("the spool has %s", e)
		}
	}
}

// The process that pushes ahead harms no server, however it ends, and outlives none.
func TestPushAheadAndItsServer(t *testing.T) {
	t.Parallel()
	_, server := site.VersityStore(t)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	st := site.S3Store(t, server, "auto")
	s := site.NewSite(t, st, pgtest.Options{WALSegMB: 1, Conf: []string{"archive_command = 'false'"}})
	s.Exec(t, `CREATE TABLE x (i int)`)
	stuck := s.PileUp(t, 50)[8]
	proxy.On(faultproxy.And(faultproxy.Method("PUT"), faultproxy.Path(stuck)), faultproxy.BlackHole())
	site.Must(t, s.AppendConf("archive_command = 'PGOBJ_S3_ENDPOINT="+proxy.URL+" "+s.Pgobj+" wal-push %p'"))
	s.Exec(t, `SELECT pg_reload_conf()`)
	testenv.Eventually(t, site.Patience, "the process that pushes ahead is killed", func() bool {
		pids := site.Pushers(t, s.Data)
		return len(pids) > 0 && syscall.Kill(pids[0], syscall.SIGKILL) == nil
	})
	s.Eventually(t, `SELECT archived_count >= 8 FROM pg_stat_archiver`, "t")
	if log := s.Log(); strings.Contains(log, "terminating any other active server processes") {
		t.Fatalf("the server took its end for a crash:\n%s", log)
	}
	for _, end := range []string{"immediate", "killed"} {
		testenv.Eventually(t, site.Patience, "a process pushes ahead", func() bool { return len(site.Pushers(t, s.Data)) > 0 })
		if end == "killed" {
			s.Kill(t)
		} else {
			s.Stop(t, end)
		}
		site.NoHelpers(t, "wal-push-ahead", s.Data)
		s.Start(t)
	}
	proxy.Reset()
	s.Archived(t)
	s.Must(t, "wal-verify")
}

// Nothing works ahead for a postmaster that is process 1, which would take the processes that do for its own when they are
// killed, and restart. All is archived and recovered without them.
func TestServerIsProcess1(t *testing.T) {
	t.Parallel()
	for _, major := range []int{15, 18} {
		s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: major, WALSegMB: 1, Process1: true, Conf: []string{"archive_command = 'false'"}})
		s.Exec(t, `CREATE TABLE x (i int)`)
		s.Exec(t, `CHECKPOINT`)
		s.PileUp(t, 12)
		site.Must(t, s.AppendConf("archive_command = '"+s.Pgobj+" --log-level=debug wal-push %p'", "restore_command = '"+s.Pgobj+" --log-level=debug wal-fetch %f %p'"))
		s.Exec(t, `SELECT pg_reload_conf()`)
		s.Archived(t)
		site.Must(t, s.Crash())
		signal := filepath.Join(s.Data, "recovery.signal")
		site.Must(t, os.WriteFile(signal, nil, 0o600))
		site.Must(t, testenv.ChownPostgres(signal))
		s.Start(t)
		if got := s.SQL(t, `SELECT count(*) FROM x`); got != "12000" {
			t.Errorf("%s rows", got)
		}
		log := s.Log()
		for what, wanted := range map[string]bool{`"archived ahead"`: false, `"fetched ahead"`: false, "nothing is pushed ahead": true, "nothing is fetched ahead": true} {
			if strings.Contains(log, what) != wanted {
				t.Errorf("PostgreSQL %d: the log has %q: %v", major, what, !wanted)
			}
		}
		for _, name := range s.SpoolLeft(t) {
			if !strings.HasPrefix(name, "admitted-") {
				t.Errorf("the spool has %s", name)
			}
		}
	}
}

// wal-push --all archives what a stopped server has left.
func TestPushAll(t *testing.T) {
	t.Parallel()
	st := site.DirectoryStore(t)
	r := site.NewWALRig(t, st)
	names := []string{"00000002.history", site.Wal3 + ".partial"}
	for i := range 9 {
		names = append(names, numbered(0x10+i))
	}
	contents := r.Wait(t, names...)
	if o := r.Push(t, names[4], contents[names[4]], "--ahead=1"); o.Code != 0 {
		t.Fatal(o)
	}
	elsewhere := testenv.Dir(t)
	pushAll := func() site.Outcome {
		cmd := r.Command(r.Pgobj, "wal-push", "--all", r.Data)
		cmd.Dir = elsewhere
		return site.Execute(t, cmd, nil)
	}
	r.Put(t, numbered(0x13), contents[numbered(0x13)][:site.Mib-1])
	if o := pushAll(); o.Code != 11 || !strings.Contains(o.Err, numbered(0x13)) || !strings.Contains(o.Out, "archived 10 of 11") {
		t.Errorf("with a file that is cut: %v", o)
	}
	r.Put(t, numbered(0x13), contents[numbered(0x13)])
	if o := pushAll(); o.Code != 0 || !strings.Contains(o.Out, "archived 11 of 11") || !strings.Contains(o.Out, ", 10 of them") {
		t.Errorf("all: %v", o)
	}
	orphan := numbered(0x20) // what a crash can leave
	r.Put(t, "archive_status/"+orphan+".ready", nil)
	status := site.Tree(t, filepath.Join(r.Data, "pg_wal/archive_status"))
	if o := pushAll(); o.Code != 0 || !strings.Contains(o.Out, "archived 11 of 11") || !strings.Contains(o.Err, "file="+orphan) {
		t.Errorf("with a .ready whose file is gone: %v", o)
	}
	if d := site.Differences(status, site.Tree(t, filepath.Join(r.Data, "pg_wal/archive_status"))); len(d) != 0 {
		t.Errorf("archive_status was changed: %v", d)
	}
	for _, name := range names {
		r.Fetches(t, name, contents[name])
	}
	if o := site.Execute(t, r.Command(r.Pgobj, "wal-push", "--all", elsewhere), nil); o.Code != 2 {
		t.Errorf("not a data directory: %v", o)
	}
}

// wal-push, of which PostgreSQL starts one for each file, looks at its host once, and says once what is wrong with the spool.
func TestPushLooksOnce(t *testing.T) {
	t.Parallel()
	r := site.NewWALRig(t, site.DirectoryStore(t))
	r.Serves(t)
	r.Wait(t, numbered(0))
	bad := testenv.Dir(t)
	site.Must(t, testenv.ChownPostgres(bad))
	site.Must(t, os.Chmod(bad, 0o777))
	for what, args := range map[string][]string{"a spool": nil, "a spool that is refused": {"--spool=" + bad}, "nothing ahead": {"--ahead=1"}} {
		trace := filepath.Join(testenv.Dir(t), "trace")
		site.Must(t, os.WriteFile(trace, nil, 0o666))
		site.Must(t, os.Chmod(trace, 0o666)) // whatever the umask
		o := site.Execute(t, r.Command(testenv.Tool(t, "strace"), slices.Concat([]string{"-f", "-e", "trace=openat", "-o", trace, r.Pgobj, "wal-push", "pg_wal/" + numbered(0)}, args)...), nil)
		if o.Code != 0 {
			t.Fatalf("%s: %v", what, o)
		}
		calls, err := os.ReadFile(trace)
		site.Must(t, err)
		for _, name := range []string{"pg_control", "postmaster.pid"} {
			if n := strings.Count(string(calls), "/"+name+`"`) + strings.Count(string(calls), `"`+name+`"`); n != 1 {
				t.Errorf("%s: %s is read %d times", what, name, n)
			}
		}
		if n, want := strings.Count(o.Err, "level=WARN"), strings.Count(what, "refused"); n != want {
			t.Errorf("%s: the log has %d warnings: %v", what, n, o)
		}
	}
}

// A postmaster.pid that cannot be understood, as a loss of power leaves it, keeps nobody from archiving what is left, and is told; what
// asks whether a server runs gets no answer from it.
func TestPostmasterPidSaysNothing(t *testing.T) {
	t.Parallel()
	r := site.NewWALRig(t, site.DirectoryStore(t))
	names := []string{numbered(0), numbered(1)}
	contents := r.Wait(t, names...)
	r.Put(t, "../postmaster.pid", nil)
	if r.Asks(t, names[0]) {
		t.Error("something is pushed ahead")
	}
	if o := r.Run(t, "wal-push", "--all", "."); o.Code != 0 || !strings.Contains(o.Err, "postmaster.pid") {
		t.Errorf("wal-push --all: %v", o)
	}
	for _, name := range names {
		r.Fetches(t, name, contents[name])
	}
	if o := r.Run(t, "restore-check", r.Data); o.Code != 1 || !strings.Contains(o.Err, "postmaster.pid") {
		t.Errorf("restore-check: %v", o)
	}
}
