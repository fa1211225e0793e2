package s3store

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgobj/pgobj/storage"
)

// Failure is a request that did not succeed: an answer with its Status and S3 Code, or Err alone when
// there was none.
type Failure struct {
	Kind    storage.Kind
	Status  int    // 0: no answer
	Code    string // S3's error code; "": the answer was not S3's protocol
	Message string
	ID      string // the store's id of the request, for its operator
	Err     error
	Cause   error // one of storage's causes; nil: not known

	foreign bool // the answer is not in S3's protocol
	page    bool // it is a page for people
}

func (f *Failure) Error() string {
	if f.Err != nil {
		return f.Err.Error()
	}
	s := fmt.Sprintf("HTTP status %d", f.Status)
	if f.Code != "" {
		s += " " + f.Code
	}
	if f.Message != "" {
		s += ": " + f.Message
	}
	if f.ID != "" {
		s += " (request " + f.ID + ")"
	}
	return s
}

func (f *Failure) Unwrap() []error {
	return slices.DeleteFunc([]error{f.Err, f.Cause}, func(err error) bool { return err == nil })
}

const (
	maxErrorBody = 64 << 10
	maxListBody  = 16 << 20 // 1,000 keys of 1,024 bytes, every byte escaped, need 4 MiB
)

// errorDoc is S3's <Error>, and any other document's root element.
type errorDoc struct {
	XMLName   xml.Name
	Code      string
	Message   string
	Region    string
	RequestID string `xml:"RequestId"`

	StorageClass, AccessTier string // of InvalidObjectState

	// of <ListBucketResult>
	IsTruncated           bool
	NextContinuationToken string
}

// judge decides whether resp is the success of req. When it is not, the body is closed. A success is
// believed only in the form that S3 gives it: proxies, captive portals and stores in trouble
// answer 200 with a page of their own, and that must never count as a stored object or an empty list.
func judge(req *http.Request, resp *http.Response) (*http.Response, *Failure) {
	switch {
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return nil, refusal(req, resp)
	case req.Method == http.MethodPut:
		return judgeEmpty(resp, resp.StatusCode == http.StatusOK && resp.Header.Get("ETag") != "")
	case req.Method == http.MethodDelete:
		return judgeEmpty(resp, resp.StatusCode == http.StatusNoContent)
	case req.Method == http.MethodPost && req.URL.Query().Has("delete"):
		return judgeDelete(req, resp)
	case req.URL.Query().Get("list-type") == "2":
		return judgeList(req, resp)
	case req.Method == http.MethodGet || req.Method == http.MethodHead:
		return judgeObject(req, resp)
	}
	resp.Body.Close()
	return nil, &Failure{Kind: storage.KindOther, Status: resp.StatusCode, Message: "request of a kind that no driver makes"}
}

// readAnswer is the body of an answer, up to a limit, with the failure of the connection.
func readAnswer(resp *http.Response, limit int64, what string) ([]byte, *Failure) {
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit))
	if err != nil {
		return body, &Failure{Kind: storage.KindTransient, Err: fmt.Errorf("read %s: %w", what, err)}
	}
	return body, nil
}

// judgeEmpty is for answers without a body.
func judgeEmpty(resp *http.Response, ok bool) (*http.Response, *Failure) {
	body, failure := readAnswer(resp, maxErrorBody, "answer")
	if failure != nil {
		return nil, failure
	}
	if body = bytes.TrimSpace(body); !ok || len(body) > 0 {
		return nil, strange(resp, body)
	}
	resp.Body = http.NoBody
	return resp, nil
}

// judgeList requires a whole <ListBucketResult>: of a body that is cut, of another document (a wrong
// endpoint may answer with its list of buckets) or of a page that has no next one although it is
// truncated, an SDK makes a shorter list without a word.
func judgeList(req *http.Request, resp *http.Response) (*http.Response, *Failure) {
	body, failure := readAnswer(resp, maxListBody, "list")
	if failure != nil {
		return nil, failure
	}
	var doc errorDoc
	if xml.Unmarshal(body, &doc) != nil || doc.XMLName.Local == "Error" || doc.XMLName.Local == "html" {
		return nil, strange(resp, body)
	}
	if doc.XMLName.Local != "ListBucketResult" {
		return nil, &Failure{Kind: storage.KindNoStore, Status: resp.StatusCode, foreign: true,
			Message: "asked for a list of objects, got <" + doc.XMLName.Local + ">"}
	}
	if next := doc.NextContinuationToken; doc.IsTruncated && (next == "" || next == req.URL.Query().Get("continuation-token")) {
		return nil, &Failure{Kind: storage.KindOther, Status: resp.StatusCode, Message: "list is truncated, but the store does not say where to continue"}
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// judgeObject requires the headers of an object, a length and, for a range, just the bytes asked for.
func judgeObject(req *http.Request, resp *http.Response) (*http.Response, *Failure) {
	bad := func(kind storage.Kind, format string, args ...any) (*http.Response, *Failure) {
		resp.Body.Close()
		return nil, &Failure{Kind: kind, Status: resp.StatusCode, Message: fmt.Sprintf(format, args...)}
	}
	asked := req.Header.Get("Range")
	if _, err := http.ParseTime(resp.Header.Get("Last-Modified")); err != nil || resp.Header.Get("ETag") == "" {
		body, _ := readAnswer(resp, maxErrorBody, "answer")
		return nil, strange(resp, body)
	}
	switch {
	case resp.ContentLength < 0:
		return bad(storage.KindTransient, "answer has no Content-Length")
	case asked == "" && resp.StatusCode != http.StatusOK:
		return bad(storage.KindTransient, "unexpected status for a whole object")
	case asked == "":
		return resp, nil
	case resp.StatusCode != http.StatusPartialContent:
		return bad(storage.KindOther, "store ignores the Range of a request")
	}
	var from, to, total int64
	if n, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%d", &from, &to, &total); n != 3 || err != nil {
		return bad(storage.KindTransient, "answer has no usable Content-Range: %q", resp.Header.Get("Content-Range"))
	}
	first, last, _ := strings.Cut(strings.TrimPrefix(asked, "bytes="), "-")
	wantFrom, _ := strconv.ParseInt(first, 10, 64)
	wantTo := total - 1
	if last != "" {
		end, _ := strconv.ParseInt(last, 10, 64)
		wantTo = min(end, wantTo)
	}
	if from != wantFrom || to != wantTo || resp.ContentLength != to-from+1 {
		return bad(storage.KindTransient, "asked for %s, got %d bytes as %q", asked, resp.ContentLength, resp.Header.Get("Content-Range"))
	}
	return resp, nil
}

// strange is a 2xx answer that is not S3's success. S3 may send an <Error> with status 200.
func strange(resp *http.Response, body []byte) *Failure {
	f := &Failure{Kind: storage.KindTransient, Status: resp.StatusCode, ID: resp.Header.Get("x-amz-request-id")}
	var doc errorDoc
	if xml.Unmarshal(body, &doc) == nil && doc.XMLName.Local == "Error" && doc.Code != "" {
		f.Code, f.Message = doc.Code, doc.Message
		// Only a refusal of the credentials is believed; "absent" and "exists" come with 404 and 412.
		if kindOf(f, http.MethodPost) == storage.KindDenied {
			f.Kind = storage.KindDenied
		}
		return f
	}
	f.Message, f.foreign, f.page = "answer is not S3's: "+snippet(body), true, isPage(body)
	return f
}

// refusal classifies an answer of 3xx, 4xx or 5xx.
func refusal(req *http.Request, resp *http.Response) *Failure {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	resp.Body.Close()
	// Half of an <Error> must not pass for the page of something that is no object store. Status 400 is what a
	// TLS port says to plain HTTP, and then resets the connection: that does not get better.
	if err != nil && resp.StatusCode != http.StatusBadRequest {
		return &Failure{Kind: storage.KindTransient, Status: resp.StatusCode, Err: fmt.Errorf("read answer with HTTP status %d: %w", resp.StatusCode, err)}
	}
	f := &Failure{Status: resp.StatusCode, ID: resp.Header.Get("x-amz-request-id")}
	var doc errorDoc
	if xml.Unmarshal(body, &doc) == nil && doc.XMLName.Local == "Error" {
		f.Code, f.Message = doc.Code, doc.Message
	}
	if f.Code == "" && f.Message == "" {
		f.Message = snippet(body)
	}
	region := doc.Region
	if region == "" {
		region = resp.Header.Get("x-amz-bucket-region")
	}
	if region != "" && (f.Status/100 == 3 || f.Code == "AuthorizationHeaderMalformed") {
		f.Message += " (the bucket is in region " + region + ")"
	}
	if class := strings.Trim(doc.StorageClass+", "+doc.AccessTier, ", "); f.Code == "InvalidObjectState" && class != "" {
		f.Message += " (it is in storage class " + class + ")"
	}
	if f.Code == "RequestTimeTooSkewed" {
		f.Message += " (this host's clock says " + time.Now().UTC().Format(http.TimeFormat) + ", the store's " + resp.Header.Get("Date") + ")"
	}
	f.Kind = kindOf(f, req.Method)
	f.foreign = f.Code == "" && resp.Header.Get("x-amz-bucket-region") == ""
	if f.Code == "InvalidArgument" && strings.Contains(f.Message, "API port") { // MinIO's console, which has no code of its own for that
		f.Kind, f.foreign = storage.KindNoStore, true
	}
	return f
}

// kindOf reads the error code first, then the status. Only a code proves that S3 is speaking, so
// without one nothing is "not found" or "exists". HEAD's answers have no body: Stat asks again.
func kindOf(f *Failure, method string) storage.Kind {
	switch f.Code {
	case "NoSuchKey":
		if f.Status == http.StatusNotFound {
			return storage.KindNotFound
		}
	case "NoSuchBucket", "InvalidBucketName", "PermanentRedirect", "TemporaryRedirect", "Redirect",
		"AuthorizationHeaderMalformed", "IllegalLocationConstraintException":
		return storage.KindNoStore
	case "PreconditionFailed":
		if method == http.MethodPut && f.Status == http.StatusPreconditionFailed {
			return storage.KindExists
		}
	case "AccessDenied", "ExpiredToken", "ExpiredTokenException", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch",
		"TokenRefreshRequired", "XAdminUserNotFound", "AllAccessDisabled", "AccountProblem", "InvalidSecurity", "NotSignedUp", "InvalidClientTokenId":
		return storage.KindDenied
	case "ConditionalRequestConflict", "OperationAborted", "RequestTimeTooSkewed", "RequestTimeout", "SlowDown", "SlowDownRead",
		"SlowDownWrite", "InternalError", "ServiceUnavailable", "Throttling", "ThrottlingException", "RequestLimitExceeded",
		"BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch":
		return storage.KindTransient
	case "InvalidObjectState", "KMS.DisabledException", "KMS.KMSInvalidStateException", "KMS.InvalidStateException", "KMS.NotFoundException":
		return storage.KindUnreadable
	case "NotImplemented", "XMinioStorageFull", "QuotaExceeded":
		return storage.KindOther
	}
	switch s := f.Status; {
	case s == http.StatusUnauthorized, s == http.StatusForbidden, s == http.StatusProxyAuthRequired:
		return storage.KindDenied
	case s/100 == 3:
		return storage.KindNoStore
	case f.Code == "" && (s == http.StatusNotFound || s == http.StatusBadRequest || s == http.StatusMethodNotAllowed):
		return storage.KindNoStore
	case s == http.StatusNotImplemented:
		return storage.KindOther
	case s >= 500, s == http.StatusRequestTimeout, s == http.StatusTooManyRequests, f.Code == "":
		return storage.KindTransient
	}
	return storage.KindOther
}

// stale reports whether other credentials may help.
func (f *Failure) stale() bool {
	switch f.Code {
	case "ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId", "SignatureDoesNotMatch":
		return true
	}
	return false
}

// noAnswer classifies an error of the connection. Certificates that do not verify and names that do not
// exist fail fast, as they are mistakes of configuration; once this endpoint has spoken S3, consider takes them for trouble: a
// name that is gone is a resolver's, and a backup of many hours must not die of it.
func noAnswer(ctx context.Context, err error) *Failure {
	f := &Failure{Kind: storage.KindTransient, Err: err}
	if ctx.Err() != nil {
		f.Err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		return f
	}
	switch cause := causeOfNoAnswer(err); cause {
	case storage.ErrUntrusted, storage.ErrWrongName, storage.ErrExpired:
		f.Kind, f.Err = storage.KindNoStore, fmt.Errorf("server's certificate is not trusted: %w", err)
	case storage.ErrNoTLS:
		f.Kind, f.Err = storage.KindNoStore, fmt.Errorf("server does not speak TLS: %w", err)
	case storage.ErrUnknownHost:
		f.Kind = storage.KindNoStore
	case storage.ErrProxy:
		if refusal, ok := errors.AsType[*proxyRefusal](err); ok {
			f.Kind = kindOf(&Failure{Status: refusal.status}, http.MethodConnect)
		}
	}
	return f
}

// snippet is the beginning of a foreign answer, fit for one line.
func snippet(body []byte) string {
	const most = 120
	s := strings.Join(strings.Fields(string(body[:min(len(body), 4*most)])), " ")
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strconv.QuoteToASCII(s)
}
