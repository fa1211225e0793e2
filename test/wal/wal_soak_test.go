package wal

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// breaking lets so many of a thousand requests fail, in nine ways, and slows down as many more.
func breaking(proxy *faultproxy.Proxy, perMille int) {
	faults := []faultproxy.Fault{faultproxy.Fail(503, "SlowDown"), faultproxy.Fail(500, "InternalError"), faultproxy.Reset(0), faultproxy.Reset(900),
		faultproxy.DropResponse(), faultproxy.CutUpload(500), faultproxy.CutBody(700, faultproxy.CutClose), faultproxy.CutBody(100, faultproxy.CutReset),
		faultproxy.CutBody(300, faultproxy.CutChunked)}
	for i, f := range append(faults, faultproxy.Delay(400*time.Millisecond)) {
		only := perMille / len(faults)
		if i == len(faults) {
			only = perMille
		}
		// Each is tried on what the ones before have let through, so it has to take more of it.
		only = only * 1000 / (1000 - i*perMille/len(faults))
		proxy.On(func(faultproxy.Request) bool { return rand.IntN(1000) < only }, f)
	}
}

// While three in ten requests break, in many ways, WAL is archived, the server crashes, and all is restored: every
// committed row is there.
func TestSoak(t *testing.T) {
	t.Parallel()
	seconds, crashes := 24, 2
	if site.Torture() {
		seconds, crashes = 300, 10
	}
	st, server := site.VersityStore(t)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	breaking(proxy, 300)
	st.Settings = append(st.Settings, "PGOBJ_S3_ENDPOINT="+proxy.URL, "PGOBJ_LOG_LEVEL=error")
	s := site.NewSite(t, st, pgtest.Options{WALSegMB: 1, Conf: []string{"autovacuum = off"}})
	s.Exec(t, `CREATE TABLE soaked (i serial, at timestamptz DEFAULT clock_timestamp(), filler text); ALTER TABLE soaked ALTER filler SET STORAGE external`)
	if o := site.Finish(t, s.Program(s.Bin("pgbench"), "--initialize", "--scale=1", "--quiet")); o.Code != 0 {
		t.Fatal(o)
	}
	s.Must(t, "backup-push", "--wal-timeout=10m")
	script := filepath.Join(testenv.Dir(t), "script")
	site.WriteFile(t, script, "INSERT INTO soaked (filler) SELECT string_agg(md5(random()::text || i), '') FROM generate_series(1, 250) i;\n"+
		"\\set aid random(1, 100000)\nUPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;\n", 0o644)
	for i := range crashes + 1 {
		o := site.Finish(t, s.Program(s.Bin("pgbench"), "--no-vacuum", "--client=2", fmt.Sprintf("--time=%d", seconds/(crashes+1)), "--rate=400", "--file="+script))
		if o.Code != 0 {
			t.Fatal(o)
		}
		if i < crashes {
			s.Kill(t)
			s.Start(t)
		}
	}
	want := site.Contents(t, s.Cluster, "postgres")
	s.Archived(t)
	archived := len(proxy.Requests())
	s.Stop(t, "fast")
	c := s.Spawn(t, s.Fetch(t), site.NoArchiving...)
	site.SameContents(t, c, "postgres", want)
	if o := s.Must(t, "wal-list"); strings.Contains(o.Out, "gap") {
		t.Error(o)
	}
	s.Must(t, "wal-verify")
	full, _ := site.SegmentsOf(t, st.Directory, 1)
	rows := site.Number(t, c.SQL(t, `SELECT count(*) FROM soaked`))
	all, broken := len(proxy.Requests()), proxy.Count(func(r faultproxy.Request) bool { return r.Fault != "" && r.Fault != "delay " })
	t.Logf("%d rows, %d segments, %d requests to archive and %d to restore and verify, %d broken, in %d s of pgbench with %d crashes", rows, len(full), archived, all-archived, broken, seconds, crashes)
	if s := int64(seconds); rows < 25*s || int64(len(full)) < s/4 || int64(all) < 2*s || broken < all/5 {
		t.Error("that is too little")
	}
}
