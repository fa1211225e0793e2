package faultproxy

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// Archived has the objects whose /bucket/key a regular expression finds lie in an archive, as S3 has them after a lifecycle rule: GET
// is refused, HEAD and listings tell the storage class.
func Archived(expr, class string) (When, Fault) {
	keys := regexp.MustCompile(expr)
	refusal := strings.Replace(errorXML("InvalidObjectState"), "</Error>", "<StorageClass>"+class+"</StorageClass></Error>", 1)
	return Always, Fault{"archived", func(x *exchange) bool {
		hit := keys.MatchString(x.req.Path)
		switch {
		case hit && x.req.Method == http.MethodGet:
			return Answer(http.StatusForbidden, nil, refusal).apply(x)
		case hit && x.req.Method == http.MethodHead:
			x.w.Header().Set("X-Amz-Storage-Class", class)
		case strings.Contains(x.req.Query, "list-type=2"):
			return relist(x, func(key string) bool { return keys.MatchString(x.req.Path + "/" + key) }, class)
		}
		return false
	}}
}

// KeyDisabled has the objects whose /bucket/key a regular expression finds encrypted with a key that is disabled.
func KeyDisabled(expr string) (When, Fault) {
	read := func(r Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }
	return And(read, Path(expr)), Fail(http.StatusBadRequest, "KMS.DisabledException")
}

var (
	entry      = regexp.MustCompile(`(?s)<Contents>.*?</Contents>`)
	entryKey   = regexp.MustCompile(`<Key>(.*?)</Key>`)
	entryClass = regexp.MustCompile(`<StorageClass>.*?</StorageClass>`)
)

// relist forwards a listing and changes the class of some objects in the answer.
func relist(x *exchange, is func(key string) bool, class string) bool {
	resp, err := x.forward()
	if err != nil {
		x.reset()
		return true
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		x.reset()
		return true
	}
	body = entry.ReplaceAllFunc(body, func(e []byte) []byte {
		found := entryKey.FindSubmatch(e)
		if found == nil || !is(plain(string(found[1]))) {
			return e
		}
		e = entryClass.ReplaceAll(e, nil)
		return bytes.Replace(e, []byte("</Contents>"), fmt.Appendf(nil, "<StorageClass>%s</StorageClass></Contents>", class), 1)
	})
	for name, values := range resp.Header {
		x.w.Header()[name] = values
	}
	x.w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	x.w.WriteHeader(resp.StatusCode)
	_, _ = x.w.Write(body) // whoever asked may have gone
	return true
}

// plain is a key of a listing as it is.
func plain(text string) string {
	var key struct {
		Text string `xml:",chardata"`
	}
	if xml.Unmarshal([]byte("<k>"+text+"</k>"), &key) != nil {
		return text
	}
	if raw, err := url.QueryUnescape(key.Text); err == nil {
		return raw
	}
	return key.Text
}
