package faultproxy_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	fp "github.com/pgobj/pgobj/test/faultproxy"
)

// The faults themselves are tested where they are used, on S3 drivers and real servers; here is what
// tests rely on without noticing.

func upstream(t *testing.T) (url string, hits *atomic.Int32) {
	hits = new(atomic.Int32)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Host", r.Host)
		w.Write(append([]byte("got "), body...))
	}))
	t.Cleanup(s.Close)
	return s.URL, hits
}

func send(t *testing.T, method, url, body string) (string, http.Header, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return string(data), resp.Header, err
}

func TestForwardsWithTheHostThatWasSigned(t *testing.T) {
	up, _ := upstream(t)
	p := fp.ForTest(t, up)
	body, header, err := send(t, "PUT", p.URL+"/bucket/key?x=y", "data")
	if body != "got data" || "http://"+header.Get("X-Host") != p.URL || err != nil {
		t.Errorf("%q, %q, %v", body, header.Get("X-Host"), err)
	}
	if r := p.Requests(); len(r) != 1 || r[0].N != 1 || r[0].Method != "PUT" || r[0].Path != "/bucket/key" || r[0].Query != "x=y" || r[0].Length != 4 {
		t.Errorf("%+v", r)
	}
}

func TestRulesSelect(t *testing.T) {
	up, hits := upstream(t)
	p := fp.ForTest(t, up)
	p.Times(2, fp.And(fp.Method("PUT"), fp.Path("^/b/wal/")), fp.Fail(503, "SlowDown"))
	p.On(fp.Nth(6), fp.DropResponse())
	var failed []int
	for i, path := range []string{"/b/wal/1", "/b/cat/1", "/b/wal/2", "/b/wal/3", "/b/cat/2", "/b/cat/3", "/b/cat/4"} {
		if body, _, err := send(t, "PUT", p.URL+path, "x"); body != "got x" || err != nil {
			failed = append(failed, i+1)
		}
	}
	if !slices.Equal(failed, []int{1, 3, 6}) {
		t.Errorf("failed: %v", failed)
	}
	if hits.Load() != 5 || p.Count(fp.Path("wal")) != 3 {
		t.Errorf("%d forwarded, %d of WAL", hits.Load(), p.Count(fp.Path("wal")))
	}
}

// Hooks come before the request is forwarded, or after it was and before the answer.
func TestHooks(t *testing.T) {
	up, hits := upstream(t)
	p := fp.ForTest(t, up)
	var before, after int32 = -1, -1
	p.On(fp.Nth(1), fp.Hook(func(fp.Request) { before = hits.Load() }))
	p.On(fp.Nth(1), fp.Reset(0))
	p.On(fp.Nth(2), fp.DropResponse(func(fp.Request) { after = hits.Load() }))
	for range 2 {
		if _, _, err := send(t, "POST", p.URL, "x"); err == nil {
			t.Error("answered")
		}
	}
	if before != 0 || after != 1 || hits.Load() != 1 {
		t.Errorf("before: %d, after: %d, in all: %d", before, after, hits.Load())
	}
}

func TestHoldAndDelayLetPass(t *testing.T) {
	up, hits := upstream(t)
	p := fp.ForTest(t, up)
	release := make(chan struct{})
	p.On(fp.Nth(1), fp.Hook(func(fp.Request) { time.AfterFunc(20*time.Millisecond, func() { close(release) }) }))
	p.On(fp.Nth(1), fp.Hold(release))
	p.On(fp.Always, fp.Delay(time.Millisecond))
	for range 2 {
		if body, _, err := send(t, "PUT", p.URL, "x"); body != "got x" || err != nil {
			t.Errorf("%q, %v", body, err)
		}
	}
	select {
	case <-release:
	default:
		t.Error("was not held")
	}
	if hits.Load() != 2 {
		t.Error("not forwarded")
	}
}

func TestChanceIsTheSameEachTime(t *testing.T) {
	chosen := func(seed uint64) (n []int) {
		for i := range 1000 {
			if fp.Chance(seed, 0.2)(fp.Request{N: i}) {
				n = append(n, i)
			}
		}
		return n
	}
	a, b := chosen(1), chosen(1)
	if !slices.Equal(a, b) || slices.Equal(a, chosen(2)) || len(a) < 120 || len(a) > 280 {
		t.Errorf("%d and %d of 1000", len(a), len(b))
	}
}
