package test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// While three in ten requests break, in many ways, WAL is archived; and while they break, it is restored: every
// committed row is there.
func TestSoak(t *testing.T) {
	t.Parallel()
	seconds := 8
	if torture() {
		seconds = 180
	}
	st, server := versityStore(t)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	for _, f := range []faultproxy.Fault{faultproxy.Fail(503, "SlowDown"), faultproxy.Fail(500, "InternalError"), faultproxy.Reset(0), faultproxy.Reset(900),
		faultproxy.DropResponse(), faultproxy.CutBody(700, faultproxy.CutClose)} {
		// Each is tried on what the ones before have let through: 5.8 % six times is 30 %.
		proxy.On(func(faultproxy.Request) bool { return rand.IntN(1000) < 58 }, f)
	}
	st.settings = append(st.settings, "PGOBJ_S3_ENDPOINT="+proxy.URL, "PGOBJ_LOG_LEVEL=error")
	s := newSite(t, st, pgtest.Options{WALSegMB: 1, Conf: []string{"autovacuum = off"}})
	s.Exec(t, `CREATE TABLE soaked (i serial, at timestamptz DEFAULT clock_timestamp())`)
	o := finish(t, s.program(s.Bin("pgbench"), "--initialize", "--scale=1", "--quiet"))
	if o.code != 0 {
		t.Fatal(o)
	}
	s.must(t, "backup-push", "--wal-timeout=2m")
	script := filepath.Join(testenv.Dir(t), "script")
	writeFile(t, script, "INSERT INTO soaked DEFAULT VALUES;\nUPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = random() * 100000;\n", 0o644)
	if o := finish(t, s.program(s.Bin("pgbench"), "--no-vacuum", "--client=2", fmt.Sprintf("--time=%d", seconds), "--rate=400", "--file="+script)); o.code != 0 {
		t.Fatal(o)
	}
	want := s.SQL(t, `SELECT count(*), sum(i) FROM soaked`)
	testenv.Eventually(t, generous, "all is archived", func() bool {
		last := s.SQL(t, `SELECT pg_walfile_name(pg_switch_wal())`)
		return s.SQL(t, fmt.Sprintf(`SELECT coalesce(left(last_archived_wal, 24) >= '%s', false) FROM pg_stat_archiver`, last)) == "t"
	})
	dir := s.fetch(t)
	c := s.start(t, dir, "-c", "archive_mode=off")
	c.Eventually(t, `SELECT count(*), sum(i) FROM soaked`, want)
	t.Logf("%s rows, %d requests in %v", want, len(proxy.Requests()), time.Duration(seconds)*time.Second)
}
