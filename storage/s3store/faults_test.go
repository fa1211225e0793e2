package s3store_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/retry"
	"github.com/pgobj/pgobj/storage/s3store"
	"github.com/pgobj/pgobj/storage/storagetest"
	fp "github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/s3server"
)

// rig is a driver that reaches a real server through a fault proxy, with retries and without.
type rig struct {
	proxy           *fp.Proxy
	driver, patient storage.Store
	cfg             s3store.Config
	open            func(s3store.Config) (storage.Store, error)
}

// onRigs runs test for both drivers on both servers, each with a prefix of its own.
func onRigs(t *testing.T, test func(t *testing.T, r *rig)) {
	for _, kind := range []s3server.Kind{s3server.MinIO, s3server.Versity} {
		server := s3server.ForTest(t, kind)
		for _, d := range drivers {
			t.Run(fmt.Sprintf("%s on %s", d.name, kind), func(t *testing.T) {
				proxy := fp.ForTest(t, server.Endpoint)
				cfg := config(server)
				cfg.Endpoint, cfg.Prefix = proxy.URL, d.name
				s := open(t, d.open, cfg)
				policy := retry.Policy{FirstWait: time.Millisecond, MaxWait: 20 * time.Millisecond, Stall: 2 * time.Second}
				test(t, &rig{proxy, s, retry.New(s, policy, slog.New(slog.DiscardHandler)), cfg, d.open})
			})
		}
	}
}

func TestFaults(t *testing.T) {
	onRigs(t, func(t *testing.T, r *rig) {
		for _, c := range []struct {
			name string
			test func(*testing.T, *rig)
		}{
			{"answers", answers}, {"answers of something else", foreignAnswers}, {"redirects", redirects}, {"lists", badLists}, {"requests", requests}, {"corrupt upload", corruptUpload},
			{"cut downloads", cutDownloads}, {"cut uploads", cutUploads}, {"lost answers", lostAnswers}, {"black hole", blackHole},
			{"storm", storm},
		} {
			r.proxy.Reset()
			t.Run(c.name, func(t *testing.T) { c.test(t, r) })
		}
	})
}

func putOne(t *testing.T, s storage.Store) error {
	return s.Put(t.Context(), "one", strings.NewReader("one"), 3)
}

// answers: what an answer in place of the server's means, whatever was asked.
func answers(t *testing.T, r *rig) {
	storagetest.PutBytes(t, r.driver, "taken", []byte("x"))
	for _, c := range []struct {
		fault fp.Fault
		want  storage.Kind
	}{
		{fp.Fail(503, "SlowDown"), storage.KindTransient},
		{fp.Fail(500, "InternalError"), storage.KindTransient},
		{fp.Fail(500, ""), storage.KindTransient},
		{fp.Fail(502, ""), storage.KindTransient},
		{fp.Fail(429, ""), storage.KindTransient},
		{fp.Fail(409, "ConditionalRequestConflict"), storage.KindTransient},
		{fp.Fail(412, ""), storage.KindTransient},
		{fp.Fail(403, "RequestTimeTooSkewed"), storage.KindTransient},
		{fp.Fail(400, "RequestTimeout"), storage.KindTransient},
		{fp.Fail(403, "AccessDenied"), storage.KindDenied},
		{fp.Fail(403, "SomethingNew"), storage.KindDenied},
		{fp.Fail(400, "ExpiredToken"), storage.KindDenied},
		{fp.Fail(404, "NoSuchBucket"), storage.KindNoStore},
		{fp.Fail(501, "NotImplemented"), storage.KindOther},
		{fp.Fail(403, "InvalidObjectState"), storage.KindUnreadable},
		{fp.Fail(400, "KMS.DisabledException"), storage.KindUnreadable},
		{fp.Fail(400, "KMS.KMSInvalidStateException"), storage.KindUnreadable},
		{fp.Fail(507, "XMinioStorageFull"), storage.KindOther},
		{fp.Replace200(""), storage.KindTransient},
		{fp.Replace200("<html><body>Please log in</body></html>"), storage.KindTransient},
		{fp.Replace200("Please log in"), storage.KindTransient},
		{fp.Replace200Error("InternalError"), storage.KindTransient},
		{fp.Replace200Error("NoSuchKey"), storage.KindTransient},
		{fp.Replace200Error("PreconditionFailed"), storage.KindTransient},
		{fp.Replace200Error("AccessDenied"), storage.KindDenied},
		{fp.Answer(200, http.Header{"Etag": {`"abc"`}}, "<html>"), storage.KindTransient},
		{fp.Reset(0), storage.KindTransient},
	} {
		r.proxy.Reset()
		r.proxy.On(fp.Always, c.fault)
		_, statErr := r.driver.Stat(t.Context(), "taken")
		var listErr error
		for _, listErr = range r.driver.List(t.Context(), "", "") {
		}
		errs := map[string]error{"put": putOne(t, r.driver), "stat": statErr, "list": listErr, "delete": r.driver.Delete(t.Context(), "taken")}
		body, getErr := r.driver.Get(t.Context(), "taken", storage.Range{Length: 1})
		if getErr == nil {
			body.Close()
		}
		errs["get"] = getErr
		for op, err := range errs {
			if err == nil || storage.KindOf(err) != c.want {
				t.Errorf("%s with %q: want kind %d, got %d: %v", op, r.proxy.Requests()[0].Fault, c.want, storage.KindOf(err), err)
			}
		}
	}
	r.proxy.Reset()
	if _, err := r.driver.Stat(t.Context(), "one"); storage.KindOf(err) != storage.KindNotFound {
		t.Errorf("something was stored: %v", err)
	}
}

// foreignAnswers: what is not S3's is a mistake of configuration when it is the first thing that an endpoint says, and trouble that is
// tried again when the endpoint has spoken S3 before. It never says anything about an object.
func foreignAnswers(t *testing.T, r *rig) {
	r.proxy.On(fp.Always, fp.Replace200(`<?xml version="1.0"?><ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>`))
	for _, err := range open(t, r.open, r.cfg).List(t.Context(), "", "") {
		if storage.KindOf(err) != storage.KindNoStore {
			t.Errorf("a list of buckets as the first answer: %v", err)
		}
	}
	page := "<!DOCTYPE html><html><body>default backend</body></html>"
	for _, c := range []struct {
		fault fp.Fault
		first storage.Kind
		cause error
	}{
		{fp.Fail(404, ""), storage.KindNoStore, storage.ErrNotS3},
		{fp.Fail(405, ""), storage.KindNoStore, storage.ErrNotS3},
		{fp.Fail(400, ""), storage.KindNoStore, storage.ErrNotS3},
		{fp.Fail(401, ""), storage.KindDenied, storage.ErrDenied},
		{fp.Fail(403, ""), storage.KindDenied, storage.ErrDenied},
		{fp.Fail(407, ""), storage.KindDenied, storage.ErrProxy},
		{fp.Fail(501, ""), storage.KindOther, nil},
		{fp.Answer(302, http.Header{"Location": {"http://login.invalid/"}}, page), storage.KindNoStore, storage.ErrNotS3},
		{fp.Replace200(page), storage.KindNoStore, storage.ErrNotS3},
	} {
		r.proxy.Reset()
		r.proxy.Times(1, fp.Always, c.fault)
		new := open(t, r.open, r.cfg)
		if _, err := readAll(t, new, "one", storage.All); storage.KindOf(err) != c.first || c.cause != nil && !errors.Is(err, c.cause) {
			t.Errorf("as the first answer: want kind %d, got %d: %v", c.first, storage.KindOf(err), err)
		}
		key := fmt.Sprintf("foreign/%s", strings.Trim(r.proxy.Requests()[0].Fault, " "))
		key = strings.ReplaceAll(key, " ", "-")
		for what, do := range map[string]func(s storage.Store) error{
			"put": func(s storage.Store) error { return s.Put(t.Context(), key, strings.NewReader("x"), 1) },
			"get": func(s storage.Store) error { _, err := readAll(t, s, key, storage.All); return err },
			"list": func(s storage.Store) (err error) {
				for _, err = range s.List(t.Context(), "foreign/", "") {
				}
				return err
			},
			"stat":   func(s storage.Store) error { _, err := s.Stat(t.Context(), key); return err },
			"delete": func(s storage.Store) error { return s.Delete(t.Context(), key) },
		} {
			r.proxy.Reset()
			if what != "put" {
				storagetest.PutBytes(t, r.driver, key, []byte("x"))
			}
			r.proxy.On(fp.Always, c.fault)
			if err := do(r.driver); storage.KindOf(err) != storage.KindTransient {
				t.Errorf("%s, after S3 has been spoken: want a transient error, got kind %d: %v", what, storage.KindOf(err), err)
			}
			r.proxy.Reset()
			r.proxy.Times(1, fp.Always, c.fault)
			if err := do(r.patient); err != nil {
				t.Errorf("%s is not tried again: %v", what, err)
			}
			if err := r.driver.Delete(t.Context(), key); err != nil {
				t.Error(err)
			}
		}
	}
}

// redirects: credentials and data must not go where an answer points.
func redirects(t *testing.T, r *rig) {
	var strangers atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { strangers.Add(1) }))
	defer other.Close()
	for _, status := range []int{301, 302, 307, 308} {
		r.proxy.Reset()
		r.proxy.On(fp.Always, fp.Answer(status, http.Header{"Location": {other.URL}, "X-Amz-Bucket-Region": {"eu-south-9"}}, ""))
		_, getErr := r.driver.Get(t.Context(), "taken", storage.All)
		_, statErr := r.driver.Stat(t.Context(), "taken")
		for _, err := range []error{putOne(t, r.driver), getErr, statErr} {
			if storage.KindOf(err) != storage.KindNoStore || !strings.Contains(fmt.Sprint(err), "eu-south-9") {
				t.Errorf("%d: %v", status, err)
			}
		}
	}
	if n := strangers.Load(); n != 0 {
		t.Errorf("%d requests went to another host", n)
	}
}

// badLists: a list that is cut, repeats or goes back must not look like a list.
func badLists(t *testing.T, r *rig) {
	page := func(rest string, keys ...string) string {
		s := `<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>`
		for _, key := range keys {
			s += "<Contents><Key>" + r.cfg.Prefix + "/" + key + "</Key><Size>1</Size><LastModified>2026-11-21T00:00:00.000Z</LastModified></Contents>"
		}
		return s + rest + "</ListBucketResult>"
	}
	for _, c := range []struct {
		name, body string
		want       storage.Kind
	}{
		{"buckets", `<?xml version="1.0"?><ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>`, storage.KindTransient},
		{"truncated, no token", page("<IsTruncated>true</IsTruncated>", "a", "b"), storage.KindOther},
		{"goes back", page("<IsTruncated>false</IsTruncated>", "b", "a"), storage.KindOther},
		{"repeats", page("<IsTruncated>false</IsTruncated>", "b", "b"), storage.KindOther},
		{"same page for ever", page("<IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>", "a"), storage.KindOther},
		{"same empty page for ever", page("<IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>"), storage.KindOther},
		{"foreign prefix", strings.ReplaceAll(page("", "a"), r.cfg.Prefix, "zzz"), storage.KindOther},
		{"cut", page("", "a", "b")[:300], storage.KindTransient},
	} {
		r.proxy.Reset()
		r.proxy.On(fp.Always, fp.Replace200(c.body))
		var err error
		for _, err = range r.driver.List(t.Context(), "", "") {
		}
		if err == nil || storage.KindOf(err) != c.want {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// requests: each operation is one request, in a form that compatible stores know.
func requests(t *testing.T, r *rig) {
	for i, size := range []int{0, 5, 12 << 20} {
		r.proxy.Reset()
		data := storagetest.Random(uint64(i), size)
		storagetest.PutBytes(t, r.driver, fmt.Sprintf("shape/%d", i), data)
		seen := r.proxy.Requests()
		if len(seen) != 1 {
			t.Fatalf("put of %d bytes made %d requests", size, len(seen))
		}
		checkPut(t, seen[0].Header, seen[0].Length, data)
	}
	r.proxy.Reset()
	for range 3 {
		body, err := r.driver.Get(t.Context(), "shape/1", storage.All)
		if err != nil {
			t.Fatal(err)
		}
		body.Close()
		if _, err := r.driver.Stat(t.Context(), "shape/1"); err != nil {
			t.Fatal(err)
		}
		for range r.driver.List(t.Context(), "shape/", "") {
		}
		if err := r.driver.Delete(t.Context(), "none"); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(r.proxy.Requests()); n != 12 {
		t.Errorf("%d requests for 12 operations", n)
	}
}

func checkPut(t *testing.T, h http.Header, length int64, data []byte) {
	t.Helper()
	sum := sha256.Sum256(data)
	if got := h.Get("X-Amz-Content-Sha256"); got != hex.EncodeToString(sum[:]) {
		t.Errorf("the body's hash is not signed: %q", got)
	}
	if h.Get("If-None-Match") != "*" || length != int64(len(data)) {
		t.Errorf("If-None-Match: %q, length %d", h.Get("If-None-Match"), length)
	}
	for _, name := range []string{"X-Amz-Trailer", "Content-Encoding", "X-Amz-Sdk-Checksum-Algorithm", "Transfer-Encoding", "Expect"} {
		if h.Get(name) != "" {
			t.Errorf("header %s: %s", name, h.Get(name))
		}
	}
}

// TLS does not relieve us of the hash: it ends at the first load balancer.
func TestPutOverTLSSignsTheBody(t *testing.T) {
	for _, d := range drivers {
		data := []byte("some bytes")
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			checkPut(t, req.Header, req.ContentLength, data)
			w.Header().Set("ETag", `"x"`)
		}))
		defer server.Close()
		ca := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(ca, pemOf(server.Certificate().Raw), 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, d.open, s3store.Config{Bucket: "bucket", Endpoint: server.URL, CAFile: ca, Credentials: static("a", "b")})
		storagetest.PutBytes(t, s, "key", data)
	}
}

func corruptUpload(t *testing.T, r *rig) {
	r.proxy.Times(1, fp.Method("PUT"), fp.FlipUpload(70_000))
	data := storagetest.Random(9, 100_000)
	put := func(s storage.Store) error {
		return s.Put(t.Context(), "flipped", bytes.NewReader(data), int64(len(data)))
	}
	if err := put(r.driver); storage.KindOf(err) != storage.KindTransient {
		t.Errorf("the store took a corrupt body: %v", err)
	}
	if _, err := r.driver.Stat(t.Context(), "flipped"); storage.KindOf(err) != storage.KindNotFound {
		t.Errorf("%v", err)
	}
	if err := put(r.patient); err != nil {
		t.Error(err)
	}
}

func readAll(t *testing.T, s storage.Store, key string, r storage.Range) ([]byte, error) {
	t.Helper()
	body, err := s.Get(t.Context(), key, r)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

func cutDownloads(t *testing.T, r *rig) {
	data := storagetest.Random(10, 3<<20)
	storagetest.PutBytes(t, r.driver, "download", data)
	for _, how := range []fp.Cut{fp.CutReset, fp.CutClose, fp.CutLength, fp.CutChunked} {
		for _, rng := range []storage.Range{storage.All, {Offset: 1000}, {Offset: 1000, Length: 2 << 20}} {
			if how == fp.CutLength && rng == storage.All {
				continue // a lie that nothing in the answer gives away: the readers above check lengths and hashes
			}
			r.proxy.Reset()
			r.proxy.On(fp.Always, fp.CutBody(1<<20, how))
			if got, err := readAll(t, r.driver, "download", rng); storage.KindOf(err) != storage.KindTransient {
				t.Errorf("cut %d of %+v: %d bytes, %v", how, rng, len(got), err)
			}
			r.proxy.Reset()
			r.proxy.Times(3, fp.Method("GET"), fp.CutBody(500_000, how))
			want := data[rng.Offset:]
			if rng.Length > 0 {
				want = want[:rng.Length]
			}
			if got, err := readAll(t, r.patient, "download", rng); !bytes.Equal(got, want) || err != nil {
				t.Errorf("cut %d of %+v, resumed: %d bytes, %v", how, rng, len(got), err)
			}
		}
	}
}

func cutUploads(t *testing.T, r *rig) {
	data := storagetest.Random(11, 3<<20)
	for i, fault := range []fp.Fault{fp.Reset(1 << 20), fp.CutUpload(1 << 20), fp.CutUpload(0)} {
		key := fmt.Sprintf("upload/%d", i)
		r.proxy.Reset()
		r.proxy.On(fp.Always, fault)
		if err := r.driver.Put(t.Context(), key, bytes.NewReader(data), int64(len(data))); storage.KindOf(err) != storage.KindTransient {
			t.Errorf("%v", err)
		}
		r.proxy.Reset()
		if _, err := r.driver.Stat(t.Context(), key); storage.KindOf(err) != storage.KindNotFound {
			t.Errorf("a part was stored, or not even that is known: %v", err)
		}
		r.proxy.Times(2, fp.Method("PUT"), fault)
		if err := r.patient.Put(t.Context(), key, bytes.NewReader(data), int64(len(data))); err != nil {
			t.Error(err)
		}
		if got, err := readAll(t, r.driver, key, storage.All); !bytes.Equal(got, data) || err != nil {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
}

func lostAnswers(t *testing.T, r *rig) {
	put := func(s string) error {
		return r.patient.Put(t.Context(), "lost", strings.NewReader(s), int64(len(s)))
	}
	r.proxy.Times(1, fp.Method("PUT"), fp.DropResponse())
	if err := put("mine"); err != nil {
		t.Error(err)
	}
	if err := put("mine"); !errors.Is(err, storage.ErrExists) {
		t.Errorf("%v", err)
	}
	r.proxy.Times(1, fp.Method("PUT"), fp.DropResponse())
	if err := put("yours"); !errors.Is(err, storage.ErrExists) {
		t.Errorf("%v", err)
	}
	if got, err := readAll(t, r.driver, "lost", storage.All); string(got) != "mine" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	r.proxy.Times(1, fp.Method("DELETE"), fp.DropResponse())
	if err := r.patient.Delete(t.Context(), "lost"); err != nil {
		t.Error(err)
	}
}

func blackHole(t *testing.T, r *rig) {
	s := retry.New(r.driver, retry.Policy{FirstWait: time.Millisecond, Stall: 250 * time.Millisecond}, slog.New(slog.DiscardHandler))
	data := storagetest.Random(12, 2<<20)
	for _, method := range []string{"PUT", "GET", "HEAD"} {
		r.proxy.Times(1, fp.Method(method), fp.BlackHole())
	}
	if err := s.Put(t.Context(), "gap", bytes.NewReader(data), int64(len(data))); err != nil {
		t.Error(err)
	}
	if got, err := readAll(t, s, "gap", storage.All); !bytes.Equal(got, data) || err != nil {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := s.Stat(t.Context(), "gap"); err != nil {
		t.Error(err)
	}
}

// storm: a third of all requests fail in one way or another; nothing may be lost, doubled or changed.
func storm(t *testing.T, r *rig) {
	r.proxy.On(fp.Chance(1, 0.15), fp.Fail(503, "SlowDown"))
	r.proxy.On(fp.Chance(2, 0.05), fp.Reset(10_000))
	r.proxy.On(fp.And(fp.Method("GET"), fp.Chance(3, 0.1)), fp.CutBody(20_000, fp.CutReset))
	r.proxy.On(fp.And(fp.Method("PUT"), fp.Chance(4, 0.1)), fp.DropResponse())
	r.proxy.On(fp.And(fp.Method("PUT"), fp.Chance(5, 0.1)), fp.CutUpload(30_000))
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 15 {
				key, data := fmt.Sprintf("storm/%d-%02d", w, i), storagetest.Random(uint64(w*100+i), 50_000+i)
				if err := r.patient.Put(t.Context(), key, bytes.NewReader(data), int64(len(data))); err != nil {
					t.Error(err)
				}
				if got, err := readAll(t, r.patient, key, storage.All); !bytes.Equal(got, data) || err != nil {
					t.Errorf("%s: %d bytes, %v", key, len(got), err)
				}
			}
		})
	}
	wg.Wait()
	n := 0
	for _, err := range r.patient.List(t.Context(), "storm/", "") {
		if err != nil {
			t.Error(err)
		}
		n++
	}
	if n != 60 {
		t.Errorf("%d objects", n)
	}
}
