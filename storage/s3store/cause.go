package s3store

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/pgobj/pgobj/storage"
)

// causeOfCode is what S3's own error codes say of the reason.
var causeOfCode = map[string]error{
	"NoSuchBucket": storage.ErrNoBucket, "InvalidBucketName": storage.ErrNoBucket,
	"PermanentRedirect": storage.ErrWrongRegion, "TemporaryRedirect": storage.ErrWrongRegion, "Redirect": storage.ErrWrongRegion,
	"AuthorizationHeaderMalformed": storage.ErrWrongRegion, "IllegalLocationConstraintException": storage.ErrWrongRegion,
	"ExpiredToken": storage.ErrBadCredentials, "ExpiredTokenException": storage.ErrBadCredentials, "InvalidToken": storage.ErrBadCredentials,
	"InvalidAccessKeyId": storage.ErrBadCredentials, "SignatureDoesNotMatch": storage.ErrBadCredentials,
	"TokenRefreshRequired": storage.ErrBadCredentials, "XAdminUserNotFound": storage.ErrBadCredentials, "InvalidClientTokenId": storage.ErrBadCredentials,
	"RequestTimeTooSkewed": storage.ErrClock,
	"XMinioStorageFull":    storage.ErrFull, "QuotaExceeded": storage.ErrFull,
}

// causeOfNoAnswer reads the types of the errors of a connection; nil: nothing is known of it.
func causeOfNoAnswer(err error) error {
	dial, _ := errors.AsType[*net.OpError](err)
	_, refused := errors.AsType[*proxyRefusal](err)
	_, authority := errors.AsType[x509.UnknownAuthorityError](err)
	_, name := errors.AsType[x509.HostnameError](err)
	invalid, isInvalid := errors.AsType[x509.CertificateInvalidError](err)
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	_, record := errors.AsType[tls.RecordHeaderError](err)
	dns, isDNS := errors.AsType[*net.DNSError](err)
	switch {
	case refused, dial != nil && dial.Op == "proxyconnect":
		return storage.ErrProxy
	case name:
		return storage.ErrWrongName
	case isInvalid && invalid.Reason == x509.Expired:
		return storage.ErrExpired
	case authority, untrusted:
		return storage.ErrUntrusted
	case record, errors.Is(err, http.ErrSchemeMismatch):
		return storage.ErrNoTLS
	case isDNS && dns.IsNotFound:
		return storage.ErrUnknownHost
	}
	return nil
}

// proxyRefusal is a proxy's answer to CONNECT that is not a connection.
type proxyRefusal struct {
	proxy  string
	status int
}

func (e *proxyRefusal) Error() string {
	return fmt.Sprintf("the proxy %s refuses to connect: HTTP status %d %s", e.proxy, e.status, http.StatusText(e.status))
}

// connected is http.Transport's OnProxyConnectResponse.
func connected(_ context.Context, proxy *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	return &proxyRefusal{proxyName(proxy), answer.StatusCode}
}

// proxyName leaves out a user and a password.
func proxyName(u *url.URL) string { return u.Scheme + "://" + u.Host }

// proxyOf names the proxy that a request goes through; "" without one.
func (w *wire) proxyOf(req *http.Request) string {
	if u, err := w.inner().Proxy(req); err == nil && u != nil {
		return proxyName(u)
	}
	return ""
}

// consider completes a failure by what is known of the conversation so far. An endpoint that has spoken S3 is configured well:
// when something else answers in its place (a load balancer or an ingress that is being replaced, a proxy), or nobody it
// knows, that is trouble which may pass. Of one that never has, the same is a mistake of configuration.
func (w *wire) consider(req *http.Request, f *Failure) {
	f.Cause = causeOfCode[f.Code]
	if f.Status == 0 {
		f.Cause = causeOfNoAnswer(f.Err)
	}
	if f.Status != 0 && f.Err == nil && !f.foreign {
		w.spoken.Store(true)
		return
	}
	proxy := w.proxyOf(req)
	if f.foreign && f.Status == http.StatusProxyAuthRequired || f.foreign && proxy != "" && req.URL.Scheme == "http" {
		f.Cause = storage.ErrProxy
		f.Message += strings.TrimSuffix(" (a proxy has answered, or has passed this on: "+proxy, ": ") + ")"
	}
	switch {
	case w.spoken.Load():
		w.interrupted(f)
	case w.onlyTLS(req, f):
		f.Kind, f.Cause = storage.KindNoStore, storage.ErrOnlyTLS
	case f.foreign && f.Cause == nil && f.Kind == storage.KindDenied:
		f.Cause = storage.ErrNotS3
	case f.foreign && f.Cause == nil && (f.Kind == storage.KindNoStore || f.page):
		f.Kind, f.Cause = storage.KindNoStore, storage.ErrNotS3
	}
}

// interrupted is for what comes from an endpoint that has spoken S3 before, and does not now.
func (w *wire) interrupted(f *Failure) {
	f.Kind = storage.KindTransient
	if f.foreign {
		f.Message = "the storage has answered before, but now something else answers: " + f.Message
		if f.Cause == nil {
			f.Cause = storage.ErrInItsPlace
		}
	}
}

// onlyTLS finds out, once, whether a plain endpoint that has not said anything of use expects TLS. What such ports say to plain
// HTTP differs: a page, a few bytes, nothing.
func (w *wire) onlyTLS(req *http.Request, f *Failure) bool {
	dial, _ := errors.AsType[*net.OpError](f.Err)
	suspicious := f.foreign && f.Status == http.StatusBadRequest || f.Status == 0 && (dial == nil || dial.Op != "dial") && req.Context().Err() == nil
	if req.URL.Scheme != "http" || !suspicious || w.proxyOf(req) != "" {
		return false
	}
	w.probe.Do(func() {
		ctx, cancel := context.WithTimeout(req.Context(), 5*time.Second)
		defer cancel()
		// Nothing is sent, so nobody has to be trusted.
		d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
		host := req.URL.Host
		if req.URL.Port() == "" {
			host = net.JoinHostPort(req.URL.Hostname(), "80")
		}
		conn, err := d.DialContext(ctx, "tcp", host)
		if err == nil {
			conn.Close()
		}
		_, alert := errors.AsType[tls.AlertError](err)
		w.tlsPort = err == nil || alert
	})
	return w.tlsPort
}

// isPage says whether an answer's body is a page for people.
func isPage(body []byte) bool {
	body = bytes.ToLower(bytes.TrimSpace(body))
	return bytes.HasPrefix(body, []byte("<!doctype html")) || bytes.HasPrefix(body, []byte("<html"))
}
