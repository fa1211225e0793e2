package s3store

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"slices"

	"github.com/pgobj/pgobj/storage"
)

// maxDelete is how many keys one DeleteObjects may have.
const maxDelete = 1000

// deleteResult is the answer to DeleteObjects.
type deleteResult struct {
	XMLName xml.Name
	Deleted []struct{ Key string }
	Error   []struct{ Key, Code, Message string }
}

// Delete removes up to 1,000 objects with a request. A server that refuses such a request as a whole is asked for each
// object: some (Google's) do not know it.
func (s *store) Delete(ctx context.Context, keys ...string) error {
	if len(keys) == 1 {
		return s.remove(ctx, keys[0])
	}
	failed := &storage.NotDeleted{}
	for batch := range slices.Chunk(keys, maxDelete) {
		err := s.removeMany(ctx, batch)
		if some, ok := errors.AsType[*storage.NotDeleted](err); ok {
			failed.Errors = append(failed.Errors, some.Errors...)
		} else if err != nil {
			return err
		}
	}
	return failed.OrNil()
}

func (s *store) removeMany(ctx context.Context, keys []string) error {
	full := make([]string, len(keys))
	for i, key := range keys {
		if err := storage.CheckKey(key); err != nil {
			return &storage.Error{Op: "delete", Key: key, Store: s.String(), Err: err}
		}
		full[i] = s.prefix + key
	}
	if !s.oneByOne.Load() {
		c, err := s.begin(ctx, "delete", keys[0])
		if err != nil {
			return err
		}
		defer c.end()
		err = c.client.DeleteMany(c.ctx, full)
		if result := c.deleted.Load(); result != nil && c.failure.Load() == nil {
			return s.outcome(keys, result)
		}
		if err == nil {
			err = errors.New("there was no answer")
		}
		f := c.failure.Load()
		if err = c.fail(err); storage.KindOf(err) == storage.KindTransient || ctx.Err() != nil {
			return err
		}
		if f != nil && (f.Code == "NotImplemented" || f.Status == http.StatusNotImplemented || f.Status == http.StatusMethodNotAllowed) {
			s.oneByOne.Store(true)
		}
	}
	return storage.DeleteEach(keys, func(key string) error { return s.remove(ctx, key) })
}

// outcome is what became of each key.
func (s *store) outcome(keys []string, r *deleteResult) error {
	gone, why := map[string]bool{}, map[string]*Failure{}
	for _, d := range r.Deleted {
		gone[d.Key] = true
	}
	for _, e := range r.Error {
		f := &Failure{Status: http.StatusOK, Code: e.Code, Message: e.Message}
		f.Kind = kindOf(f, http.MethodDelete)
		why[e.Key], gone[e.Key] = f, e.Code == "NoSuchKey"
	}
	failed := &storage.NotDeleted{}
	for _, key := range keys {
		f := why[s.prefix+key]
		switch {
		case gone[s.prefix+key]:
			continue
		case f == nil:
			f = &Failure{Kind: storage.KindTransient, Status: http.StatusOK, Message: "the answer does not say whether the object was deleted"}
		}
		failed.Errors = append(failed.Errors, &storage.Error{Op: "delete", Key: key, Store: s.String(), Kind: f.Kind, Err: f})
	}
	return failed.OrNil()
}

// judgeDelete requires a whole <DeleteResult>, and reads it for the caller: SDKs differ in what they make of it.
func judgeDelete(req *http.Request, resp *http.Response) (*http.Response, *Failure) {
	body, failure := readAnswer(resp, maxListBody, "answer")
	if failure != nil {
		return nil, failure
	}
	var result deleteResult
	if xml.Unmarshal(body, &result) != nil || result.XMLName.Local != "DeleteResult" {
		return nil, strange(resp, body)
	}
	if c, ok := req.Context().Value(callKey{}).(*call); ok {
		c.deleted.Store(&result)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}
