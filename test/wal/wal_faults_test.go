package wal

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
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// Rows 12, 15, 16: whatever happens, wal-push ends by itself with a code that the archiver survives, and 0 only
// when the object is there.
func TestWALPushUnderFaults(t *testing.T) {
	t.Parallel()
	st, server := site.VersityStore(t)
	r := site.NewWALRig(t, st)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	r.Env = append(r.Env, "PGOBJ_LOG_LEVEL=error")
	settings := r.Env
	n := 0
	try := func(what string, mayWork bool, env []string, args ...string) {
		t.Helper()
		n++
		name := fmt.Sprintf("00000001000000010000%04X", n)
		data := site.WalSegment(name, r.Sysid, site.Mib, byte(n))
		r.Env = slices.Concat(settings, []string{"PGOBJ_S3_ENDPOINT=" + proxy.URL}, env)
		o := r.Push(t, name, data, append([]string{"--timeout=1s"}, args...)...)
		proxy.Reset()
		r.Env = settings
		if !mayWork && o.Code == 0 {
			t.Errorf("%s: wal-push claims success", what)
		}
		if o.Code == 0 {
			r.Fetches(t, name, data)
		}
		r.MustPush(t, name, data) // the next try of the archiver
		r.Fetches(t, name, data)
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
		"no directory": {"PGOBJ_STORAGE=file:///no/such/directory"}, "closed directory": {"PGOBJ_STORAGE=file:///proc/1/root"},
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
	st, server := site.VersityStore(t)
	r := site.NewWALRig(t, st)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	r.Env = append(r.Env, "PGOBJ_S3_ENDPOINT="+proxy.URL)
	r.Put(t, site.Wal1, site.WalSegment(site.Wal1, r.Sysid, site.Mib, 1))
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT} {
		for _, args := range [][]string{{"wal-push", "pg_wal/" + site.Wal1}, {"wal-fetch", site.Wal1, "pg_wal/RECOVERYXLOG"}} {
			proxy.Reset()
			asked := make(chan struct{})
			proxy.Times(1, faultproxy.Always, faultproxy.Hook(func(faultproxy.Request) { close(asked) }))
			proxy.On(faultproxy.Always, faultproxy.BlackHole())
			o := site.Execute(t, r.Command(r.Pgobj, args...), func(p *os.Process) {
				<-asked
				if err := p.Signal(sig); err != nil {
					t.Error(err)
				}
			})
			if args[0] == "wal-push" {
				if site.CheckPushCode(t, o); o.Code == 0 {
					t.Errorf("%v: %v", sig, o)
				}
			} else if o.Code != 255 {
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
	cmd := r.Command(r.Pgobj, "wal-push", "pg_wal/no-such-file")
	cmd.Stderr, cmd.Stdout = write, write
	_ = cmd.Run()
	write.Close()
	if code := cmd.ProcessState.ExitCode(); code < 1 || code > 125 {
		t.Errorf("with a closed stderr: %v", cmd.ProcessState)
	}
}

// A server that catches up archives several segments at once, so that a later one can be there before an earlier one. A recovery
// from its archive waits a while for what is missing, before it takes that for a gap; a standby, which asks again, does not.
func TestGapThatIsFilled(t *testing.T) {
	t.Parallel()
	st, server := site.VersityStore(t)
	r := site.NewWALRig(t, st)
	for _, name := range []string{site.Wal1, site.Wal3} {
		r.MustPush(t, name, site.WalSegment(name, r.Sysid, site.Mib, 1))
	}
	late := site.WalSegment(site.Wal2, r.Sysid, site.Mib, 2)
	r.Put(t, site.Wal2, late)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	direct, asked := r.Env, 0
	get := func(q faultproxy.Request) bool {
		if q.Method == "GET" && strings.Contains(q.Path, site.Wal2) {
			asked++
			return asked == 3 // a look that finds nothing is two requests, then it is asked again
		}
		return false
	}
	proxy.On(get, faultproxy.Hook(func(faultproxy.Request) {
		pusher := *r
		pusher.Env = direct
		if o := pusher.Run(t, "wal-push", "pg_wal/"+site.Wal2); o.Code != 0 {
			t.Error(o)
		}
	}))
	through := slices.Concat(direct, []string{"PGOBJ_S3_ENDPOINT=" + proxy.URL})
	r.Env = through
	r.Put(t, "../standby.signal", nil)
	if o, _ := r.Fetch(t, site.Wal2, "--retry-for=20s"); o.Code != 1 || asked > 2 || !strings.Contains(o.Err, "gap") {
		t.Errorf("on a standby, asked %d times: %v", asked, o)
	}
	site.Must(t, os.Remove(filepath.Join(r.Data, "standby.signal")))
	asked = 0
	if o, got := r.Fetch(t, site.Wal2, "--retry-for=20s"); o.Code != 0 || !bytes.Equal(got, late) {
		t.Errorf("asked %d times: %v", asked, o)
	}
}

// A restore that is planned meanwhile looks again, too, before it is refused.
func TestPlanWaitsForGapThatIsFilled(t *testing.T) {
	t.Parallel()
	st, server := site.VersityStore(t)
	s := site.NewSite(t, st, pgtest.Options{Major: 15, Template: true})
	b := s.Backup(t)
	for i := range 3 {
		s.Exec(t, fmt.Sprintf(`CREATE TABLE t%d ()`, i))
		s.Archived(t)
	}
	all, _ := site.SegmentsOf(t, st.Directory, 1)
	full := slices.Sorted(maps.Keys(all))
	file := filepath.Join(st.Directory, "main/wal", b.SystemID, "00000001", full[len(full)-2]+".zst")
	site.Must(t, os.Rename(file, server.Dir+"/late"))
	// New as its neighbours are on a server that is catching up, however slow this machine is.
	now := time.Now()
	site.Must(t, os.Chtimes(filepath.Join(filepath.Dir(file), full[len(full)-1]+".zst"), now, now))
	proxy, lists := faultproxy.ForTest(t, server.Endpoint), 0
	proxy.On(func(q faultproxy.Request) bool {
		if strings.Contains(q.Query, "00000001%2F") && strings.Contains(q.Query, "list-type=2") {
			lists++
			return lists == 2
		}
		return false
	}, faultproxy.Hook(func(faultproxy.Request) { site.Must(t, os.Rename(server.Dir+"/late", file)) }))
	s.Settings = append(s.Settings, "PGOBJ_S3_ENDPOINT="+proxy.URL)
	o := s.Must(t, "backup-fetch", filepath.Join(testenv.Dir(t), "data"), "--plan")
	if !strings.Contains(o.Out, site.LastOf(all)) || lists != 2 {
		t.Errorf("after %d listings: %v", lists, o)
	}
}

// A segment that the storage lists and does not have ends recovery with an error, not with a promotion.
func TestSegmentIsListedButGone(t *testing.T) {
	t.Parallel()
	st, server := site.VersityStore(t)
	s := site.NewSite(t, st, pgtest.Options{WALSegMB: 1})
	s.Exec(t, `CREATE TABLE x (i int)`)
	s.Backup(t)
	gone := ""
	for i := 1; i <= 5; i++ {
		s.Exec(t, fmt.Sprintf(`INSERT INTO x VALUES (%d)`, i))
		if i == 3 {
			gone = s.SQL(t, `SELECT pg_walfile_name(pg_current_wal_lsn())`)
		}
		s.Archived(t)
	}
	proxy := faultproxy.ForTest(t, server.Endpoint)
	proxy.On(faultproxy.And(faultproxy.Method("GET"), faultproxy.Path(gone)), faultproxy.Fail(404, "NoSuchKey"))
	via := *s
	via.Settings = append(slices.Clone(s.Settings), "PGOBJ_S3_ENDPOINT="+proxy.URL)
	c, err := pgtest.Attach(via.Fetch(t), s.Major, site.NoArchiving...)
	site.Must(t, err)
	t.Cleanup(func() { site.Must(t, c.Close()) })
	c.AddEnv(append(st.Credentials, "PGOBJ_RETRY_FOR=2s")...)
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
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{WALSegMB: 1})
	s.Backup(t)
	auto := string(site.ReadFile(t, filepath.Join(s.Fetch(t), "postgresql.auto.conf")))
	_, rest, _ := strings.Cut(auto, "\nrestore_command = '")
	command, _, ok := strings.Cut(rest, "'\n")
	if !ok {
		t.Fatal(auto)
	}
	command = strings.NewReplacer("%f", "000000010000000000000001", "%p", "pg_wal/RECOVERYXLOG", "''", "'").Replace(command)
	failed := 0
	for threads := 1; threads <= 12; threads++ {
		o := site.Finish(t, exec.Command("setpriv", "--reuid=65531", "--clear-groups", "prlimit", fmt.Sprintf("--nproc=%d", threads), "sh", "-c", command))
		if o.Code >= 0 && o.Code <= 125 { // -1: by a signal
			t.Errorf("with %d threads: %v", threads, o)
		}
		if strings.Contains(o.Err, "failed to create new OS thread") {
			failed++
		}
	}
	if failed == 0 {
		t.Error("every process could start")
	}
}
