package s3store_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/storagetest"
	fp "github.com/pgobj/pgobj/test/faultproxy"
)

// TestDeleteMany: real servers are asked once for many objects, one that does not know such requests is asked for each,
// and what the answer says of single objects is told.
func TestDeleteMany(t *testing.T) {
	onRigs(t, func(t *testing.T, r *rig) {
		keys := func() (all []string) {
			for i := range 5 {
				all = append(all, fmt.Sprintf("many/%d", i))
				storagetest.PutBytes(t, r.driver, all[i], []byte("x"))
			}
			r.proxy.Reset()
			return all
		}
		post := fp.Method(http.MethodPost)

		all := keys()
		if err := r.driver.Delete(t.Context(), all...); err != nil || len(r.proxy.Requests()) != 1 || r.proxy.Count(post) != 1 {
			t.Errorf("%d requests, %v", len(r.proxy.Requests()), err)
		}
		all = keys()
		prefix := r.cfg.Prefix + "/"
		r.proxy.On(post, fp.Replace200(`<DeleteResult><Deleted><Key>`+prefix+all[0]+`</Key></Deleted><Error><Key>`+prefix+all[1]+`</Key><Code>AccessDenied</Code></Error>`+
			`<Error><Key>`+prefix+all[2]+`</Key><Code>InternalError</Code></Error><Deleted><Key>`+prefix+all[3]+`</Key></Deleted></DeleteResult>`))
		err := r.driver.Delete(t.Context(), all...)
		some, ok := err.(*storage.NotDeleted)
		if !ok || len(some.Errors) != 3 || some.Errors[0].Key != all[1] || some.Errors[0].Kind != storage.KindDenied ||
			some.Errors[1].Kind != storage.KindTransient || some.Errors[2].Key != all[4] || some.Errors[2].Kind != storage.KindTransient {
			t.Errorf("an answer by object: %v", err)
		}
		r.proxy.Reset()
		r.proxy.Times(1, post, fp.Fail(http.StatusServiceUnavailable, "SlowDown"))
		if err := r.patient.Delete(t.Context(), all...); err != nil || r.proxy.Count(post) != 2 {
			t.Errorf("an answer of 503: %d requests, %v", r.proxy.Count(post), err)
		}
		all = keys()
		r.proxy.On(post, fp.Fail(http.StatusNotImplemented, "NotImplemented"))
		for range 2 {
			if err := r.driver.Delete(t.Context(), all...); err != nil {
				t.Error(err)
			}
		}
		if n := r.proxy.Count(post); n != 1 || len(r.proxy.Requests()) != 11 {
			t.Errorf("a server that does not know it was asked %d times, with %d requests in all", n, len(r.proxy.Requests()))
		}
	})
}
