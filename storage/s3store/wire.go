package s3store

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgobj/pgobj/storage"
)

// wire is the transport that an SDK sends its requests through. It hands an answer on only when it is a
// success in S3's protocol; all else becomes a Failure, so that no SDK gets to follow a redirect, to
// retry, or to guess.
type wire struct {
	chain  *chain
	inner  func() *http.Transport
	spoken atomic.Bool // the endpoint has spoken S3 at least once

	probe   sync.Once
	tlsPort bool // what probe has found
}

func newWire(c *chain, extra []*x509.Certificate) *wire {
	// The system's certificates take milliseconds to load: not before the first request.
	return &wire{chain: c, inner: sync.OnceValue(func() *http.Transport { return transport(extra) })}
}

func transport(extra []*x509.Certificate) *http.Transport {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(extra) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		for _, c := range extra {
			pool.AddCert(c)
		}
		conf.RootCAs = pool
	}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, OnProxyConnectResponse: connected,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:     conf, // HTTP/1.1 only: workers want a connection each, not one shared window
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 64, // the default of 2 makes every worker but two dial for each request
		IdleConnTimeout:     50 * time.Second,
		WriteBufferSize:     128 << 10,
		ReadBufferSize:      128 << 10,
		DisableCompression:  true, // lengths and ranges are those of the stored bytes
	}
}

func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := w.inner().RoundTrip(req)
	var f *Failure
	if err != nil {
		f = noAnswer(req.Context(), err)
	} else {
		resp, f = judge(req, resp)
	}
	if f == nil {
		w.spoken.Store(true)
		return resp, nil
	}
	w.consider(req, f)
	if f.Kind == storage.KindDenied && f.stale() && w.chain.renew(req.Context(), accessKey(req), req.Header.Get("X-Amz-Security-Token")) {
		f.Kind, f.Message = storage.KindTransient, f.Message+" (new credentials are at hand)"
	}
	if c, ok := req.Context().Value(callKey{}).(*call); ok {
		c.failed(f)
	}
	return nil, f
}

// accessKey is the access key id that a request was signed with.
func accessKey(req *http.Request) string {
	_, rest, _ := strings.Cut(req.Header.Get("Authorization"), "Credential=")
	key, _, _ := strings.Cut(rest, "/")
	return key
}

func parsePEM(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return certs, nil
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
}
