// Package storagetest is the conformance suite that every storage driver passes, and a Store with
// scripted faults for tests of what is built on top. It owns the meaning of storage.Store's contract in
// terms of cases, and knows no driver.
package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgobj/pgobj/storage"
)

// Run tests a driver. open returns an empty store; it is called once for each case.
func Run(t *testing.T, open func(t *testing.T) storage.Store) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s storage.Store)
	}{
		{"round trip", roundTrip},
		{"large object", largeObject},
		{"create only", createOnly},
		{"racers", racers},
		{"broken body leaves nothing", brokenBody},
		{"ranges", ranges},
		{"absent", absent},
		{"odd keys", oddKeys},
		{"list", list},
		{"list over pages", listPages},
		{"delete", deletes},
		{"delete many", deleteMany},
		{"cancelled", cancelled},
		{"close early", closeEarly},
		{"sub", sub},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

// Refused tests that every operation on s fails with kind, and soon: for wrong credentials, a wrong bucket
// and the like.
func Refused(t *testing.T, s storage.Store, kind storage.Kind) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, getErr := s.Get(ctx, "a/b", storage.All)
	_, statErr := s.Stat(ctx, "a/b")
	var listErr error
	for _, listErr = range s.List(ctx, "", "") {
		break
	}
	for op, err := range map[string]error{
		"put": s.Put(ctx, "a/b", strings.NewReader("x"), 1), "get": getErr, "stat": statErr, "list": listErr, "delete": s.Delete(ctx, "a/b"),
	} {
		if err == nil {
			t.Errorf("%s succeeded", op)
			continue
		}
		wantKind(t, err, kind)
		var se *storage.Error
		if !errors.As(err, &se) || se.Op != op {
			t.Errorf("%s: error %v has not the operation in it", op, err)
		}
	}
	if ctx.Err() != nil {
		t.Error("refusals took until the deadline")
	}
}

// Random returns n bytes that depend on the seed alone and do not compress.
func Random(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	data := make([]byte, n)
	rand.NewChaCha8(key).Read(data)
	return data
}

// PutBytes stores data, and fails the test if that fails.
func PutBytes(t testing.TB, s storage.Store, key string, data []byte) {
	t.Helper()
	if err := s.Put(t.Context(), key, bytes.NewReader(data), int64(len(data))); err != nil {
		t.Fatal(err)
	}
}

func wantKind(t *testing.T, err error, kind storage.Kind) {
	t.Helper()
	if err == nil || storage.KindOf(err) != kind {
		t.Errorf("error of kind %d expected, got kind %d: %v", kind, storage.KindOf(err), err)
	}
}

func wantObject(t *testing.T, s storage.Store, key string, want []byte) {
	t.Helper()
	wantRange(t, s, key, storage.All, want)
	info, err := s.Stat(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if info.Key != key || info.Size != int64(len(want)) {
		t.Errorf("stat %s: %+v, want a size of %d", key, info, len(want))
	}
	if age := time.Since(info.Created); age < -time.Hour || age > 24*time.Hour {
		t.Errorf("stat %s: created at %v", key, info.Created)
	}
}

func wantRange(t *testing.T, s storage.Store, key string, r storage.Range, want []byte) {
	t.Helper()
	rc, err := s.Get(t.Context(), key, r)
	if err != nil {
		t.Errorf("%+v: %v", r, err)
		return
	}
	defer rc.Close()
	got, err := io.ReadAll(rc)
	if err != nil {
		t.Errorf("%+v: %v", r, err)
	} else if !bytes.Equal(got, want) {
		t.Errorf("%+v of %s: got %d bytes, not the %d expected", r, key, len(got), len(want))
	}
}

func keys(t *testing.T, s storage.Store, prefix, startAfter string) []string {
	t.Helper()
	var got []string
	for info, err := range s.List(t.Context(), prefix, startAfter) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, info.Key)
	}
	return got
}

func wantKeys(t *testing.T, s storage.Store, prefix, startAfter string, want ...string) {
	t.Helper()
	if got := keys(t, s, prefix, startAfter); !slices.Equal(got, want) {
		t.Errorf("list %q after %q:\ngot  %q\nwant %q", prefix, startAfter, got, want)
	}
}

func roundTrip(t *testing.T, s storage.Store) {
	for i, size := range []int{0, 1, 4095, 4096, 1<<20 + 1} {
		key := fmt.Sprintf("directory/sub/object-%d", i)
		data := Random(uint64(i), size)
		PutBytes(t, s, key, data)
		wantObject(t, s, key, data)
	}
	if s.String() == "" {
		t.Error("store has no name")
	}
}

func largeObject(t *testing.T, s storage.Store) {
	data := Random(1, 40<<20)
	PutBytes(t, s, "large", data)
	wantObject(t, s, "large", data)
	wantRange(t, s, "large", storage.Range{Offset: 33 << 20, Length: 5}, data[33<<20:33<<20+5])
}

func createOnly(t *testing.T, s storage.Store) {
	PutBytes(t, s, "a/key", []byte("first"))
	for _, data := range []string{"first", "other", ""} {
		err := s.Put(t.Context(), "a/key", strings.NewReader(data), int64(len(data)))
		wantKind(t, err, storage.KindExists)
		if !errors.Is(err, storage.ErrExists) {
			t.Errorf("%v is not ErrExists", err)
		}
	}
	wantObject(t, s, "a/key", []byte("first"))
	if err := s.Delete(t.Context(), "a/key"); err != nil {
		t.Fatal(err)
	}
	PutBytes(t, s, "a/key", []byte("second"))
	wantObject(t, s, "a/key", []byte("second"))
}

// racers: a store may ask losers to try again, but never let two win.
func racers(t *testing.T, s storage.Store) {
	const n = 16
	var errs [n]error
	var wg sync.WaitGroup
	body := func(i int) []byte { return Random(uint64(i), 100_000+i) }
	for i := range n {
		wg.Go(func() {
			for {
				errs[i] = s.Put(t.Context(), "race/key", bytes.NewReader(body(i)), int64(100_000+i))
				if storage.KindOf(errs[i]) != storage.KindTransient {
					return
				}
			}
		})
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err != nil:
			wantKind(t, err, storage.KindExists)
		case winner >= 0:
			t.Fatalf("%d and %d have both won", winner, i)
		default:
			winner = i
		}
	}
	if winner < 0 {
		t.Fatal("nobody has won")
	}
	wantObject(t, s, "race/key", body(winner))
	wantKeys(t, s, "", "", "race/key")
}

var errBody = errors.New("disk is broken")

// halfBody fails in the middle, at once or (later) only when it is read for the second time.
type halfBody struct {
	later bool
	mu    sync.Mutex
	reads int
}

func (h *halfBody) ReadAt(p []byte, off int64) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if off == 0 {
		h.reads++
	}
	if off+int64(len(p)) > 5<<20 && (!h.later || h.reads > 1) {
		return 0, errBody
	}
	return len(p), nil
}

func brokenBody(t *testing.T, s storage.Store) {
	if err := s.Put(t.Context(), "half/a", &halfBody{}, 10<<20); !errors.Is(err, errBody) || storage.KindOf(err) != storage.KindOther {
		t.Errorf("got kind %d: %v", storage.KindOf(err), err)
	}
	if err := s.Put(t.Context(), "half/b", &halfBody{later: true}, 10<<20); err == nil {
		// A driver that reads the body once has stored it.
		if err := s.Delete(t.Context(), "half/b"); err != nil {
			t.Fatal(err)
		}
	} else if !errors.Is(err, errBody) {
		t.Error(err)
	}
	if err := s.Put(t.Context(), "half/c", strings.NewReader("short"), 6); !errors.Is(err, io.ErrUnexpectedEOF) || storage.KindOf(err) != storage.KindOther {
		t.Errorf("got kind %d: %v", storage.KindOf(err), err)
	}
	wantKeys(t, s, "", "")
	PutBytes(t, s, "half/a", []byte("whole"))
}

func ranges(t *testing.T, s storage.Store) {
	data := Random(3, 1000)
	PutBytes(t, s, "ranged", data)
	for _, c := range []struct {
		r        storage.Range
		from, to int
	}{
		{storage.Range{Offset: 0, Length: 1}, 0, 1},
		{storage.Range{Offset: 0, Length: 1000}, 0, 1000},
		{storage.Range{Offset: 10, Length: 20}, 10, 30},
		{storage.Range{Offset: 999, Length: 1}, 999, 1000},
		{storage.Range{Offset: 999}, 999, 1000},
		{storage.Range{Offset: 500}, 500, 1000},
		{storage.Range{Offset: 990, Length: 1 << 40}, 990, 1000},
		{storage.Range{Offset: 1000}, 0, 0},
		{storage.Range{Offset: 1000, Length: 1}, 0, 0},
		{storage.Range{Offset: 5000, Length: 10}, 0, 0},
	} {
		wantRange(t, s, "ranged", c.r, data[c.from:c.to])
	}
	PutBytes(t, s, "empty", nil)
	wantRange(t, s, "empty", storage.All, nil)
	wantRange(t, s, "empty", storage.Range{Length: 1}, nil)
	wantRange(t, s, "empty", storage.Range{Offset: 7, Length: 1}, nil)
	_, err := s.Get(t.Context(), "ranged", storage.Range{Offset: -1})
	wantKind(t, err, storage.KindOther)
}

func absent(t *testing.T, s storage.Store) {
	PutBytes(t, s, "there/file", []byte("x"))
	for _, key := range []string{"nothing", "no/such/thing", "there", "there/fil", "there/file2"} {
		_, err := s.Get(t.Context(), key, storage.All)
		wantKind(t, err, storage.KindNotFound)
		if !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%v is not ErrNotFound", err)
		}
		_, err = s.Get(t.Context(), key, storage.Range{Offset: 5, Length: 5})
		wantKind(t, err, storage.KindNotFound)
		_, err = s.Stat(t.Context(), key)
		wantKind(t, err, storage.KindNotFound)
	}
}

func oddKeys(t *testing.T, s storage.Store) {
	odd := []string{"...", "-", "_", "-rf", "a.b", "a/b", "a-b", "A/b", "0", "x/.hidden", "x/..y", "tmp", "x.tmp/.tm",
		strings.Repeat("n", 255), strings.Repeat("d", 200) + "/" + strings.Repeat("e", 200) + "/" + strings.Repeat("f", 200)}
	for _, key := range odd {
		PutBytes(t, s, key, []byte(key))
	}
	for _, key := range odd {
		wantObject(t, s, key, []byte(key))
	}
	slices.Sort(odd)
	wantKeys(t, s, "", "", odd...)
	for _, key := range []string{"", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "../x", "a b", "ä", "a\x00", "a%2fb", ".tmp-x", "a/.tmpx",
		strings.Repeat("n", 256), strings.Repeat("m/", 600) + "m"} {
		wantKind(t, s.Put(t.Context(), key, strings.NewReader("x"), 1), storage.KindOther)
		_, err := s.Get(t.Context(), key, storage.All)
		wantKind(t, err, storage.KindOther)
		_, err = s.Stat(t.Context(), key)
		wantKind(t, err, storage.KindOther)
		wantKind(t, s.Delete(t.Context(), key), storage.KindOther)
	}
	wantKeys(t, s, "", "", odd...)
}

func list(t *testing.T, s storage.Store) {
	wantKeys(t, s, "", "")
	all := []string{"B", "a", "b-c/d", "b.c", "b/c", "b/c.d", "b/d/e/f", "b0", "c/x"}
	for i, key := range slices.Backward(all) {
		PutBytes(t, s, key, make([]byte, i))
	}
	wantKeys(t, s, "", "", all...)
	wantKeys(t, s, "b", "", all[2:8]...)
	wantKeys(t, s, "b/", "", all[4:7]...)
	wantKeys(t, s, "b/c", "", all[4:6]...)
	wantKeys(t, s, "b/d", "", all[6])
	wantKeys(t, s, "b/d/e/f", "", all[6])
	wantKeys(t, s, "b/d/e/f/", "")
	wantKeys(t, s, "zzz", "")
	wantKeys(t, s, "zzz/y", "")
	wantKeys(t, s, "", "b/c", all[5:]...)
	wantKeys(t, s, "", "b/", all[4:]...)
	wantKeys(t, s, "", "b/d", all[6:]...)
	wantKeys(t, s, "b/", "b/c", all[5:7]...)
	wantKeys(t, s, "b/", "a", all[4:7]...)
	wantKeys(t, s, "b/", "b/zzz")
	wantKeys(t, s, "b/", "c")
	wantKeys(t, s, "", "c/x")
	for info, err := range s.List(t.Context(), "", "") {
		if err != nil || info.Size != int64(slices.Index(all, info.Key)) || info.Created.IsZero() {
			t.Errorf("%+v, %v", info, err)
		}
	}
}

// manyKeys are more than a page of any store has, in an order that differs by name and by full key.
func manyKeys(t *testing.T, s storage.Store) []string {
	t.Helper()
	var all []string
	for i := range 1050 {
		all = append(all, fmt.Sprintf("many/%04d%s", i, []string{"", ".x", "/y", "-z"}[i%4]))
	}
	next := make(chan string)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for key := range next {
				if err := s.Put(t.Context(), key, strings.NewReader(key), int64(len(key))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, key := range all {
		next <- key
	}
	close(next)
	wg.Wait()
	slices.Sort(all)
	return all
}

func listPages(t *testing.T, s storage.Store) {
	all := manyKeys(t, s)
	wantKeys(t, s, "", "", all...)
	wantKeys(t, s, "many/", "", all...)
	wantKeys(t, s, "many/", all[20], all[21:]...)
	wantKeys(t, s, "many/09", "many/0990", all[slices.Index(all, "many/0990/y"):1000]...)
	cancelledList(t, s, len(all))
}

func cancelledList(t *testing.T, s storage.Store, all int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	var last error
	for _, err := range s.List(ctx, "", "") {
		if last != nil {
			t.Fatal("goes on after an error")
		}
		if last = err; err == nil {
			n++
		}
		if n == 500 {
			cancel()
		}
	}
	// A list that is cut must never look complete.
	if n < all && !errors.Is(last, context.Canceled) {
		t.Errorf("%d of %d keys, then %v", n, all, last)
	}
	for range s.List(t.Context(), "", "") {
		break // leaving early is all right
	}
}

func cancelled(t *testing.T, s storage.Store) {
	PutBytes(t, s, "c/a", Random(5, 8<<20))
	ctx, cancel := context.WithCancel(t.Context())
	body, err := s.Get(ctx, "c/a", storage.All)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if _, err := io.ReadFull(body, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.Copy(io.Discard, body); !errors.Is(err, context.Canceled) {
		t.Errorf("reading after the end of the context: %v", err)
	}
	_, getErr := s.Get(ctx, "c/a", storage.All)
	_, statErr := s.Stat(ctx, "c/a")
	var listErr error
	for _, listErr = range s.List(ctx, "", "") {
	}
	for _, err := range []error{s.Put(ctx, "c/b", strings.NewReader("x"), 1), getErr, statErr, listErr, s.Delete(ctx, "c/a")} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
	wantKeys(t, s, "", "", "c/a")
}

func closeEarly(t *testing.T, s storage.Store) {
	data := Random(6, 4<<20)
	PutBytes(t, s, "e/a", data)
	for range 5 {
		body, err := s.Get(t.Context(), "e/a", storage.All)
		if err != nil {
			t.Fatal(err)
		}
		if err := body.Close(); err != nil {
			t.Error(err)
		}
	}
	wantObject(t, s, "e/a", data)
}

func sub(t *testing.T, s storage.Store) {
	inner := storage.Sub(storage.Sub(s, "x"), "y")
	PutBytes(t, inner, "a", []byte("1"))
	PutBytes(t, inner, "b/c", []byte("2"))
	PutBytes(t, s, "x/z", []byte("3"))
	wantObject(t, s, "x/y/b/c", []byte("2"))
	wantObject(t, inner, "a", []byte("1"))
	wantKeys(t, inner, "", "", "a", "b/c")
	wantKeys(t, inner, "b", "a", "b/c")
}
