// Package faultproxy is an HTTP proxy that stands in front of an S3 server and misbehaves as told:
// refuses, delays, cuts, loses and invents answers. It forwards requests with their Host header, which
// is part of an S3 signature, so that the server accepts what was signed for the proxy. Everything is
// decided by the number and kind of a request, so that a run can be repeated.
package faultproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"sync"
	"testing"
)

// Request is one request as it arrived.
type Request struct {
	N      int // 1 for the first
	Method string
	Path   string // /bucket/key
	Query  string
	Header http.Header
	Length int64  // of the body
	Fault  string // what was done to it; "" when it was forwarded as it is
}

// When selects requests.
type When func(Request) bool

// Always selects every request.
func Always(Request) bool { return true }

// Nth selects requests by number, from 1.
func Nth(numbers ...int) When { return func(r Request) bool { return slices.Contains(numbers, r.N) } }

// Method selects by HTTP method.
func Method(m string) When { return func(r Request) bool { return r.Method == m } }

// Path selects by a regular expression over /bucket/key.
func Path(expr string) When {
	re := regexp.MustCompile(expr)
	return func(r Request) bool { return re.MatchString(r.Path) }
}

// And selects what all of them select.
func And(all ...When) When {
	return func(r Request) bool {
		return !slices.ContainsFunc(all, func(w When) bool { return !w(r) })
	}
}

// Chance selects requests with the probability p. The same seed selects the same numbers.
func Chance(seed uint64, p float64) When {
	return func(r Request) bool { return rand.New(rand.NewPCG(seed, uint64(r.N))).Float64() < p }
}

// Proxy is a running proxy.
type Proxy struct {
	URL string // http://127.0.0.1:port

	upstream  *url.URL
	transport *http.Transport
	server    *http.Server
	closed    chan struct{}

	mu    sync.Mutex
	rules []*rule
	seen  []Request
	held  []net.Conn // hijacked, to be closed at the end
}

type rule struct {
	when  When
	fault Fault
	left  int // times; negative: for ever
}

// Start runs a proxy in front of upstream (http://host:port). Close ends it.
func Start(upstream string) (*Proxy, error) {
	u, err := url.Parse(upstream)
	if err != nil || u.Scheme != "http" {
		return nil, fmt.Errorf("fault proxy: upstream %q must be http://host:port", upstream)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("fault proxy: %w", err)
	}
	p := &Proxy{URL: "http://" + l.Addr().String(), upstream: u, closed: make(chan struct{}),
		transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}}
	p.server = &http.Server{Handler: p}
	go p.server.Serve(l) // Close ends it
	return p, nil
}

// ForTest is Start for a test; the proxy ends with the test.
func ForTest(t testing.TB, upstream string) *Proxy {
	t.Helper()
	p, err := Start(upstream)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// Close ends the proxy and all its connections, those in a black hole too.
func (p *Proxy) Close() {
	close(p.closed)
	p.server.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.held {
		c.Close()
	}
	p.transport.CloseIdleConnections()
}

// On applies f to every request that when selects. Rules are tried in the order in which they were made; one
// that answers (or does not let anyone answer) ends the request, others let it pass on.
func (p *Proxy) On(when When, f Fault) { p.Times(-1, when, f) }

// Times is On for the first n requests selected.
func (p *Proxy) Times(n int, when When, f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = append(p.rules, &rule{when, f, n})
}

// Reset forgets rules and requests; numbers begin at 1 again.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules, p.seen = nil, nil
}

// Requests returns all requests so far, in the order in which they arrived.
func (p *Proxy) Requests() []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.seen)
}

// Count is the number of requests that when selects.
func (p *Proxy) Count(when When) int {
	n := 0
	for _, r := range p.Requests() {
		if when(r) {
			n++
		}
	}
	return n
}

// ServeHTTP handles one request.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{p: p, w: w, r: r}
	var faults []Fault
	p.mu.Lock()
	x.req = Request{N: len(p.seen) + 1, Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Header: r.Header.Clone(), Length: r.ContentLength}
	for _, rule := range p.rules {
		if rule.left != 0 && rule.when(x.req) {
			rule.left--
			faults = append(faults, rule.fault)
			x.req.Fault += rule.fault.name + " "
		}
	}
	p.seen = append(p.seen, x.req)
	p.mu.Unlock()
	for _, f := range faults {
		if f.apply(x) {
			return
		}
	}
	resp, err := x.forward()
	if err != nil {
		x.reset()
		return
	}
	defer resp.Body.Close()
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	if _, err := io.Copy(w, resp.Body); err != nil {
		x.reset()
	}
}

// exchange is one request on its way.
type exchange struct {
	p   *Proxy
	w   http.ResponseWriter
	r   *http.Request
	req Request
}

// forward sends the request on.
func (x *exchange) forward() (*http.Response, error) {
	out := x.r.Clone(x.r.Context())
	out.URL.Scheme, out.URL.Host = x.p.upstream.Scheme, x.p.upstream.Host
	out.RequestURI, out.Close = "", false
	out.Header.Del("Connection")
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil // keep the transport from adding its own
	}
	if out.ContentLength == 0 {
		out.Body = nil
	}
	return x.p.transport.RoundTrip(out)
}

// hijack takes the connection away from the HTTP server. It is closed with the proxy at the latest.
func (x *exchange) hijack() (*net.TCPConn, error) {
	conn, _, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil, errors.Join(errors.New("not a TCP connection"), conn.Close())
	}
	x.p.mu.Lock()
	x.p.held = append(x.p.held, tcp)
	x.p.mu.Unlock()
	return tcp, nil
}

// reset ends the connection with a TCP reset.
func (x *exchange) reset() {
	if conn, err := x.hijack(); err == nil {
		conn.SetLinger(0)
		conn.Close()
	}
}

// wait returns when c is closed, or nobody waits for the answer any more.
func (x *exchange) wait(ctx context.Context, c <-chan struct{}) {
	select {
	case <-c:
	case <-x.p.closed:
	case <-ctx.Done():
	}
}
