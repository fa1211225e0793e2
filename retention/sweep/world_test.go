package sweep_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/backup/push"
	"github.com/pgobj/pgobj/backup/server"
	"github.com/pgobj/pgobj/backup/verify"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/retention"
	"github.com/pgobj/pgobj/retention/sweep"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/codec"
	"github.com/pgobj/pgobj/storage/mem"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/waltest"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// server stands in for PostgreSQL: it has a data directory that a real backup-push copies, a position in the WAL,
// and it archives a segment for each backup. All else is the real thing.
type fakeServer struct {
	data    string
	control datadir.Control
	at      *atomic.Uint64 // number of the next segment
	clock   *atomic.Int64  // seconds
	store   storage.Store  // archives here
	first   uint64
	redo    *sync.Mutex // held to write pg_control
}

// newServer has some files of several chunks and pages.
func newServer(t testing.TB, seed uint64) *fakeServer {
	t.Helper()
	s := &fakeServer{data: t.TempDir(), at: &atomic.Uint64{}, clock: &atomic.Int64{}, redo: &sync.Mutex{}}
	control, err := os.ReadFile("../../backup/datadir/testdata/pg_control.15")
	if err != nil {
		t.Fatal(err)
	}
	smallSegments(control)
	for _, dir := range []string{"global", "base/1", "pg_wal"} {
		if err := os.MkdirAll(filepath.Join(s.data, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string][]byte{"global/pg_control": control, "PG_VERSION": []byte("15\n"), "base/1/PG_VERSION": []byte("15\n")} {
		if err := os.WriteFile(filepath.Join(s.data, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if s.control, _, err = datadir.ReadControl(s.data); err != nil {
		t.Fatal(err)
	}
	s.at.Store(uint64(s.control.Redo)/uint64(s.control.SegmentSize) + 1)
	s.clock.Store(time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC).Unix())
	s.change(t, rand.New(rand.NewPCG(seed, 1)), 1)
	return s
}

// smallSegments makes a pg_control of a cluster with WAL segments of 1 MB: each of them is read by the hundred.
func smallSegments(control []byte) {
	table := crc32.MakeTable(crc32.Castagnoli)
	for off := 4; off < 508; off += 4 {
		if crc32.Checksum(control[:off], table) == binary.LittleEndian.Uint32(control[off:]) {
			size := off - 4
			for ; binary.LittleEndian.Uint32(control[size:]) != 16<<20; size -= 4 {
			}
			binary.LittleEndian.PutUint32(control[size:], 1<<20)
			binary.LittleEndian.PutUint32(control[off:], crc32.Checksum(control[:off], table))
			return
		}
	}
}

// change writes some of the files again.
func (s *fakeServer) change(t testing.TB, r *rand.Rand, share float64) {
	t.Helper()
	for i := range 6 {
		if r.Float64() >= share {
			continue
		}
		page := make([]byte, 8192)
		for j := range page {
			page[j] = byte(r.Uint32())
		}
		if err := os.WriteFile(filepath.Join(s.data, "base/1", fmt.Sprint(16384+i)), bytes.Repeat(page, 1+r.IntN(4)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *fakeServer) now() time.Time { return time.Unix(s.clock.Add(1), 0).UTC() }

// session is the server for one backup, which archives to a store of its own.
func (s *fakeServer) session(store storage.Store) *fakeServer {
	c := *s
	c.store = store
	return &c
}

func (s *fakeServer) Info(context.Context) (server.Info, error) {
	return server.Info{VersionNum: 150004, Version: "15.4", SystemID: s.control.SystemID, DataDirectory: s.data, SegmentSize: s.control.SegmentSize,
		BlockSize: 8192, WALLevel: "replica", ArchiveMode: "on", ArchiveCommand: "pgobj wal-push %p"}, nil
}

func (s *fakeServer) Start(context.Context, string, bool) (server.StartPoint, error) {
	s.first = s.at.Add(1)
	lsn := segment.LSN(s.first*uint64(s.control.SegmentSize) + 40)
	s.redo.Lock()
	defer s.redo.Unlock()
	return server.StartPoint{LSN: lsn, Timeline: 1, Time: s.now()}, pgtest.SetRedo(s.data, uint64(lsn))
}

func (s *fakeServer) Stop(ctx context.Context) (server.StopPoint, error) {
	last := s.at.Add(1)
	for no := s.first; no <= last; no++ {
		key, body, err := waltest.Object(s.control.SystemID, segment.Segment{Timeline: 1, No: no}, s.control.SegmentSize)
		if err != nil {
			return server.StopPoint{}, err
		}
		if err := s.store.Put(ctx, key, bytes.NewReader(body), int64(len(body))); err != nil && !errors.Is(err, storage.ErrExists) {
			return server.StopPoint{}, err
		}
	}
	return server.StopPoint{LSN: segment.LSN(last*uint64(s.control.SegmentSize) + 80), Timeline: 1, Time: s.now(), Label: s.label()}, nil
}

// label is a backup_label as PostgreSQL 15 writes it.
func (s *fakeServer) label() []byte {
	lsn := segment.LSN(s.first*uint64(s.control.SegmentSize) + 40)
	return fmt.Appendf(nil, "START WAL LOCATION: %s (file %s)\nCHECKPOINT LOCATION: %s\nBACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-01 00:00:00 UTC\nLABEL: test\nSTART TIMELINE: 1\n",
		lsn, segment.Segment{Timeline: 1, No: s.first}.Name(s.control.SegmentSize), lsn)
}

func (s *fakeServer) Watch(ctx context.Context) (context.Context, func()) {
	return context.WithCancel(ctx)
}

func (s *fakeServer) Archiver(context.Context) (server.ArchiverStatus, error) {
	return server.ArchiverStatus{}, nil
}

func (s *fakeServer) SwitchWAL(context.Context) error { return nil }

func (s *fakeServer) Changes(context.Context, timeline.Path) (*datadir.Changes, error) {
	return nil, datadir.ErrNoSummaries
}

var discard = slog.New(slog.DiscardHandler)

// push is one backup-push into a store.
func (s *fakeServer) push(ctx context.Context, store storage.Store, by string, full bool) error {
	codec, err := codec.Parse("zstd:1")
	if err != nil {
		return err
	}
	session := s.session(store)
	_, err = push.Push(ctx, push.Request{Store: store, Catalog: catalog.New(store, by, s.now), Session: session, Codec: codec, Workers: 2,
		Full: full, Tool: "test", Now: s.now, Progress: &backup.Progress{}, Log: discard, WALTimeout: time.Millisecond})
	return err
}

// request is a deletion in a store.
func (s *fakeServer) request(store storage.Store, by string, o retention.Order) sweep.Request {
	if o.Minimum == 0 {
		o.Minimum = 1
	}
	return sweep.Request{Store: store, Catalog: catalog.New(store, by, s.now), Order: o, Now: s.now, Log: discard}
}

// remove plans and executes.
func (s *fakeServer) remove(ctx context.Context, store storage.Store, by string, o retention.Order) (sweep.Result, error) {
	r := s.request(store, by, o)
	p, err := sweep.Make(ctx, r)
	if err != nil {
		return sweep.Result{}, err
	}
	return sweep.Execute(ctx, r, p)
}

// clone copies what is in a store into memory.
func clone(t testing.TB, from storage.Store) storage.Store {
	t.Helper()
	to := mem.New()
	copyAll(t, from, to)
	return to
}

func copyAll(t testing.TB, from, to storage.Store) {
	t.Helper()
	for info, err := range from.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		data, err := storage.ReadAll(t.Context(), from, info.Key, 1<<30)
		if err == nil {
			err = to.Put(t.Context(), info.Key, bytes.NewReader(data), int64(len(data)))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// objects are the keys below some prefixes.
func objects(t testing.TB, s storage.Store, prefixes ...string) (keys []string) {
	t.Helper()
	for _, p := range prefixes {
		for info, err := range s.List(t.Context(), p, "") {
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, info.Key)
		}
	}
	return keys
}

// sound fails unless every backup that the catalog lists can be restored: all its parts and WAL are there, and
// every hash holds.
func sound(t testing.TB, store storage.Store) *catalog.State {
	t.Helper()
	c := catalog.New(store, "check", time.Now)
	state, err := c.Load(t.Context())
	if err == nil {
		err = state.Writable()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range state.Complete() {
		if _, err := verify.Verify(t.Context(), verify.Request{Store: store, Catalog: c, Entry: e, Workers: 1, Progress: &backup.Progress{}}); err != nil {
			t.Errorf("backup %s is listed, but: %v", e.ID, err)
		}
		b, err := c.Backup(t.Context(), e)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, p := range b.Parts {
			if _, err := store.Stat(t.Context(), part.Key(p.Name)); err != nil {
				t.Errorf("backup %s refers to part %s: %v", e.ID, p.Name, err)
			}
		}
		size := segment.Size(b.SegmentSize)
		missing, any, err := walstore.FirstMissing(t.Context(), store, b.SystemID, segment.At(b.Timeline, b.StartLSN, size), segment.Before(b.Timeline, b.StopLSN, size), size)
		if err != nil || any {
			t.Errorf("backup %s lacks WAL segment %s (%v)", e.ID, missing.Name(size), err)
		}
	}
	return state
}

// tidy deletes garbage, and fails unless what is left is what the backups that are listed need.
func tidy(t testing.TB, s *fakeServer, store storage.Store) {
	t.Helper()
	if _, err := s.remove(t.Context(), store, "tidy", retention.Order{Kind: retention.Garbage}); err != nil {
		t.Fatal(err)
	}
	state := sound(t, store)
	if len(state.Unpurged) > 0 {
		t.Errorf("deletions %v are not done", state.Unpurged)
	}
	need := map[string]bool{}
	c := catalog.New(store, "check", time.Now)
	for _, e := range state.Complete() {
		b, err := c.Backup(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		need["backups/"+e.ID+"/backup.json"], need[catalog.ManifestKey(e.ID)] = true, true
		for _, p := range b.Parts {
			need[part.Key(p.Name)] = true
		}
	}
	for _, key := range objects(t, store, "parts/", "backups/") {
		if !need[key] {
			t.Errorf("%s is left, and nothing needs it", key)
		}
	}
}

// seeded is a repository with n backups, each of them with some parts of its own.
func seeded(t testing.TB, n int) (*fakeServer, storage.Store) {
	t.Helper()
	s := newServer(t, 1)
	store := mem.New()
	r := rand.New(rand.NewPCG(5, 5))
	for i := range n {
		if err := s.push(t.Context(), store, fmt.Sprint("seed", i), false); err != nil {
			t.Fatal(err)
		}
		s.change(t, r, 0.3)
	}
	return s, store
}

// listed are the ids of the complete backups.
func listed(s *catalog.State) (ids []string) {
	for _, e := range s.Complete() {
		ids = append(ids, e.ID)
	}
	return ids
}
