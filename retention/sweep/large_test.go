package sweep_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"iter"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/retention"
	"github.com/pgobj/pgobj/retention/sweep"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/mem"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/segment"
)

// large is a repository of many backups and very much WAL, and counts requests as an object store does: a listing
// is one request for each 1,000 keys. The WAL is not stored but made up as it is listed; nothing of it goes.
type large struct {
	storage.Store
	segments    uint64
	gets, pages atomic.Int64
}

// looked is how many of the newest backups a plan always reads.
const looked = 64

const largeID = 7300000000000000001

func (l *large) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, error) {
	l.gets.Add(1)
	return l.Store.Get(ctx, key, r)
}

func (l *large) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		n := 0
		l.pages.Add(1)
		list := l.Store.List(ctx, prefix, startAfter)
		if strings.HasPrefix(prefix, "wal/") {
			list = l.wal(prefix, startAfter)
		}
		for info, err := range list {
			if n++; n%1000 == 1 && n > 1 {
				l.pages.Add(1)
			}
			if !yield(info, err) {
				return
			}
		}
	}
}

func (l *large) wal(prefix, startAfter string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		key := func(no uint64) string {
			return walstore.Key(largeID, segment.Segment{Timeline: 1, No: no}.Name(16<<20))
		}
		first, after := uint64(1), l.segments+1 // by bisection, the first that is behind startAfter
		for first < after {
			if mid := (first + after) / 2; key(mid) > startAfter {
				after = mid
			} else {
				first = mid + 1
			}
		}
		for ; first <= l.segments; first++ {
			if k := key(first); strings.HasPrefix(k, prefix) && !yield(storage.Info{Key: k, Size: 16 << 20, Created: time.Unix(0, 0)}, nil) {
				return
			}
		}
	}
}

// requests counts those that f makes.
func (l *large) requests(f func()) (gets, pages int64) {
	g, p := l.gets.Load(), l.pages.Load()
	f()
	return l.gets.Load() - g, l.pages.Load() - p
}

// newLarge has n backups, one an hour, each of which refers to a part of its own and to those of ten before it.
func newLarge(t testing.TB, n int, segments uint64) (*large, *catalog.Catalog) {
	t.Helper()
	l := &large{Store: mem.New(), segments: segments}
	now := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	c := catalog.New(l, "host/1/test", func() time.Time { return now })
	s, err := c.Load(t.Context())
	add := func(r catalog.Record) {
		if err == nil {
			s, err = c.Append(t.Context(), s, func(*catalog.State) (catalog.Record, error) { return r, nil })
		}
	}
	add(catalog.Record{Type: "server", Server: &catalog.Server{SystemID: largeID, PGVersion: 150004, SegmentSize: 16 << 20}})
	var ids []string
	for i := range n {
		now = now.Add(time.Hour)
		b := catalog.Backup{ID: catalog.NewID(now, [2]byte{byte(i >> 8), byte(i)}), SegmentSize: 16 << 20}
		ids = append(ids, b.ID)
		begin := &catalog.Begin{Backup: b.ID, SystemID: largeID, Timeline: 1, LSN: segment.LSN(uint64(i+1) * segments / uint64(n) << 24)}
		if i > 0 {
			begin.Reuses = ids[i-1 : i]
		}
		for _, id := range ids[max(0, i-10):] {
			b.Parts = append(b.Parts, catalog.Part{Name: id + "/00001.tar.zst", Size: 8 << 20, Index: strings.Repeat("0", 64), Raw: 20 << 20, Live: 20 << 20})
		}
		first := segment.At(1, begin.LSN, 16<<20)
		b.Summary = catalog.Summary{SystemID: largeID, PGVersion: 150004, Started: now, Consistent: now.Add(time.Minute), Finished: now.Add(time.Minute), Timeline: 1,
			StartLSN: begin.LSN, StopLSN: begin.LSN + 100, FirstWAL: first.Name(16 << 20), LastWAL: first.Name(16 << 20), Size: 1 << 40, Files: 12345, Reused: 1 << 39, Stored: 8 << 20}
		add(catalog.Record{Type: "begin", Begin: begin})
		hash, putErr := c.PutBackup(t.Context(), &b)
		if putErr == nil {
			putErr = l.Put(t.Context(), catalog.ManifestKey(b.ID), bytes.NewReader(nil), 0)
		}
		if putErr != nil {
			t.Fatal(putErr)
		}
		add(catalog.Record{Type: "commit", Commit: &catalog.Commit{Backup: b.ID, SHA256: hash, Summary: b.Summary}})
	}
	if err != nil {
		t.Fatal(err)
	}
	return l, c
}

// TestRequestsOfLargeRepositories: what a list and a nightly policy run ask the storage must not grow with the age of
// the repository.
func TestRequestsOfLargeRepositories(t *testing.T) {
	const backups, segments = 10_000, 2_000_000
	l, c := newLarge(t, backups, segments)
	checkpoints, newest := int64(0), int64(0)
	for info, err := range l.Store.List(t.Context(), "catalog/checkpoints/", "") {
		if err != nil {
			t.Fatal(err)
		}
		checkpoints += info.Size
		newest = max(newest, info.Size)
	}
	t.Logf("checkpoints have %d MB in all, the largest has %d MB", checkpoints>>20, newest>>20)

	var state *catalog.State
	gets, pages := l.requests(func() {
		var err error
		if state, err = c.Load(t.Context()); err != nil || len(state.Complete()) != backups {
			t.Fatal(len(state.Complete()), err)
		}
	})
	t.Logf("list: %d gets, %d listings", gets, pages)
	if gets+pages > 15 {
		t.Errorf("a list of %d backups takes %d gets and %d listings", backups, gets, pages)
	}
	now := state.Entries[backups-1].Commit.Summary.Finished.Add(time.Hour)
	gets, pages = l.requests(func() {
		b, err := c.Backup(t.Context(), state.Entries[backups/2])
		if err != nil {
			t.Fatal(err)
		}
		r := sweep.Request{Store: l, Catalog: c, Order: retention.Order{Kind: retention.ByPolicy, Policy: retention.Policy{Redundancy: backups}, Minimum: 1, Running: time.Hour}, Now: func() time.Time { return now }, Log: discard}
		w, err := sweep.Weigh(t.Context(), r, state, b)
		if err != nil || w.Refers == 0 || w.Policy == nil || !w.Policy.Keep {
			t.Errorf("%+v, %v", w, err)
		}
	})
	t.Logf("weigh one: %d gets, %d listings", gets, pages)
	if gets > looked+10 || pages > 20+10 {
		t.Errorf("to weigh one of %d backups takes %d gets and %d listings", backups, gets, pages)
	}
	for _, c2 := range []struct {
		policy      string
		drops       int
		gets, pages int64
	}{
		// A day's worth goes: those, their nearest neighbours, and the newest ones are read.
		{"REDUNDANCY 9976", 24, 24 + 64 + 10, 20 + 10 + 10},
		// All but a few go at once: then what they refer to has to be read.
		{"keep daily 14 weekly 8 monthly 12", 0, backups + 100, 20 + segments/1000},
	} {
		p, err := retention.ParsePolicy(c2.policy)
		if err != nil {
			t.Fatal(err)
		}
		r := sweep.Request{Store: l, Catalog: c, Order: retention.Order{Kind: retention.ByPolicy, Policy: p, Minimum: 1, Running: time.Hour}, Now: func() time.Time { return now }, Log: discard}
		var plan *sweep.Plan
		gets, pages := l.requests(func() {
			if plan, err = sweep.Make(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		})
		record, err := json.Marshal(plan.Delete)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d backups and %d parts go, %d gets, %d listings, a record of %d kB", c2.policy, len(plan.Delete.Backups), plan.Parts, gets, pages, len(record)>>10)
		if c2.drops > 0 && len(plan.Delete.Backups) != c2.drops || plan.Parts == 0 || gets > c2.gets || pages > c2.pages {
			t.Errorf("%s: %d backups and %d parts go; it takes %d gets and %d listings, want at most %d and %d", c2.policy, len(plan.Delete.Backups), plan.Parts, gets, pages, c2.gets, c2.pages)
		}
	}
}
