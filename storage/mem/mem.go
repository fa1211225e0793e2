// Package mem is a storage driver that keeps objects in memory, for tests and benchmarks. It refuses to
// be selected by a URL: nobody backs up into memory.
package mem

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgobj/pgobj/storage"
)

// New returns an empty store.
func New() storage.Store { return &store{objects: map[string]object{}} }

type object struct {
	data    []byte
	created time.Time
}

type store struct {
	mu      sync.Mutex
	objects map[string]object
	keys    []string // of objects, sorted
}

func (s *store) String() string { return "mem:" }

func (s *store) fail(op, key string, kind storage.Kind, err error) error {
	return &storage.Error{Op: op, Key: key, Store: s.String(), Kind: kind, Err: err}
}

// check is how every operation begins.
func (s *store) check(ctx context.Context, op, key string) error {
	if err := ctx.Err(); err != nil {
		return s.fail(op, key, storage.KindTransient, context.Cause(ctx))
	}
	if err := storage.CheckKey(key); err != nil {
		return s.fail(op, key, storage.KindOther, err)
	}
	return nil
}

func (s *store) Put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	if err := s.check(ctx, "put", key); err != nil {
		return err
	}
	data := make([]byte, size)
	if n, err := body.ReadAt(data, 0); int64(n) < size {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return s.fail("put", key, storage.KindOther, fmt.Errorf("read the data to store: %d of %d bytes: %w", n, size, err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.objects[key]; taken {
		return s.fail("put", key, storage.KindExists, nil)
	}
	s.objects[key] = object{data, time.Now()}
	i, _ := slices.BinarySearch(s.keys, key)
	s.keys = slices.Insert(s.keys, i, key)
	return nil
}

func (s *store) find(ctx context.Context, op, key string) (object, error) {
	if err := s.check(ctx, op, key); err != nil {
		return object{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[key]
	if !ok {
		return object{}, s.fail(op, key, storage.KindNotFound, nil)
	}
	return o, nil
}

func (s *store) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, error) {
	o, err := s.find(ctx, "get", key)
	if err != nil {
		return nil, err
	}
	if r.Offset < 0 || r.Length < 0 {
		return nil, s.fail("get", key, storage.KindOther, fmt.Errorf("range %+v is negative", r))
	}
	data := o.data[min(r.Offset, int64(len(o.data))):]
	if r.Length > 0 {
		data = data[:min(r.Length, int64(len(data)))]
	}
	return &reader{data: bytes.NewReader(data), ctx: ctx, s: s, key: key}, nil
}

type reader struct {
	data *bytes.Reader
	ctx  context.Context
	s    *store
	key  string
}

func (r *reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, r.s.fail("get", r.key, storage.KindTransient, context.Cause(r.ctx))
	}
	return r.data.Read(p)
}

func (r *reader) Close() error { return nil }

func (s *store) Stat(ctx context.Context, key string) (storage.Info, error) {
	o, err := s.find(ctx, "stat", key)
	if err != nil {
		return storage.Info{}, err
	}
	return storage.Info{Key: key, Size: int64(len(o.data)), Created: o.created}, nil
}

func (s *store) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		for after := startAfter; ctx.Err() == nil; {
			info, ok := s.next(max(prefix, after), after)
			if !ok || !strings.HasPrefix(info.Key, prefix) || !yield(info, nil) {
				return
			}
			after = info.Key
		}
		yield(storage.Info{}, s.fail("list", prefix, storage.KindTransient, context.Cause(ctx)))
	}
}

// next is the first object whose key is from or greater, and greater than after.
func (s *store) next(from, after string) (storage.Info, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, _ := slices.BinarySearch(s.keys, from)
	if i < len(s.keys) && s.keys[i] == after {
		i++
	}
	if i == len(s.keys) {
		return storage.Info{}, false
	}
	o := s.objects[s.keys[i]]
	return storage.Info{Key: s.keys[i], Size: int64(len(o.data)), Created: o.created}, true
}

func (s *store) Delete(ctx context.Context, keys ...string) error {
	return storage.DeleteEach(keys, func(key string) error { return s.remove(ctx, key) })
}

func (s *store) remove(ctx context.Context, key string) error {
	if err := s.check(ctx, "delete", key); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, there := slices.BinarySearch(s.keys, key); there {
		delete(s.objects, key)
		s.keys = slices.Delete(s.keys, i, i+1)
	}
	return nil
}
