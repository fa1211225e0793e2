package largerepo

import (
	"context"
	"errors"
	"io"
	"iter"
	"path"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

// page is how many keys an object store lists, or deletes, with one request.
const page = 1000

// Requests are counted as an object store gets them.
type Requests struct{ Gets, Stats, Lists, Puts, Deletes int64 }

// Sum is how many there are of all kinds.
func (r Requests) Sum() int64 { return r.Gets + r.Stats + r.Lists + r.Puts + r.Deletes }

// Store keeps objects in memory, but for WAL: that is made up as it is listed.
type Store struct {
	storage.Store // all but WAL

	mu   sync.Mutex
	gone []bool // segments that are deleted, by their numbers; the first one is 1

	gets, stats, lists, puts, deletes atomic.Int64
}

// Count tells which requests f makes.
func (s *Store) Count(f func() error) (Requests, error) {
	before := s.requests()
	err := f()
	now := s.requests()
	return Requests{now.Gets - before.Gets, now.Stats - before.Stats, now.Lists - before.Lists, now.Puts - before.Puts, now.Deletes - before.Deletes}, err
}

func (s *Store) requests() Requests {
	return Requests{s.gets.Load(), s.stats.Load(), s.lists.Load(), s.puts.Load(), s.deletes.Load()}
}

// Get reads an object; WAL has no content.
func (s *Store) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, error) {
	s.gets.Add(1)
	return s.Store.Get(ctx, key, r)
}

// Put stores an object other than WAL.
func (s *Store) Put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	s.puts.Add(1)
	if isWAL(key) {
		return &storage.Error{Op: "put", Key: key, Store: s.String(), Kind: storage.KindOther, Err: errors.New("WAL is only made up here")}
	}
	return s.Store.Put(ctx, key, body, size)
}

// Stat tells of an object.
func (s *Store) Stat(ctx context.Context, key string) (storage.Info, error) {
	s.stats.Add(1)
	if isWAL(key) {
		for info := range s.wal(key, "") {
			return info, nil
		}
	}
	return s.Store.Stat(ctx, key)
}

// List is one request for each 1,000 keys.
func (s *Store) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		list := s.Store.List(ctx, prefix, startAfter)
		if isWAL(prefix) {
			list = s.wal(prefix, startAfter)
		}
		n := 0
		s.lists.Add(1)
		for info, err := range list {
			if n++; n%page == 1 && n > 1 {
				s.lists.Add(1)
			}
			if !yield(info, err) {
				return
			}
		}
	}
}

// Delete is one request for each 1,000 keys.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	s.deletes.Add(int64(len(keys)+page-1) / page)
	var others []string
	for _, key := range keys {
		if seg, err := segment.ParseName(strings.TrimSuffix(path.Base(key), ".zst"), segmentSize); isWAL(key) && err == nil && seg.No < uint64(len(s.gone)) {
			s.mu.Lock()
			s.gone[seg.No] = true
			s.mu.Unlock()
		} else {
			others = append(others, key)
		}
	}
	return s.Store.Delete(ctx, others...)
}

func isWAL(key string) bool { return strings.HasPrefix(key, "wal/") }

// wal lists segments.
func (s *Store) wal(prefix, startAfter string) iter.Seq2[storage.Info, error] {
	key := func(no int) string {
		return object.Key(systemID, segment.Segment{Timeline: 1, No: uint64(no)}.Name(segmentSize))
	}
	return func(yield func(storage.Info, error) bool) {
		first := 1 + sort.Search(len(s.gone)-1, func(i int) bool { return key(i+1) > startAfter && key(i+1) >= prefix })
		for no := first; no < len(s.gone); no++ {
			k := key(no)
			if !strings.HasPrefix(k, prefix) {
				return
			}
			s.mu.Lock()
			gone := s.gone[no]
			s.mu.Unlock()
			if !gone && !yield(storage.Info{Key: k, Size: segmentSize, Created: time.Unix(0, 0)}, nil) {
				return
			}
		}
	}
}
