package push

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	fp "github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/s3server"
	"github.com/pgobj/pgobj/test/site"
)

// An ingress that rolls over, a login page, a proxy: answers in the storage's place in the middle of a conversation end neither a
// backup nor a restore. wal-fetch never takes them for the end of the WAL.
func TestAnswersInTheStoragesPlace(t *testing.T) {
	t.Parallel()
	server := s3server.ForTest(t, s3server.MinIO)
	proxy := fp.ForTest(t, server.Endpoint)
	page := "<!DOCTYPE html><html><body>default backend</body></html>"
	faults := []fp.Fault{fp.Fail(404, ""), fp.Fail(400, ""), fp.Fail(401, ""), fp.Fail(403, ""), fp.Fail(405, ""), fp.Fail(407, ""),
		fp.Answer(302, http.Header{"Location": {"http://login.invalid/"}}, page), fp.Replace200(page)}
	for _, driver := range []string{"minio", "aws"} {
		st := site.S3Store(t, server, driver)
		for i, kv := range st.Settings {
			st.Settings[i] = strings.Replace(kv, server.Endpoint, proxy.URL, 1)
		}
		st.Settings = append(st.Settings, "PGOBJ_SERVER="+driver, "PGOBJ_RETRY_FOR=1m")
		s := site.NewSite(t, st, pgtest.Options{Conf: []string{"autovacuum = off"}})
		s.Archived(t) // wal-push has requests of its own
		// spoil answers in place of the storage once to each request that when selects, with each fault in turn, but never first.
		spoil := func(when fp.When) (spoilt func() int) {
			proxy.Reset()
			for i, f := range faults {
				from := 3 + 2*i
				proxy.Times(1, fp.And(when, func(q fp.Request) bool { return q.N >= from }), f)
			}
			return func() int { return proxy.Count(func(q fp.Request) bool { return q.Fault != "" }) }
		}
		backups := func(q fp.Request) bool { return !strings.Contains(q.Path, "/wal/") } // those of archive_command are PostgreSQL's to repeat
		spoilt := spoil(backups)
		o := s.Run(t, "backup-push", "--wal-timeout=1m")
		if n := spoilt(); o.Code != 0 || n < 6 {
			t.Errorf("%s: backup-push, with %d answers in the storage's place: %v", driver, n, o)
		}
		spoilt = spoil(fp.Method("GET"))
		target := s.Fetch(t)
		if n := spoilt(); n < 6 {
			t.Errorf("%s: backup-fetch met only %d of them", driver, n)
		}
		s.Verified(t, target)

		r := site.NewWALRig(t, st)
		r.Env = slices.Concat(st.Settings, st.Credentials, []string{"PGOBJ_SERVER=rig-" + driver})
		r.MustPush(t, site.Wal1, site.WalSegment(site.Wal1, r.Sysid, site.Mib, 1))
		for _, f := range []fp.Fault{fp.Fail(404, ""), fp.Fail(403, "")} {
			proxy.Reset()
			proxy.Times(1, fp.Always, f) // even the first answer of all says nothing about a segment
			if o, _ := r.Fetch(t, site.Wal2, "--retry-for=20s"); o.Code != 1 || proxy.Requests()[0].Fault == "" {
				t.Errorf("%s: wal-fetch of what is not there: %v", driver, o)
			}
			proxy.Reset()
			proxy.On(fp.Always, f)
			if o, _ := r.Fetch(t, site.Wal2); o.Code != 255 {
				t.Errorf("%s: nothing but %q, and wal-fetch: %v", driver, proxy.Requests()[0].Fault, o)
			}
		}
		proxy.Reset()
	}
}
