package catalog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/connect"
	"github.com/pgobj/pgobj/storage/file"
	"github.com/pgobj/pgobj/storage/mem"
	"github.com/pgobj/pgobj/storage/storagetest"
	"github.com/pgobj/pgobj/test/s3server"
)

// clock is a clock that nothing may depend on: it runs backwards.
func clock() func() time.Time {
	t := time.Date(2026, 11, 21, 1, 45, 0, 0, time.UTC)
	return func() time.Time {
		t = t.Add(-time.Second)
		return t
	}
}

func begin(id string) Record {
	return Record{Type: "begin", Begin: &Begin{Backup: id, SystemID: 7}}
}

func commit(id string) Record {
	return Record{Type: "commit", Commit: &Commit{Backup: id, SHA256: sum(nil), Summary: Summary{SystemID: 7, Files: 1, FirstWAL: "000000010000000000000001", LastWAL: "000000010000000000000001"}}}
}

func abort(id string) Record {
	return Record{Type: "abort", Abort: &Abort{Backup: id, Reason: "the test wants it"}}
}

// add appends records as one writer and returns the state after them.
func add(t *testing.T, s storage.Store, records ...Record) *State {
	t.Helper()
	c := New(s, "host/1/test", clock())
	state, err := c.Load(t.Context())
	for _, r := range records {
		if err == nil {
			state, err = c.Append(t.Context(), state, func(*State) (Record, error) { return r, nil })
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func load(t *testing.T, s storage.Store) *State {
	t.Helper()
	state, err := New(s, "host/2/test", clock()).Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func keys(t *testing.T, s storage.Store, prefix string) (found []string) {
	t.Helper()
	for info, err := range s.List(t.Context(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, info.Key)
	}
	return found
}

func read(t *testing.T, s storage.Store, key string) []byte {
	t.Helper()
	data, err := storage.ReadAll(t.Context(), s, key, maxBackup)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// replace does what no pgobj does: it changes an object.
func replace(t *testing.T, s storage.Store, key string, data []byte) {
	t.Helper()
	if err := s.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), key, bytes.NewReader(data), int64(len(data))); err != nil {
		t.Fatal(err)
	}
}

// resealed makes a record whole again after somebody changed it: only the chain tells then.
func resealed(object []byte) []byte {
	body := object[:len(object)-1]
	if i := bytes.LastIndex(body, []byte(`,"self":`)); i >= 0 {
		body = body[:i]
	}
	return fmt.Appendf(nil, `%s,"self":"%s"}`, body, sum(body))
}

func complete(s *State) (ids []string) {
	for _, e := range s.Complete() {
		ids = append(ids, e.ID)
	}
	return ids
}

func encode(t *testing.T, s *State) string {
	t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestManyWritersMakeOneOrder: 16 writers race for every record. With PGOBJ_TORTURE=1 each writes 100 everywhere.
func TestManyWritersMakeOneOrder(t *testing.T) {
	const writers, full = 16, 100
	onDisk, onS3 := 25, 10
	if os.Getenv("PGOBJ_TORTURE") != "" {
		onDisk, onS3 = full, full
	}
	fileStore, err := file.New(file.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	race(t, mem.New(), "mem", writers, full)
	race(t, fileStore, "file", writers, onDisk)
	race(t, bucket(t, s3server.MinIO, "minio"), "MinIO", writers, onS3)
	race(t, bucket(t, s3server.Versity, "aws"), "versitygw", writers, onS3)
}

func race(t *testing.T, store storage.Store, name string, writers, each int) {
	t.Run(name, func(t *testing.T) {
		g, ctx := errgroup.WithContext(t.Context())
		for w := range writers {
			g.Go(func() error { return write(ctx, store, w, each) })
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		checkLog(t, store, writers, each)
	})
}

// bucket is an empty store on a real server.
func bucket(t *testing.T, kind s3server.Kind, driver string) storage.Store {
	t.Helper()
	server := s3server.ForTest(t, kind)
	store, err := connect.Open(connect.Config{URL: server.URL("main"), Endpoint: server.Endpoint, Region: server.Region, Driver: driver,
		Credentials: credentials.NewStaticCredentialsProvider(server.AccessKey, server.SecretKey, "")})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// A store that has a record for writers and not for readers is waited for, but not for ever.
func TestRecordThatNobodyCanRead(t *testing.T) {
	for times, want := range map[int]error{3: nil, 0: storage.ErrTransient} {
		synctest.Test(t, func(t *testing.T) {
			store := storagetest.NewFaulty(mem.New(), storagetest.Fault{Mode: storagetest.Before, Times: times, Kind: storage.KindExists,
				When: func(op storagetest.Op) bool { return op.Name == "put" }})
			s := load(t, store)
			_, err := New(store, "host/6/test", clock()).Append(t.Context(), s, func(*State) (Record, error) { return begin("a"), nil })
			if !errors.Is(err, want) {
				t.Errorf("refused %d times (0: always): %v, want %v", times, err, want)
			}
		})
	}
}

func write(ctx context.Context, store storage.Store, writer, records int) error {
	c := New(store, fmt.Sprintf("host/%d/test", writer), clock())
	s, err := c.Load(ctx)
	for i := 0; i < records && err == nil; i++ {
		s, err = c.Append(ctx, s, func(at *State) (Record, error) {
			if at.Entry(fmt.Sprintf("%02d-%02d", writer, i)) != nil {
				return Record{}, errors.New("asked to build a record that is there already")
			}
			return begin(fmt.Sprintf("%02d-%02d", writer, i)), nil
		})
	}
	return err
}

func checkLog(t *testing.T, store storage.Store, writers, each int) {
	t.Helper()
	total := writers * each
	if n := len(keys(t, store, "catalog/log/")); n != total {
		t.Errorf("the log has %d objects, want %d", n, total)
	}
	prev, next := "", make([]int, writers)
	for n := range total {
		data := read(t, store, recordKey(int64(n+1)))
		var r Record
		if err := json.Unmarshal(data, &r); err != nil {
			t.Fatal(err)
		}
		if r.N != int64(n+1) || r.Prev != prev {
			t.Errorf("record %d says that it is %d after %q, want after %q", n+1, r.N, r.Prev, prev)
		}
		prev = sum(data)
		var writer, i int
		if _, err := fmt.Sscanf(r.Begin.Backup, "%d-%d", &writer, &i); err != nil {
			t.Fatal(err)
		}
		if i != next[writer] || r.By != fmt.Sprintf("host/%d/test", writer) {
			t.Errorf("record %d is number %d of writer %d (by %s), want number %d", n+1, i, writer, r.By, next[writer])
		}
		next[writer]++
	}
	s := load(t, store)
	if s.N != int64(total) || s.Head != prev || len(s.Entries) != total || len(s.Problems) != 0 {
		t.Errorf("a reader sees %d records, %d backups, head %s, problems %v", s.N, len(s.Entries), s.Head, s.Problems)
	}
}

func TestCheckpointsOnlySaveTime(t *testing.T) {
	store := storagetest.NewFaulty(mem.New())
	var records []Record
	records = append(records, Record{Type: "server", Server: &Server{SystemID: 7, PGVersion: 150004, SegmentSize: 16 << 20}})
	for i := range 84 {
		id := fmt.Sprintf("b%03d", i)
		records = append(records, begin(id), commit(id), Record{Type: "pin", Pin: &Pin{Backup: id, Until: time.Unix(1e9, 0).UTC()}})
	}
	records[102] = Record{Type: "delete", Delete: &Delete{Backups: []string{"b000"}, Parts: map[string]Ranges{"b000": {{1, 45}, {47, 47}}, "b001": {}},
		WAL: []WALRange{{SystemID: 7, First: "000000010000000000000001", Last: "000000010000000000000002"}}}}
	written := add(t, store, records...)
	if got := keys(t, store, "catalog/checkpoints/"); len(got) != 25 || got[0] != checkpointKey(250) {
		t.Fatalf("checkpoints are %q, want 25, the newest first", got)
	}
	before := len(store.Ops())
	s := load(t, store)
	ops := store.Ops()[before:]
	if got := len(ops); got != 3+1+3+1 {
		t.Errorf("reading 253 records took %d requests: want a listing and two checkpoints, a listing, 3 records and a look beyond the last: %v", got, ops)
	}
	if encode(t, s) != encode(t, written) {
		t.Errorf("a reader sees\n%s\nthe writer\n%s", encode(t, s), encode(t, written))
	}

	for _, n := range []int64{250, 200, 190} {
		replace(t, store, checkpointKey(n), []byte(`{"version":1,"state":{"n":20`))
		if got := load(t, store); encode(t, got) != encode(t, s) {
			t.Errorf("with checkpoint %d damaged, too, a reader sees\n%s\nwant\n%s", n, encode(t, got), encode(t, s))
		}
	}
	for _, key := range keys(t, store, "catalog/checkpoints/") {
		if err := store.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if got := load(t, store); encode(t, got) != encode(t, s) {
		t.Errorf("without checkpoints a reader sees\n%s\nwant\n%s", encode(t, got), encode(t, s))
	}
}

// Checkpoints that are not needed any more can go while others read, and those that are needed stay.
func TestPrune(t *testing.T) {
	store := storagetest.NewFaulty(mem.New())
	var records []Record
	for i := range 215 {
		records = append(records, begin(fmt.Sprintf("b%03d", i)))
	}
	written := add(t, store, records...)
	c := New(store, "host/5/test", clock())
	reader := ""
	store.Script(storagetest.Fault{Mode: storagetest.Pass, Times: 1, When: func(op storagetest.Op) bool { return op.Key == checkpointKey(210) }, Hook: func(storagetest.Op) {
		if err := c.Prune(t.Context(), written); err != nil { // between a reader's listing and its first look
			t.Error(err)
		}
		reader = "saw it"
	}})
	if got := load(t, store); encode(t, got) != encode(t, written) || reader == "" {
		t.Errorf("a reader sees\n%s\nwant\n%s", encode(t, got), encode(t, written))
	}
	if got, want := keys(t, store, "catalog/checkpoints/"), []string{checkpointKey(210), checkpointKey(200)}; !slices.Equal(got, want) {
		t.Errorf("left are %q, want %q", got, want)
	}
}

// A record is written when its object is: whoever is told otherwise would report a backup as failed that is there.
func TestCheckpointThatFailsIsNoFailureOfTheRecord(t *testing.T) {
	store := storagetest.NewFaulty(mem.New(), storagetest.Fault{When: func(op storagetest.Op) bool {
		return op.Name == "put" && strings.HasPrefix(op.Key, "catalog/checkpoints/")
	}})
	var records []Record
	for i := range 101 {
		records = append(records, begin(fmt.Sprintf("b%03d", i)))
	}
	if s := add(t, store, records...); s.N != 101 {
		t.Errorf("the log has %d records, want 101", s.N)
	}
	if found := keys(t, store, "catalog/checkpoints/"); len(found) != 0 {
		t.Fatalf("the fault did not strike: %q", found)
	}
}

// laggard is a store whose listings are old, as some are.
type laggard struct {
	storage.Store
	last string // the last key that listings show
}

func (l laggard) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		for info, err := range l.Store.List(ctx, prefix, startAfter) {
			if err == nil && info.Key > l.last || !yield(info, err) {
				return
			}
		}
	}
}

func TestListingsThatLagHideNothing(t *testing.T) {
	store := mem.New()
	add(t, store, begin("a"), commit("a"), begin("b"), commit("b"))
	for _, last := range []string{"", recordKey(1), recordKey(3)} {
		if got := complete(load(t, laggard{store, last})); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("listings up to %q: a reader sees %q", last, got)
		}
	}
}

func TestDamagedRecordIsNamedAndHidesNoOther(t *testing.T) {
	history := []Record{begin("a"), commit("a"), begin("b"), commit("b"), begin("c"), commit("c")}
	for n, want := range map[int64][]string{1: {"a", "b", "c"}, 3: {"a", "b", "c"}, 4: {"a", "c"}, 6: {"a", "b"}} {
		key := recordKey(n)
		for name, damage := range map[string]func(*testing.T, storage.Store){
			"cut off": func(t *testing.T, s storage.Store) { data := read(t, s, key); replace(t, s, key, data[:len(data)/2]) },
			"one bit": func(t *testing.T, s storage.Store) {
				data := bytes.Clone(read(t, s, key))
				data[len(data)/2] ^= 4
				replace(t, s, key, data)
			},
			"empty": func(t *testing.T, s storage.Store) { replace(t, s, key, nil) },
			"another's place": func(t *testing.T, s storage.Store) {
				replace(t, s, key, resealed(bytes.Replace(read(t, s, key), fmt.Appendf(nil, `"n":%d,`, n), []byte(`"n":2000000,`), 1)))
			},
			"missing": func(t *testing.T, s storage.Store) {
				if err := s.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			},
		} {
			if n == 6 && name == "missing" {
				continue // a log that is cut off is a shorter log: the hash chain cannot tell
			}
			t.Run(fmt.Sprintf("%s %d", name, n), func(t *testing.T) {
				store := mem.New()
				add(t, store, history...)
				damage(t, store)
				s := load(t, store)
				if !strings.Contains(strings.Join(s.Problems, "\n"), key) {
					t.Errorf("problems do not name %s: %q", key, s.Problems)
				}
				got := complete(s)
				for _, id := range want {
					if !slices.Contains(got, id) {
						t.Errorf("backup %s is hidden; there are %q", id, got)
					}
				}
				if n == 3 && name != "another's place" {
					if e := s.Entry("b"); e == nil || e.Status != Complete || e.Begin.SystemID != 7 {
						t.Errorf("without its begin record backup b is %+v", e)
					}
				}
				refused(t, store, ErrDamaged, key)
			})
		}
	}
}

// A record that was changed but is still one shows in the next one, which has the hash of what was written.
func TestChangedRecordBreaksTheChain(t *testing.T) {
	store := mem.New()
	add(t, store, begin("a"), commit("a"), begin("b"))
	replace(t, store, recordKey(2), resealed(bytes.Replace(read(t, store, recordKey(2)), []byte(`"files":1`), []byte(`"files":9`), 1)))
	if s := load(t, store); len(s.Problems) != 1 || !strings.Contains(s.Problems[0], recordKey(3)) {
		t.Errorf("problems: %q, want that %s does not follow", s.Problems, recordKey(3))
	}
	refused(t, store, ErrDamaged, "")
}

// refused checks that nothing can be added to the log, and that nothing was.
func refused(t *testing.T, store storage.Store, want error, text string) {
	t.Helper()
	before := keys(t, store, "")
	c := New(store, "host/3/test", clock())
	s, err := c.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Append(t.Context(), s, func(*State) (Record, error) { return begin("new"), nil })
	if !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
		t.Errorf("append to it: %v, want %v with %q", err, want, text)
	}
	if after := keys(t, store, ""); !slices.Equal(before, after) {
		t.Errorf("objects before: %q, after: %q", before, after)
	}
}

func TestNewerRecordsMakeItReadOnly(t *testing.T) {
	for name, record := range map[string]string{
		"unknown type":   `{"version":1,"n":3,"prev":%q,"time":"2030-01-01T00:00:00Z","by":"x","type":"merge","merge":{"into":"a"}}`,
		"higher version": `{"version":2,"n":3,"prev":%q,"time":{"s":1},"type":"begin","begin":{"backup":"z"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			store := mem.New()
			state := add(t, store, begin("a"), commit("a"))
			replace(t, store, recordKey(3), resealed(fmt.Appendf(nil, record, state.Head)))
			s := load(t, store)
			if !s.Newer || !slices.Equal(complete(s), []string{"a"}) || s.Entry("z") != nil {
				t.Errorf("a reader sees %s", encode(t, s))
			}
			refused(t, store, ErrNewer, "")
		})
	}
}

// The record that a writer makes must fit the log at its place, not the log that it once saw.
func TestLoserOfARaceBuildsAnew(t *testing.T) {
	store := mem.New()
	add(t, store, begin("a"), commit("a"), begin("b"))
	c := New(store, "host/4/test", clock())
	s, err := c.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	_, err = c.Append(t.Context(), s, func(s *State) (Record, error) {
		if calls++; calls == 1 { // between our look and our write
			add(t, store, Record{Type: "delete", Delete: &Delete{Backups: []string{"a"}, Parts: map[string]Ranges{"a": {{1, 3}}}}})
		}
		return commit("b"), s.CheckCommit("b", map[string][]int{"a": {2}})
	})
	if err == nil || !strings.Contains(err.Error(), "has been deleted") || calls != 2 {
		t.Errorf("after %d calls: %v, want that the part is gone", calls, err)
	}
	if got := complete(load(t, store)); len(got) != 0 {
		t.Errorf("complete backups: %q", got)
	}
}

func TestErrorsOfTheStoreAreTold(t *testing.T) {
	inner := mem.New()
	add(t, inner, begin("a"), commit("a"))
	ops := func() int {
		f := storagetest.NewFaulty(inner)
		load(t, f)
		return len(f.Ops())
	}()
	for n := range ops {
		f := storagetest.NewFaulty(inner, storagetest.Fault{When: storagetest.Nth(n + 1), Kind: storage.KindDenied})
		if _, err := New(f, "x", clock()).Load(t.Context()); !errors.Is(err, storage.ErrDenied) {
			t.Errorf("request %d of %d is denied: %v", n+1, ops, err)
		}
	}
}
