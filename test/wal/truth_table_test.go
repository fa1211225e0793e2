package wal

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/s3server"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// What PostgreSQL does with the exit codes of restore_command is measured in these tables: for each fault
// on one file that a recovery needs, and each kind of recovery, no server may promote with fewer rows than
// the archive holds, and no standby may die.

// A truth is an archive with two timelines, and a cold copy of the cluster from before all of it.
type truth struct {
	major   int
	base    string // the cold copy
	pgobj   string
	server  *s3server.Server
	prefix  string
	wal     string // the archive as a directory
	segment string // in the middle of timeline 1
	next    string // the one after it
	rows    string // in the whole archive
	at      string // a time in timeline 1, after segment
	rowsAt  string // committed by then
}

const (
	truthHistory = "00000002.history"
	toEnd        = "to the end"
	toTime       = "to a time"
	standby      = "standby"
)

func newTruth(t *testing.T, major int, server *s3server.Server) *truth {
	t.Helper()
	tr := &truth{major: major, pgobj: testenv.Pgobj(t), server: server, prefix: fmt.Sprintf("truth/%d", major)}
	env := append(server.Env(), "PGOBJ_STORAGE="+server.URL(tr.prefix), "PGOBJ_S3_ENDPOINT="+server.Endpoint)
	conf := append(site.Archiving(tr.pgobj), "wal_retrieve_retry_interval = '100ms'", "autovacuum = off", "shared_buffers = '16MB'",
		"max_wal_size = '64MB'", "checkpoint_timeout = '1h'", "hot_standby = on", "fsync = off")
	size := 1
	if major < 11 {
		size = 16
	}
	c := pgtest.Start(t, pgtest.Options{Major: major, Template: true, WALSegMB: size, Env: env, Conf: conf})
	// Without its templates the cluster is a third as large, and it is copied for each case.
	for _, db := range []string{"template0", "template1"} {
		c.Exec(t, `UPDATE pg_database SET datistemplate = false WHERE datname = '`+db+`'`)
		c.Exec(t, `DROP DATABASE `+db)
	}
	c.Exec(t, `CREATE TABLE proof (i int)`)
	c.Stop(t, "fast")
	tr.base = copyOf(t, c.Data)
	c.Start(t)
	for batch := range 6 {
		c.Exec(t, `INSERT INTO proof SELECT generate_series(1, 100)`)
		name := c.SwitchWAL(t)
		switch batch {
		case 1:
			tr.segment = name
		case 2:
			tr.next = name
		case 4:
			tr.at, tr.rowsAt = c.SQL(t, `SELECT clock_timestamp()`), c.SQL(t, `SELECT count(*) FROM proof`)
		}
	}
	c.Stop(t, "fast") // which archives all that is left

	c = tr.cluster(t, tr.base, toEnd, env)
	c.Start(t)
	for range 4 {
		c.Exec(t, `INSERT INTO proof SELECT generate_series(1, 100)`)
		c.Exec(t, `SELECT pg_switch_wal()`)
	}
	tr.rows = c.SQL(t, `SELECT count(*) FROM proof`)
	c.Stop(t, "fast")

	found, err := filepath.Glob(filepath.Join(server.Dir, tr.prefix, "main/wal/*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("the archive is %v, %v", found, err)
	}
	tr.wal = found[0]
	if tr.rows != "1000" || tr.rowsAt != "500" {
		t.Fatalf("%s rows, %s at %s", tr.rows, tr.rowsAt, tr.at)
	}
	return tr
}

// copyOf copies a data directory to a directory of its own.
func copyOf(t testing.TB, dir string) string {
	t.Helper()
	own, err := testenv.MakeDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A wal-fetch that the server has left behind could still write: it has to end soon by itself.
		ctx, cancel := context.WithTimeout(context.Background(), site.Patience)
		defer cancel()
		if err := testenv.Until(ctx, own+" can be removed", func() bool { return os.RemoveAll(own) == nil }); err != nil {
			t.Error(err)
		}
	})
	to := filepath.Join(own, "data")
	copyTree(t, dir, to)
	return to
}

func copyTree(t testing.TB, from, to string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", "--reflink=auto", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v\n%s", from, err, out)
	}
}

// cluster is a copy of a data directory with recovery settings, ready to start.
func (tr *truth) cluster(t testing.TB, base, mode string, env []string, args ...string) *pgtest.Cluster {
	return tr.clusterOf(t, base, mode, way{}, env, args...)
}

// way is how a recovery gets ahead of itself: pgobj's window, and PostgreSQL's own reading ahead (15 and later),
// which changes how often it asks for a segment that it cannot have.
type way struct{ noPrefetch, noRecoveryPrefetch bool }

func (w way) String() string {
	return map[bool]string{true: "no ", false: ""}[w.noPrefetch] + "prefetch" + map[bool]string{true: ", no recovery_prefetch"}[w.noRecoveryPrefetch]
}

func (tr *truth) clusterOf(t testing.TB, base, mode string, w way, env []string, args ...string) *pgtest.Cluster {
	t.Helper()
	c, err := pgtest.Attach(copyOf(t, base), tr.major, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the server:\n%s", site.LastLines(c.Log(), 30))
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	c.AddEnv(env...)
	if w.noPrefetch {
		c.AddEnv("PGOBJ_WAL_PREFETCH=0")
	}
	settings := []string{"restore_command = '" + tr.pgobj + " wal-fetch --retry-for 1s %f %p'", "recovery_target_timeline = 'latest'"}
	if w.noRecoveryPrefetch {
		settings = append(settings, "recovery_prefetch = off")
	}
	if mode == toTime {
		settings = append(settings, "recovery_target_time = '"+tr.at+"'", "recovery_target_action = 'promote'")
	}
	signal := map[string]string{standby: "standby.signal"}[mode]
	if signal == "" {
		signal = "recovery.signal"
	}
	if tr.major >= 12 {
		site.WriteFile(t, filepath.Join(c.Data, signal), "", 0o600)
		if err := c.AppendConf(settings...); err != nil {
			t.Fatal(err)
		}
		return c
	}
	if mode == standby {
		settings = append(settings, "standby_mode = 'on'")
	}
	site.WriteFile(t, filepath.Join(c.Data, "recovery.conf"), strings.Join(append(settings, ""), "\n"), 0o600)
	return c
}

// fault is what is wrong with one file of the archive, or with the way to all of it.
type fault struct {
	name    string
	proxied func(tr *truth, file string) faultproxy.Fault       // on every GET of the file
	env     func(t *testing.T, tr *truth, file string) []string // instead: settings
}

func answer(make func(good, other []byte) []byte) func(*truth, string) faultproxy.Fault {
	return func(tr *truth, file string) faultproxy.Fault {
		read := func(name string) []byte {
			data, err := os.ReadFile(filepath.Join(tr.wal, name[:8], name+".zst"))
			if err != nil {
				panic(err)
			}
			return data
		}
		header := http.Header{"Etag": {`"0123456789abcdef0123456789abcdef"`}, "Last-Modified": {"Sat, 21 Nov 2026 01:45:00 GMT"}, "Content-Type": {"application/octet-stream"}}
		return faultproxy.Answer(http.StatusOK, header, string(make(read(file), read(tr.next))))
	}
}

func simply(f faultproxy.Fault) func(*truth, string) faultproxy.Fault {
	return func(*truth, string) faultproxy.Fault { return f }
}

// gap copies the archive without the file.
func gap(t *testing.T, tr *truth, file string) []string {
	prefix := "gap/" + rand.Text()
	to := filepath.Join(tr.server.Dir, prefix)
	copyTree(t, filepath.Join(tr.server.Dir, tr.prefix), to)
	if err := os.Remove(filepath.Join(to, "main/wal", filepath.Base(tr.wal), file[:8], file+".zst")); err != nil {
		t.Fatal(err)
	}
	return []string{"PGOBJ_STORAGE=" + tr.server.URL(prefix)}
}

func settings(env ...string) func(*testing.T, *truth, string) []string {
	return func(*testing.T, *truth, string) []string { return env }
}

const page = "<!DOCTYPE html><html><head><title>Log in</title></head><body>Log in to use this network</body></html>"

func faults() []fault {
	return []fault{
		{name: "gap", env: gap},
		{name: "503", proxied: simply(faultproxy.Fail(503, "SlowDown"))},
		{name: "500", proxied: simply(faultproxy.Fail(500, "InternalError"))},
		{name: "429", proxied: simply(faultproxy.Fail(429, "TooManyRequests"))},
		{name: "moved", proxied: simply(faultproxy.Fail(301, "PermanentRedirect"))},
		{name: "403", proxied: simply(faultproxy.Fail(403, "AccessDenied"))},
		{name: "expired credentials", proxied: simply(faultproxy.Fail(400, "ExpiredToken"))},
		{name: "no such bucket", proxied: simply(faultproxy.Fail(404, "NoSuchBucket"))},
		{name: "page with 404", proxied: simply(faultproxy.Fail(404, ""))},
		{name: "page with 200", proxied: simply(faultproxy.Replace200(page))},
		{name: "error with 200", proxied: simply(faultproxy.Replace200Error("InternalError"))},
		{name: "reset", proxied: simply(faultproxy.Reset(0))},
		{name: "black hole", proxied: simply(faultproxy.BlackHole())},
		{name: "cut", proxied: simply(faultproxy.CutBody(0, faultproxy.CutClose))},
		{name: "bit flip", proxied: answer(func(good, _ []byte) []byte { good[len(good)/2] ^= 4; return good })},
		{name: "flipped in the hash", proxied: answer(func(good, _ []byte) []byte { good[len(good)-1] ^= 4; return good })},
		{name: "truncated", proxied: answer(func(good, _ []byte) []byte { return good[:len(good)*2/3] })},
		{name: "empty", proxied: answer(func([]byte, []byte) []byte { return nil })},
		{name: "zeros", proxied: answer(func(good, _ []byte) []byte { return bytes.Repeat([]byte{0}, len(good)) })},
		{name: "another's bytes", proxied: answer(func(_, other []byte) []byte { return other })},
		{name: "refused", env: settings("PGOBJ_S3_ENDPOINT=http://127.0.0.1:1")},
		{name: "wrong bucket", env: settings("PGOBJ_STORAGE=s3://no-such-bucket/truth")},
		{name: "wrong prefix", env: func(_ *testing.T, tr *truth, _ string) []string {
			return []string{"PGOBJ_STORAGE=" + tr.server.URL("no/such/prefix")}
		}},
		{name: "wrong server", env: settings("PGOBJ_SERVER=other")},
		{name: "wrong secret", env: settings("AWS_SECRET_ACCESS_KEY=nonsense")},
		{name: "wrong flag", env: settings("PGOBJ_LOG_LEVEL=nonsense")},
	}
}

func fewFaults() []string {
	return []string{"gap", "503", "403", "page with 404", "bit flip", "wrong prefix"}
}

// ways are those in which a case is tried.
func ways(major int, f fault, file string) []way {
	all := []way{{}, {noPrefetch: true}}
	if major >= 15 {
		all = append(all, way{noRecoveryPrefetch: true}, way{true, true})
	}
	switch {
	case site.Torture():
		return all
	case major == 15 && file != truthHistory && slices.Contains(fewFaults(), f.name):
		return []way{{}, {true, true}}
	}
	return all[:1]
}

// enough says whether a case adds something to the others. All faults meet the segment, in all kinds of
// recovery, on 15. The history file is asked for before a target matters.
func enough(major int, f fault, file, mode string) bool {
	few := slices.Contains(fewFaults(), f.name)
	if site.Torture() {
		return true
	}
	if file == truthHistory {
		return mode != toTime && (few || major == 15 && f.proxied != nil) && (major == 15 || mode == toEnd)
	}
	return few || major == 15
}

func TestTruthTable(t *testing.T) {
	t.Parallel()
	server := s3server.ForTest(t, s3server.Versity)
	least := map[int]int{15: 130, 10: 20, 18: 20}
	if site.Torture() { // 26 faults on two files in three kinds of recovery, each in all ways
		least = map[int]int{15: 624, 10: 312, 14: 312, 18: 624}
	}
	for major, least := range least {
		t.Run(fmt.Sprint(major), func(t *testing.T) { truthTable(t, major, server, least) })
	}
}

// truthTable fails, too, when fewer cases came to their end than it was told.
func truthTable(t *testing.T, major int, server *s3server.Server, least int) {
	planned := 0
	var ran atomic.Int64
	var cases errgroup.Group // most of the time is spent waiting, so more at once than there are CPUs
	cases.SetLimit(6)
	tr := newTruth(t, major, server)
	for _, mode := range []string{toEnd, toTime, standby} {
		t.Run("no fault/"+mode, func(t *testing.T) { tr.noFault(t, mode) })
		t.Run("every file fails once/"+mode, func(t *testing.T) { tr.failsOnce(t, mode) })
		for _, f := range faults() {
			for _, file := range []string{tr.segment, truthHistory} {
				if !enough(major, f, file, mode) {
					continue
				}
				for _, w := range ways(major, f, file) {
					planned++
					cases.Go(func() error {
						t.Run(fmt.Sprintf("%s/%s/%s/%s", file, f.name, mode, w), func(t *testing.T) {
							tr.run(t, f, file, mode, w)
							ran.Add(1)
						})
						return nil
					})
				}
			}
		}
	}
	_ = cases.Wait() // failures are the subtests' own
	t.Logf("%d cases on PostgreSQL %d", planned, major)
	if int(ran.Load()) != planned || planned < least {
		t.Errorf("%d of %d cases came to an end, at least %d were meant", ran.Load(), planned, least)
	}
}

func (tr *truth) env(endpoint string) []string {
	return append(tr.server.Env(), "PGOBJ_STORAGE="+tr.server.URL(tr.prefix), "PGOBJ_S3_ENDPOINT="+endpoint)
}

func (tr *truth) noFault(t *testing.T, mode string) {
	tr.recovers(t, tr.cluster(t, tr.base, mode, tr.env(tr.server.Endpoint), site.NoArchiving...), mode)
}

// failsOnce is row 33: PostgreSQL, which does not ask twice without recovery_prefetch, never learns of it.
func (tr *truth) failsOnce(t *testing.T, mode string) {
	proxy := faultproxy.ForTest(t, tr.server.Endpoint)
	var failed sync.Map
	proxy.On(func(r faultproxy.Request) bool {
		_, before := failed.LoadOrStore(r.Method+r.Path, true)
		return !before
	}, faultproxy.Fail(503, "SlowDown"))
	tr.recovers(t, tr.clusterOf(t, tr.base, mode, way{true, tr.major >= 15}, tr.env(proxy.URL), site.NoArchiving...), mode)
	if _, asked := failed.Load("GET" + "/" + tr.server.Bucket + "/" + tr.prefix + "/main/wal/" + filepath.Base(tr.wal) + "/00000001/" + tr.segment + ".zst"); !asked {
		t.Error("the segment was not asked for")
	}
}

// recovers: all rows are there.
func (tr *truth) recovers(t *testing.T, c *pgtest.Cluster, mode string) {
	c.Start(t)
	if mode == toTime {
		if got := c.SQL(t, `SELECT count(*) FROM proof`); got != tr.rowsAt {
			t.Errorf("%s rows, want %s", got, tr.rowsAt)
		}
		return
	}
	c.Eventually(t, `SELECT count(*) FROM proof`, tr.rows)
}

func (tr *truth) run(t *testing.T, f fault, file, mode string, w way) {
	proxy := faultproxy.ForTest(t, tr.server.Endpoint)
	env := tr.env(proxy.URL)
	if f.env != nil {
		env = append(env, f.env(t, tr, file)...)
	} else {
		proxy.On(faultproxy.And(faultproxy.Method("GET"), faultproxy.Path(regexp.QuoteMeta(file)+`\.zst$`)), f.proxied(tr, file))
	}
	c := tr.clusterOf(t, tr.base, mode, w, env, site.NoArchiving...)
	if mode == standby {
		tr.staysAlive(t, c, proxy, f)
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), site.Patience)
	defer cancel()
	err := c.Launch(ctx)
	if err == nil {
		t.Fatalf("the server promoted with %s of %s rows", c.SQL(t, `SELECT count(*) FROM proof`), tr.rows)
	}
	if _, ended := errors.AsType[*pgtest.Ended](err); !ended {
		t.Fatal(err)
	}
	if !strings.Contains(c.Log(), "FATAL") || !strings.Contains(c.Log(), "ERROR:  ") {
		t.Error("the server does not say why it stopped")
	}
	if f.name == "503" { // the trouble is over: nothing was lost
		proxy.Reset()
		c.Start(t)
		want := map[string]string{toEnd: tr.rows, toTime: tr.rowsAt}[mode]
		if got := c.SQL(t, `SELECT count(*) FROM proof`); got != want {
			t.Errorf("afterwards %s rows, want %s", got, want)
		}
	}
}

// staysAlive: a standby asks again and again, and follows as soon as it can.
func (tr *truth) staysAlive(t *testing.T, c *pgtest.Cluster, proxy *faultproxy.Proxy, f fault) {
	c.Start(t)
	complaints := func() int { return strings.Count(c.Log(), "ERROR:  ") }
	testenv.Eventually(t, site.Patience, "the standby has asked three times", func() bool { return complaints() >= 3 || !c.Running() })
	if !c.Running() {
		t.Fatal("the standby ended")
	}
	if got := c.SQL(t, `SELECT pg_is_in_recovery()`); got != "t" {
		t.Fatalf("the standby promoted with %s of %s rows", c.SQL(t, `SELECT count(*) FROM proof`), tr.rows)
	}
	if f.proxied != nil {
		proxy.Reset()
		c.Eventually(t, `SELECT count(*) FROM proof`, tr.rows)
		if got := c.SQL(t, `SELECT pg_is_in_recovery()`); got != "t" {
			t.Error("the standby promoted")
		}
	}
}
