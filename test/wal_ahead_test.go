package test

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
	"github.com/pgobj/pgobj/test/testenv"
	"github.com/pgobj/pgobj/walstore/spool"
)

func numbered(n int) string { return fmt.Sprintf("0000000100000000%08X", 0xA0+n) }

// wait leaves files in pg_wal as PostgreSQL does that are to be archived, and returns their contents.
func (r *walRig) wait(t testing.TB, names ...string) map[string][]byte {
	t.Helper()
	contents := map[string][]byte{}
	for i, name := range names {
		data := []byte("1\t0/A200000\tno recovery target specified\n")
		if !strings.HasSuffix(name, ".history") {
			data = walSegment(name, r.sysid, mib, byte(i+1))
		}
		r.put(t, name, data)
		r.put(t, "archive_status/"+name+".ready", nil)
		contents[name] = data
	}
	return contents
}

func (r *walRig) spoolDir() string { return filepath.Join(r.data, spool.Folder) }

func (r *walRig) markers(t testing.TB) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(r.spoolDir())
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if scoped, is := strings.CutPrefix(e.Name(), "pushed-"); is {
			_, name, _ := strings.Cut(scoped, "-")
			names = append(names, name)
		}
	}
	return names
}

// pushers are the processes that push ahead for a data folder.
func pushers(t testing.TB, dataDir string) []int { return helpers(t, "wal-push-ahead", dataDir) }

// serves lets the rig look as if a server ran on it.
func (r *walRig) serves(t testing.TB) {
	t.Helper()
	r.put(t, "../postmaster.pid", []byte(r.postmaster()))
	t.Cleanup(func() {
		_ = os.Remove(filepath.Join(r.data, "postmaster.pid"))
		noHelpers(t, "wal-push-ahead", r.data)
	})
}

func (r *walRig) postmaster() string { return fmt.Sprintf("%d\n%s\n1795000000\n", os.Getpid(), r.data) }

// settled waits until nothing is pushed ahead any more.
func (r *walRig) settled(t testing.TB) {
	t.Helper()
	testenv.Eventually(t, patience, "nothing is pushed ahead", func() bool { return len(pushers(t, r.data)) == 0 })
}

// asks calls wal-push for a file that lies there, and says whether another process has archived it.
func (r *walRig) asks(t testing.TB, name string) (ahead bool) {
	t.Helper()
	o := r.run(t, "wal-push", "--log-level=debug", "pg_wal/"+name)
	if o.code != 0 {
		t.Fatalf("wal-push %s: %v", name, o)
	}
	return strings.Contains(o.err, "archived ahead")
}

// What waits is archived by a process of its own, history files first; requests are answered by its markers, of which
// none is believed when anything differs (row 17).
func TestPushAhead(t *testing.T) {
	t.Parallel()
	r := newWALRig(t, folderStore(t))
	names := []string{"00000002.history"}
	for i := range 12 {
		names = append(names, numbered(i))
	}
	contents := r.wait(t, names...)
	if r.asks(t, numbered(0)) || len(pushers(t, r.data)) != 0 || len(r.markers(t)) != 0 {
		t.Fatal("something is pushed ahead although no server runs")
	}
	r.serves(t)
	status := tree(t, filepath.Join(r.data, "pg_wal/archive_status"))
	if !r.asks(t, numbered(0)) {
		t.Fatal("nothing is pushed ahead")
	}
	r.settled(t)
	if got := r.markers(t); !slices.Equal(got, slices.Sorted(slices.Values(names))) {
		t.Fatalf("markers for %v", got)
	}
	if after := tree(t, filepath.Join(r.data, "pg_wal/archive_status")); len(differences(status, after)) != 0 {
		t.Errorf("archive_status was changed: %v", differences(status, after))
	}
	for _, name := range names {
		r.fetches(t, name, contents[name])
	}

	saved := r.env
	for what, c := range map[string]struct {
		env    []string
		change func(path string)
	}{
		"another server":     {env: []string{"PGOBJ_SERVER=other"}},
		"another repository": {env: []string{"PGOBJ_STORAGE=file://" + testenv.Dir(t) + "/none"}},
		"--ahead=1":          {env: []string{"PGOBJ_WAL_PUSH_AHEAD=1"}},
		"another spool":      {env: []string{"PGOBJ_WAL_SPOOL=" + testenv.Dir(t)}},
		"another mtime":      {change: func(p string) { must(t, os.Chtimes(p, time.Time{}, time.Unix(1e9, 0))) }},
		"same mtime again": {change: func(p string) { // the bytes differ, the size and the time do not
			info, err := os.Stat(p)
			must(t, err)
			data, err := os.ReadFile(p)
			must(t, err)
			must(t, os.WriteFile(p, data, 0o600))
			must(t, os.Chtimes(p, info.ModTime(), info.ModTime()))
		}},
		"a copy": {change: func(p string) {
			must(t, exec.Command("cp", "-p", p, p+".copy").Run())
			must(t, os.Rename(p+".copy", p))
		}},
	} {
		name := names[3]
		r.env = saved
		path := filepath.Join(r.data, "pg_wal", name)
		must(t, os.Remove(path))
		r.put(t, name, contents[name])
		must(t, os.RemoveAll(r.spoolDir()))
		r.asks(t, numbered(0)) // makes markers anew
		r.settled(t)
		if !r.markerHolds(t, name) {
			t.Fatalf("%s: there is no good marker to begin with", what)
		}
		if c.change != nil {
			c.change(path)
		}
		r.env = slices.Concat(saved, c.env)
		if r.markerHolds(t, name) {
			t.Errorf("%s: the marker was believed", what)
		}
	}
	r.env = saved
	plantedMarkers(t, r, contents)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// plantedMarkers: torn markers, and other files' and other clusters' under the right name, are as none.
func plantedMarkers(t *testing.T, r *walRig, contents map[string][]byte) {
	must(t, os.RemoveAll(r.spoolDir()))
	r.asks(t, numbered(0))
	r.settled(t)
	found, err := filepath.Glob(filepath.Join(r.spoolDir(), "pushed-*-"+numbered(5)))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	good, err := os.ReadFile(found[0])
	must(t, err)
	other, err := os.ReadFile(strings.Replace(found[0], numbered(5), numbered(6), 1))
	must(t, err)
	for what, data := range map[string][]byte{"empty": nil, "half": good[:len(good)/2], "flipped": bytes.Replace(good, []byte(`"size":1`), []byte(`"size":2`), 1),
		"another file's": other, "zeros": make([]byte, len(good))} {
		must(t, os.WriteFile(found[0], data, 0o600))
		if r.markerHolds(t, numbered(5)) {
			t.Errorf("%s: the marker was believed", what)
		}
	}
	// The clone of a data folder pushes for itself: not even a copy with all attributes is the same file.
	must(t, os.WriteFile(found[0], good, 0o600))
	if !r.markerHolds(t, numbered(5)) {
		t.Error("the good marker is not believed")
	}
	clone := *r
	clone.data = copyOf(t, r.data)
	if clone.markerHolds(t, numbered(5)) {
		t.Error("a clone believes the original's marker")
	}
	r.fetches(t, numbered(5), contents[numbered(5)])
}

// A file that fails is left to the process that is asked for it; nothing is begun far behind a file that is missing.
func TestPushAheadUnderFaults(t *testing.T) {
	t.Parallel()
	st, server := versityStore(t)
	r := newWALRig(t, st)
	r.serves(t)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	r.env = append(r.env, "PGOBJ_S3_ENDPOINT="+proxy.URL)
	var names []string
	for i := range 30 {
		names = append(names, numbered(i))
	}
	contents := r.wait(t, names...)
	proxy.On(faultproxy.And(faultproxy.Method("PUT"), faultproxy.Path(numbered(2))), faultproxy.Fail(403, "AccessDenied"))
	r.asks(t, numbered(0))
	r.settled(t)
	archived := 0
	for i, name := range names {
		if _, err := os.Stat(filepath.Join(r.repo, "main/wal", fmt.Sprint(r.sysid), name[:8], name+".zst")); err == nil {
			archived++
			if i > 2+8 {
				t.Errorf("%s was archived although %s was not", name, numbered(2))
			}
		}
	}
	if slices.Contains(r.markers(t), numbered(2)) || archived < 2 {
		t.Errorf("%d archived, markers for %v", archived, r.markers(t))
	}
	o := r.run(t, "wal-push", "pg_wal/"+numbered(2))
	if checkPushCode(t, o); o.code != 4 {
		t.Errorf("the file that is refused: %v", o)
	}
	// A black hole for a later file does not hold up the asked one, not even where both are pushed together.
	r.settled(t)
	proxy.Reset()
	proxy.On(faultproxy.And(faultproxy.Method("PUT"), faultproxy.Path(numbered(20))), faultproxy.BlackHole())
	if !r.asks(t, numbered(19)) || len(pushers(t, r.data)) == 0 {
		t.Error("the asked file waits for a later one")
	}
	proxy.Reset()
	for _, name := range names {
		r.asks(t, name)
		r.fetches(t, name, contents[name])
	}
}

// Where there is no room for markers, as on a disk that is nearly full, only a few files are pushed twice.
func TestPushAheadWithoutRoom(t *testing.T) {
	t.Parallel()
	st, server := versityStore(t)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	r := newWALRig(t, st)
	room, _ := tmpfs(t, 4096) // for the list
	r.env = append(r.env, "PGOBJ_S3_ENDPOINT="+proxy.URL, "PGOBJ_WAL_SPOOL="+room)
	r.serves(t)
	var names []string
	for i := range 40 {
		names = append(names, numbered(i))
	}
	contents := r.wait(t, names...)
	for _, name := range names {
		r.asks(t, name)
		must(t, os.Remove(filepath.Join(r.data, "pg_wal/archive_status", name+".ready")))
	}
	r.settled(t)
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
		r.fetches(t, name, contents[name])
	}
}

// Killed at any moment, neither process has acknowledged what is not in the archive.
func TestPushAheadKilled(t *testing.T) {
	t.Parallel()
	r := newWALRig(t, folderStore(t))
	r.serves(t)
	var names []string
	for i := range 6 {
		names = append(names, numbered(i))
	}
	contents := r.wait(t, names...)
	rounds := 25
	if torture() {
		rounds = 400
	}
	fresh := func() {
		for _, pid := range pushers(t, r.data) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		r.settled(t)
		must(t, os.RemoveAll(filepath.Join(r.repo, "main")))
		must(t, os.RemoveAll(r.spoolDir()))
	}
	killed, acknowledged := 0, 0
	check := func(answered bool) {
		for _, name := range names {
			if answered && name == names[0] || slices.Contains(r.markers(t), name) && r.markerHolds(t, name) {
				acknowledged++
				r.fetches(t, name, contents[name])
			}
		}
	}
	for round := range rounds {
		fresh()
		after := time.Duration(rand.IntN(60_000)) * time.Microsecond
		o := execute(t, r.command(r.pgobj, "wal-push", "pg_wal/"+names[0]), func(p *os.Process) {
			time.AfterFunc(after, func() {
				if round%2 == 0 {
					_ = p.Signal(syscall.SIGKILL)
				}
				for _, pid := range pushers(t, r.data) {
					if round%4 > 0 && syscall.Kill(pid, syscall.SIGKILL) == nil {
						killed++
					}
				}
			})
		})
		if o.code != 0 {
			killed++
			if round%2 > 0 {
				t.Errorf("the process that was asked does not do it itself: %v", o)
			}
		}
		r.settled(t)
		check(o.code == 0)
	}
	t.Logf("killed %d times, %d files were acknowledged", killed, acknowledged)
	if killed == 0 || acknowledged == 0 {
		t.Errorf("killed %d times, %d files were acknowledged: nothing was tried", killed, acknowledged)
	}
	r.killed(t, []string{"openat", "write", "linkat", "renameat", "flock"}, fresh, func(string, outcome) { check(false) },
		"wal-push-ahead", filepath.Join(r.data, "pg_wal"), r.data, fmt.Sprintf("--of=%d/1795000000", os.Getpid()))
}

// markerHolds asks for a file with the storage out of reach: only a marker can make this a success.
func (r *walRig) markerHolds(t testing.TB, name string) bool {
	t.Helper()
	must(t, os.Rename(r.repo, r.repo+".away"))
	must(t, os.WriteFile(r.repo, nil, 0o600)) // not a folder: nothing can be stored
	o := r.run(t, "wal-push", "--retry-for=1s", "pg_wal/"+name)
	r.settled(t)
	must(t, os.Remove(r.repo))
	must(t, os.Rename(r.repo+".away", r.repo))
	return o.code == 0
}

// A real archiver with many files to catch up on, some of which fail: all arrive, archive_status and
// pg_stat_archiver are right, and the chain with a second archiver gets every file (row 13).
func TestPushAheadOnRealServer(t *testing.T) {
	t.Parallel()
	st := s3Store(t, s3server.ForTest(t, s3server.MinIOTLS), "minio")
	second := testenv.Dir(t)
	s := newSite(t, st, pgtest.Options{WALSegMB: 1, Conf: []string{"archive_command = 'false'"}})
	s.Exec(t, `CREATE TABLE x (i int)`)
	for range 40 {
		s.Exec(t, `INSERT INTO x SELECT generate_series(1, 1000)`)
		s.Exec(t, `SELECT pg_switch_wal()`)
	}
	must(t, s.AppendConf("archive_command = '"+s.pgobj+" --log-level=debug wal-push %p && cp %p "+second+"/'"))
	s.Exec(t, `SELECT pg_reload_conf()`)
	s.archived(t)
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
		o := s.run(t, "wal-fetch", p.Name(), dest)
		a, _ := os.ReadFile(dest)
		b, err := os.ReadFile(filepath.Join(second, p.Name()))
		if o.code != 0 || err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs: %v %v", p.Name(), o, err)
		}
		same.Add(1)
	}
	for _, e := range s.spoolLeft(t) {
		if strings.HasPrefix(e, ".new-") {
			t.Errorf("the spool has %s", e)
		}
	}
}

// pileUp has segments wait for the archiver, and returns their names.
func (s *site) pileUp(t testing.TB, segments int) (names []string) {
	t.Helper()
	for range segments {
		s.Exec(t, `INSERT INTO x SELECT generate_series(1, 1000)`)
		s.Exec(t, `SELECT pg_switch_wal()`)
	}
	ready, err := filepath.Glob(filepath.Join(s.Data, "pg_wal/archive_status/*.ready"))
	if err != nil || len(ready) < segments {
		t.Fatal(ready, err)
	}
	slices.Sort(ready)
	for _, path := range ready {
		names = append(names, strings.TrimSuffix(filepath.Base(path), ".ready"))
	}
	return names
}

// The process that pushes ahead hurts no server, however it ends, and outlives none.
func TestPushAheadAndItsServer(t *testing.T) {
	t.Parallel()
	_, server := versityStore(t)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	st := s3Store(t, server, "auto")
	s := newSite(t, st, pgtest.Options{WALSegMB: 1, Conf: []string{"archive_command = 'false'"}})
	s.Exec(t, `CREATE TABLE x (i int)`)
	stuck := s.pileUp(t, 50)[8]
	proxy.On(faultproxy.And(faultproxy.Method("PUT"), faultproxy.Path(stuck)), faultproxy.BlackHole())
	must(t, s.AppendConf("archive_command = 'PGOBJ_S3_ENDPOINT="+proxy.URL+" "+s.pgobj+" wal-push %p'"))
	s.Exec(t, `SELECT pg_reload_conf()`)
	testenv.Eventually(t, patience, "the process that pushes ahead is killed", func() bool {
		pids := pushers(t, s.Data)
		return len(pids) > 0 && syscall.Kill(pids[0], syscall.SIGKILL) == nil
	})
	s.Eventually(t, `SELECT archived_count >= 8 FROM pg_stat_archiver`, "t")
	if log := s.Log(); strings.Contains(log, "terminating any other active server processes") {
		t.Fatalf("the server took its end for a crash:\n%s", log)
	}
	for _, end := range []string{"immediate", "killed"} {
		testenv.Eventually(t, patience, "a process pushes ahead", func() bool { return len(pushers(t, s.Data)) > 0 })
		if end == "killed" {
			s.Kill(t)
		} else {
			s.Stop(t, end)
		}
		noHelpers(t, "wal-push-ahead", s.Data)
		s.Start(t)
	}
	proxy.Reset()
	s.archived(t)
	s.must(t, "wal-verify")
}

// Nothing works ahead for a postmaster that is process 1, which would take the processes that do for its own when they are
// killed, and restart. All is archived and recovered without them.
func TestServerIsProcess1(t *testing.T) {
	t.Parallel()
	for _, major := range []int{15, 18} {
		s := newSite(t, folderStore(t), pgtest.Options{Major: major, WALSegMB: 1, Process1: true, Conf: []string{"archive_command = 'false'"}})
		s.Exec(t, `CREATE TABLE x (i int)`)
		s.Exec(t, `CHECKPOINT`)
		s.pileUp(t, 12)
		must(t, s.AppendConf("archive_command = '"+s.pgobj+" --log-level=debug wal-push %p'", "restore_command = '"+s.pgobj+" --log-level=debug wal-fetch %f %p'"))
		s.Exec(t, `SELECT pg_reload_conf()`)
		s.archived(t)
		must(t, s.Crash())
		signal := filepath.Join(s.Data, "recovery.signal")
		must(t, os.WriteFile(signal, nil, 0o600))
		must(t, testenv.ChownPostgres(signal))
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
		for _, name := range s.spoolLeft(t) {
			if !strings.HasPrefix(name, "admitted-") {
				t.Errorf("the spool has %s", name)
			}
		}
	}
}

func (s *site) spoolLeft(t testing.TB) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.Data, spool.Folder))
	must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// wal-push --all archives what a stopped server has left.
func TestPushAll(t *testing.T) {
	t.Parallel()
	st := folderStore(t)
	r := newWALRig(t, st)
	names := []string{"00000002.history", wal3 + ".partial"}
	for i := range 9 {
		names = append(names, numbered(0x10+i))
	}
	contents := r.wait(t, names...)
	if o := r.push(t, names[4], contents[names[4]], "--ahead=1"); o.code != 0 {
		t.Fatal(o)
	}
	elsewhere := testenv.Dir(t)
	pushAll := func() outcome {
		cmd := r.command(r.pgobj, "wal-push", "--all", r.data)
		cmd.Dir = elsewhere
		return execute(t, cmd, nil)
	}
	r.put(t, numbered(0x13), contents[numbered(0x13)][:mib-1])
	if o := pushAll(); o.code != 11 || !strings.Contains(o.err, numbered(0x13)) || !strings.Contains(o.out, "archived 10 of 11") {
		t.Errorf("with a file that is cut: %v", o)
	}
	r.put(t, numbered(0x13), contents[numbered(0x13)])
	if o := pushAll(); o.code != 0 || !strings.Contains(o.out, "archived 11 of 11") || !strings.Contains(o.out, ", 10 of them") {
		t.Errorf("all: %v", o)
	}
	orphan := numbered(0x20) // what a crash can leave
	r.put(t, "archive_status/"+orphan+".ready", nil)
	status := tree(t, filepath.Join(r.data, "pg_wal/archive_status"))
	if o := pushAll(); o.code != 0 || !strings.Contains(o.out, "archived 11 of 11") || !strings.Contains(o.err, "file="+orphan) {
		t.Errorf("with a .ready whose file is gone: %v", o)
	}
	if d := differences(status, tree(t, filepath.Join(r.data, "pg_wal/archive_status"))); len(d) != 0 {
		t.Errorf("archive_status was changed: %v", d)
	}
	for _, name := range names {
		r.fetches(t, name, contents[name])
	}
	if o := execute(t, r.command(r.pgobj, "wal-push", "--all", elsewhere), nil); o.code != 2 {
		t.Errorf("not a data folder: %v", o)
	}
}
