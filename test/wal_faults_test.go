package test

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// Rows 12, 15, 16: whatever happens, wal-push ends by itself with a code that the archiver survives, and 0 only
// when the object is there.
func TestWALPushUnderFaults(t *testing.T) {
	t.Parallel()
	st, server := versityStore(t)
	r := newWALRig(t, st)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	r.env = append(r.env, "PGOBJ_LOG_LEVEL=error")
	settings := r.env
	n := 0
	try := func(what string, mayWork bool, env []string, args ...string) {
		t.Helper()
		n++
		name := fmt.Sprintf("00000001000000010000%04X", n)
		data := walSegment(name, r.sysid, mib, byte(n))
		r.env = slices.Concat(settings, []string{"PGOBJ_S3_ENDPOINT=" + proxy.URL}, env)
		o := r.push(t, name, data, append([]string{"--timeout=1s"}, args...)...)
		proxy.Reset()
		r.env = settings
		if !mayWork && o.code == 0 {
			t.Errorf("%s: wal-push claims success", what)
		}
		if o.code == 0 {
			r.fetches(t, name, data)
		}
		r.mustPush(t, name, data) // the next try of the archiver
		r.fetches(t, name, data)
	}
	put := faultproxy.Method("PUT")
	for what, f := range map[string]faultproxy.Fault{
		"503": faultproxy.Fail(503, "SlowDown"), "500": faultproxy.Fail(500, "InternalError"), "403": faultproxy.Fail(403, "AccessDenied"),
		"no bucket": faultproxy.Fail(404, "NoSuchBucket"), "page 404": faultproxy.Fail(404, ""), "page 502": faultproxy.Fail(502, ""),
		"expired": faultproxy.Fail(400, "ExpiredToken"), "skewed": faultproxy.Fail(403, "RequestTimeTooSkewed"), "501": faultproxy.Fail(501, "NotImplemented"),
		"411": faultproxy.Fail(411, "MissingContentLength"), "quota": faultproxy.Fail(507, "QuotaExceeded"), "too large": faultproxy.Fail(413, "EntityTooLarge"),
		"error in 200": faultproxy.Replace200Error("InternalError"), "page 200": faultproxy.Replace200(page), "reset": faultproxy.Reset(0),
		"reset later": faultproxy.Reset(500), "black hole": faultproxy.BlackHole(), "cut": faultproxy.CutUpload(500), "flipped": faultproxy.FlipUpload(100),
	} {
		proxy.On(put, f)
		try(what, false, nil)
		proxy.Times(1, put, f)
		try(what+" once", true, nil)
	}
	proxy.Times(1, put, faultproxy.DropResponse())
	try("answer lost", true, nil)
	proxy.On(put, faultproxy.DropResponse())
	try("every answer lost", true, nil)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for what, env := range map[string][]string{
		"refused": {"PGOBJ_S3_ENDPOINT=http://" + closed.Addr().String()}, "no host": {"PGOBJ_S3_ENDPOINT=http://no-such-host.invalid"},
		"not http": {"PGOBJ_S3_ENDPOINT=nonsense"}, "no storage": {"PGOBJ_STORAGE="}, "odd storage": {"PGOBJ_STORAGE=ftp://x"},
		"no folder": {"PGOBJ_STORAGE=file:///no/such/folder"}, "closed folder": {"PGOBJ_STORAGE=file:///proc/1/root"},
		"no bucket": {"PGOBJ_STORAGE=s3://no-such-bucket/x"}, "wrong secret": {"AWS_SECRET_ACCESS_KEY=nonsense"},
		"wrong key": {"AWS_ACCESS_KEY_ID=nonsense"}, "odd server": {"PGOBJ_SERVER=../x"}, "odd level": {"PGOBJ_LOG_LEVEL=loud"},
	} {
		try(what, false, env)
	}
	try("unknown flag", false, nil, "--no-such-flag")
	try("one argument more", false, nil, "more")
	try("zero time", false, nil, "--timeout=0s")
	if n < 40 {
		t.Errorf("only %d kinds of failure", n)
	}
}

// Row 15: every signal that can be caught becomes an ordinary failure of wal-push, and of wal-fetch one that
// neither promotes nor counts as a request to shut down.
func TestSignals(t *testing.T) {
	t.Parallel()
	st, server := versityStore(t)
	r := newWALRig(t, st)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	r.env = append(r.env, "PGOBJ_S3_ENDPOINT="+proxy.URL)
	r.put(t, wal1, walSegment(wal1, r.sysid, mib, 1))
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT} {
		for _, args := range [][]string{{"wal-push", "pg_wal/" + wal1}, {"wal-fetch", wal1, "pg_wal/RECOVERYXLOG"}} {
			proxy.Reset()
			asked := make(chan struct{})
			proxy.Times(1, faultproxy.Always, faultproxy.Hook(func(faultproxy.Request) { close(asked) }))
			proxy.On(faultproxy.Always, faultproxy.BlackHole())
			o := execute(t, r.command(r.pgobj, args...), func(p *os.Process) {
				<-asked
				if err := p.Signal(sig); err != nil {
					t.Error(err)
				}
			})
			if args[0] == "wal-push" {
				if checkPushCode(t, o); o.code == 0 {
					t.Errorf("%v: %v", sig, o)
				}
			} else if o.code != 255 {
				t.Errorf("%v: %v", sig, o)
			}
		}
	}
	// stderr that nobody reads: SIGPIPE must not end the process.
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	read.Close()
	cmd := r.command(r.pgobj, "wal-push", "pg_wal/no-such-file")
	cmd.Stderr, cmd.Stdout = write, write
	_ = cmd.Run()
	write.Close()
	if code := cmd.ProcessState.ExitCode(); code < 1 || code > 125 {
		t.Errorf("with a closed stderr: %v", cmd.ProcessState)
	}
}

// A server that catches up archives several segments at once, so that a later one can be there before an earlier one. A recovery
// from its archive waits a while for what is missing, before it takes that for a hole; a standby, which asks again, does not.
func TestHoleThatIsFilled(t *testing.T) {
	t.Parallel()
	st, server := versityStore(t)
	r := newWALRig(t, st)
	for _, name := range []string{wal1, wal3} {
		r.mustPush(t, name, walSegment(name, r.sysid, mib, 1))
	}
	late := walSegment(wal2, r.sysid, mib, 2)
	r.put(t, wal2, late)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	direct, asked := r.env, 0
	get := func(q faultproxy.Request) bool {
		if q.Method == "GET" && strings.Contains(q.Path, wal2) {
			asked++
			return asked == 3 // a look that finds nothing is two requests, then it is asked again
		}
		return false
	}
	proxy.On(get, faultproxy.Hook(func(faultproxy.Request) {
		pusher := *r
		pusher.env = direct
		if o := pusher.run(t, "wal-push", "pg_wal/"+wal2); o.code != 0 {
			t.Error(o)
		}
	}))
	through := slices.Concat(direct, []string{"PGOBJ_S3_ENDPOINT=" + proxy.URL})
	r.env = through
	r.put(t, "../standby.signal", nil)
	if o, _ := r.fetch(t, wal2, "--retry-for=20s"); o.code != 1 || asked > 2 || !strings.Contains(o.err, "hole") {
		t.Errorf("on a standby, asked %d times: %v", asked, o)
	}
	must(t, os.Remove(filepath.Join(r.data, "standby.signal")))
	asked = 0
	if o, got := r.fetch(t, wal2, "--retry-for=20s"); o.code != 0 || !bytes.Equal(got, late) {
		t.Errorf("asked %d times: %v", asked, o)
	}
}

// A restore that is planned meanwhile looks again, too, before it is refused.
func TestPlanWaitsForHoleThatIsFilled(t *testing.T) {
	t.Parallel()
	st, server := versityStore(t)
	s := newSite(t, st, pgtest.Options{Major: 15, Template: true})
	b := s.backup(t)
	for i := range 3 {
		s.Exec(t, fmt.Sprintf(`CREATE TABLE t%d ()`, i))
		s.archived(t)
	}
	all, _ := segmentsOf(t, st.folder, 1)
	full := slices.Sorted(maps.Keys(all))
	file := filepath.Join(st.folder, "main/wal", b.SystemID, "00000001", full[len(full)-2]+".zst")
	must(t, os.Rename(file, server.Dir+"/late"))
	// New as its neighbours are on a server that is catching up, however slow this machine is.
	now := time.Now()
	must(t, os.Chtimes(filepath.Join(filepath.Dir(file), full[len(full)-1]+".zst"), now, now))
	proxy, lists := faultproxy.ForTest(t, server.Endpoint), 0
	proxy.On(func(q faultproxy.Request) bool {
		if strings.Contains(q.Query, "00000001%2F") && strings.Contains(q.Query, "list-type=2") {
			lists++
			return lists == 2
		}
		return false
	}, faultproxy.Hook(func(faultproxy.Request) { must(t, os.Rename(server.Dir+"/late", file)) }))
	s.settings = append(s.settings, "PGOBJ_S3_ENDPOINT="+proxy.URL)
	o := s.must(t, "backup-fetch", filepath.Join(testenv.Dir(t), "data"), "--plan")
	if !strings.Contains(o.out, lastOf(all)) || lists != 2 {
		t.Errorf("after %d listings: %v", lists, o)
	}
}

// A segment that the storage lists and does not have ends recovery with an error, not with a promotion.
func TestSegmentIsListedButGone(t *testing.T) {
	t.Parallel()
	st, server := versityStore(t)
	s := newSite(t, st, pgtest.Options{WALSegMB: 1})
	s.Exec(t, `CREATE TABLE x (i int)`)
	s.backup(t)
	gone := ""
	for i := 1; i <= 5; i++ {
		s.Exec(t, fmt.Sprintf(`INSERT INTO x VALUES (%d)`, i))
		if i == 3 {
			gone = s.SQL(t, `SELECT pg_walfile_name(pg_current_wal_lsn())`)
		}
		s.archived(t)
	}
	proxy := faultproxy.ForTest(t, server.Endpoint)
	proxy.On(faultproxy.And(faultproxy.Method("GET"), faultproxy.Path(gone)), faultproxy.Fail(404, "NoSuchKey"))
	via := *s
	via.settings = append(slices.Clone(s.settings), "PGOBJ_S3_ENDPOINT="+proxy.URL)
	c, err := pgtest.Attach(via.fetch(t), s.Major, noArchiving...)
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	c.AddEnv(append(st.credentials, "PGOBJ_RETRY_FOR=2s")...)
	if err := c.Launch(t.Context()); err == nil {
		t.Errorf("without %s the copy is open with %s of 5 rows", gone, c.SQL(t, `SELECT count(*) FROM x`))
	}
	if log := c.Log(); !strings.Contains(log, gone) || !strings.Contains(log, "object does not exist") {
		t.Errorf("the server's log does not tell why: %s", log)
	}
}

// A process that may not have the threads that it needs to begin with is not the end of the WAL.
func TestFetchWithoutThreads(t *testing.T) {
	t.Parallel()
	s := newSite(t, folderStore(t), pgtest.Options{WALSegMB: 1})
	s.backup(t)
	auto := string(readFile(t, filepath.Join(s.fetch(t), "postgresql.auto.conf")))
	_, rest, _ := strings.Cut(auto, "\nrestore_command = '")
	command, _, ok := strings.Cut(rest, "'\n")
	if !ok {
		t.Fatal(auto)
	}
	command = strings.NewReplacer("%f", "000000010000000000000001", "%p", "pg_wal/RECOVERYXLOG", "''", "'").Replace(command)
	failed := 0
	for threads := 1; threads <= 12; threads++ {
		o := finish(t, exec.Command("setpriv", "--reuid=65531", "--clear-groups", "prlimit", fmt.Sprintf("--nproc=%d", threads), "sh", "-c", command))
		if o.code >= 0 && o.code <= 125 { // -1: by a signal
			t.Errorf("with %d threads: %v", threads, o)
		}
		if strings.Contains(o.err, "failed to create new OS thread") {
			failed++
		}
	}
	if failed == 0 {
		t.Error("every process could start")
	}
}
