package faultproxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Fault is something that happens to a request.
type Fault struct {
	name  string
	apply func(*exchange) (done bool)
}

// Fail answers status without forwarding. With a code it is S3's error of that name, without one a
// page as a proxy or web server would send.
func Fail(status int, code string) Fault {
	body := "<html><body>something is wrong here</body></html>"
	if code != "" {
		body = errorXML(code)
	}
	f := Answer(status, nil, body)
	f.name = fmt.Sprintf("fail %d %s", status, code)
	return f
}

func errorXML(code string) string {
	return `<?xml version="1.0" encoding="UTF-8"?>` + "\n<Error><Code>" + code + "</Code><Message>made by the fault proxy</Message><RequestId>0</RequestId></Error>"
}

// Replace200 answers 200 with that body, without forwarding.
func Replace200(body string) Fault {
	f := Answer(http.StatusOK, nil, body)
	f.name = "replace"
	return f
}

// Replace200Error answers 200 with S3's error of that code in the body.
func Replace200Error(code string) Fault { return Replace200(errorXML(code)) }

// Answer gives an answer of the caller's making, without forwarding.
func Answer(status int, header http.Header, body string) Fault {
	return Fault{fmt.Sprintf("answer %d", status), func(x *exchange) bool {
		io.Copy(io.Discard, x.r.Body) // else the server resets the connection and the answer may be lost
		for name, values := range header {
			x.w.Header()[name] = values
		}
		if x.w.Header().Get("Content-Type") == "" && strings.HasPrefix(body, "<?xml") {
			x.w.Header().Set("Content-Type", "application/xml")
			x.w.Header().Set("X-Amz-Request-Id", "0")
		}
		x.w.WriteHeader(status)
		io.WriteString(x.w, body)
		return true
	}}
}

// Delay waits, then lets the request pass on.
func Delay(d time.Duration) Fault {
	return Fault{"delay", func(x *exchange) bool {
		ctx, cancel := context.WithTimeout(x.r.Context(), d)
		defer cancel()
		x.wait(ctx, nil)
		return false
	}}
}

// Hold waits until release is closed, then lets the request pass on.
func Hold(release <-chan struct{}) Fault {
	return Fault{"hold", func(x *exchange) bool {
		x.wait(context.Background(), release)
		return false
	}}
}

// Hook calls f, then lets the request pass on.
func Hook(f func(Request)) Fault {
	return Fault{"hook", func(x *exchange) bool {
		f(x.req)
		return false
	}}
}

// SetHeader gives the request another value of a header, then lets it pass on.
func SetHeader(name, value string) Fault {
	return Fault{"set header", func(x *exchange) bool {
		x.r.Header.Set(name, value)
		return false
	}}
}

// Reset ends the connection with a TCP reset, after reading n bytes of the request's body, without
// forwarding.
func Reset(n int64) Fault {
	return Fault{"reset", func(x *exchange) bool {
		io.CopyN(io.Discard, x.r.Body, n)
		x.reset()
		return true
	}}
}

// BlackHole takes the request and never answers, nor reads its body.
func BlackHole() Fault {
	return Fault{"black hole", func(x *exchange) bool {
		x.hijack()
		return true
	}}
}

// CutUpload forwards n bytes of the request's body, and breaks off on both sides.
func CutUpload(n int64) Fault {
	return Fault{"cut upload", func(x *exchange) bool {
		x.r.Body = io.NopCloser(io.MultiReader(io.LimitReader(x.r.Body, n), broken{}))
		if resp, err := x.forward(); err == nil {
			resp.Body.Close()
		}
		x.reset()
		return true
	}}
}

// FlipUpload forwards the request with one bit of its body changed, in byte n.
func FlipUpload(n int64) Fault {
	return Fault{"flip upload", func(x *exchange) bool {
		x.r.Body = &flipper{x.r.Body, n}
		return false
	}}
}

// Twice forwards the request twice, and answers what the server says the second time: as a load balancer does that misses
// the first answer and asks another of the servers behind it.
func Twice() Fault {
	return Fault{"twice", func(x *exchange) bool {
		body, err := io.ReadAll(x.r.Body)
		if err != nil {
			x.reset()
			return true
		}
		x.r.Body = io.NopCloser(bytes.NewReader(body))
		if resp, err := x.forward(); err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		x.r.Body = io.NopCloser(bytes.NewReader(body))
		return false
	}}
}

type flipper struct {
	io.ReadCloser
	left int64
}

func (f *flipper) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if f.left >= 0 && f.left < int64(n) {
		p[f.left] ^= 1
	}
	f.left -= int64(n)
	return n, err
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// DropResponse forwards the request, reads the whole answer, calls after, and resets the connection
// instead of answering.
func DropResponse(after ...func(Request)) Fault {
	return Fault{"drop response", func(x *exchange) bool {
		if resp, err := x.forward(); err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		for _, f := range after {
			f(x.req)
		}
		x.reset()
		return true
	}}
}

// Cut is how a body ends too early.
type Cut int

const (
	CutReset   Cut = iota // TCP reset
	CutClose              // clean close, while Content-Length promised more
	CutLength             // Content-Length is that of the part
	CutChunked            // no Content-Length, and the chunked encoding ends as it should
	CutHang               // not at all: nothing more comes, and the connection stays open
)

// CutBody forwards the request and passes on n bytes of the answer's body only, and then calls after.
func CutBody(n int64, how Cut, after ...func(Request)) Fault {
	return Fault{fmt.Sprintf("cut body %d", how), func(x *exchange) bool {
		resp, err := x.forward()
		if err != nil {
			x.reset()
			return true
		}
		body, _ := io.ReadAll(io.LimitReader(resp.Body, n))
		resp.Body.Close()
		conn, err := x.hijack()
		if err != nil {
			return true
		}
		if how != CutHang {
			defer conn.Close()
		}
		var head bytes.Buffer
		fmt.Fprintf(&head, "HTTP/1.1 %s\r\n", resp.Status)
		header := resp.Header.Clone()
		switch how {
		case CutLength:
			header.Set("Content-Length", fmt.Sprint(len(body)))
		case CutChunked:
			header.Del("Content-Length")
			header.Set("Transfer-Encoding", "chunked")
			body = fmt.Appendf(nil, "%x\r\n%s\r\n0\r\n\r\n", len(body), body)
		}
		header.Set("Connection", "close")
		header.Write(&head)
		head.WriteString("\r\n")
		conn.Write(head.Bytes())
		conn.Write(body)
		for _, f := range after {
			f(x.req)
		}
		if how == CutReset {
			conn.SetLinger(0)
		}
		return true
	}}
}
