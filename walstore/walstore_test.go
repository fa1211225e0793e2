package walstore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/mem"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

const (
	sysid   = 7710474189093401805
	segSize = 1 << 20
)

// wal is the content of a segment as PostgreSQL 15 lays it out, filled from seed.
func wal(name string, sysid uint64, size int, seed uint64) []byte {
	b := make([]byte, size)
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := 40; i < size/2; i += 8 { // the other half is zero, as after a switch
		binary.LittleEndian.PutUint64(b[i:], rng.Uint64()&0xFF00FF)
	}
	seg, err := segment.ParseName(name[:24], segment.Size(size))
	if err != nil {
		panic(err)
	}
	le := binary.LittleEndian
	le.PutUint16(b[0:], 0xD110)
	le.PutUint16(b[2:], 2)
	le.PutUint32(b[4:], uint32(seg.Timeline))
	le.PutUint64(b[8:], uint64(seg.Start(segment.Size(size))))
	le.PutUint64(b[24:], sysid)
	le.PutUint32(b[32:], uint32(size))
	le.PutUint32(b[36:], 8192)
	return b
}

func writeFile(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func known() (uint64, error) { return sysid, nil }

func push(t *testing.T, s storage.Store, name string, data []byte) (walstore.PushResult, error) {
	t.Helper()
	return walstore.Push(t.Context(), s, walstore.PushRequest{Path: writeFile(t, name, data), SystemID: known})
}

// archive pushes well-formed files under these names.
func archive(t *testing.T, s storage.Store, names ...string) {
	t.Helper()
	for _, name := range names {
		var data []byte
		switch segment.Classify(name) {
		case segment.Full, segment.Partial:
			data = wal(name, sysid, segSize, 7)
		case segment.History:
			data = []byte("1\t0/500000\tno recovery target specified\n")
		default:
			data = []byte("START WAL LOCATION: 0/100028 (file 000000010000000000000001)\n")
		}
		if _, err := push(t, s, name, data); err != nil {
			t.Fatal(err)
		}
	}
}

// fetchInto fetches into a new directory and returns the content; a failed fetch must leave nothing in it.
func fetchInto(t *testing.T, s storage.Store, name string) ([]byte, error) {
	t.Helper()
	dir := t.TempDir()
	dest := filepath.Join(dir, "RECOVERYXLOG")
	err := walstore.Fetch(t.Context(), s, walstore.FetchRequest{Name: name, Dest: dest, SystemID: sysid})
	entries, rerr := os.ReadDir(dir)
	if rerr != nil {
		t.Fatal(rerr)
	}
	if err != nil {
		if len(entries) != 0 {
			t.Errorf("a failed fetch left %v", entries)
		}
		return nil, err
	}
	if len(entries) != 1 {
		t.Errorf("a fetch left %v", entries)
	}
	info, rerr := os.Stat(dest)
	if rerr != nil {
		t.Fatal(rerr)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	data, rerr := os.ReadFile(dest)
	if rerr != nil {
		t.Fatal(rerr)
	}
	return data, nil
}

func keys(t *testing.T, s storage.Store) []string {
	t.Helper()
	var all []string
	for info, err := range s.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, info.Key)
	}
	return all
}

const seg1 = "000000010000000000000001"

func TestRoundTripOfEveryKindAndSize(t *testing.T) {
	s := mem.New()
	files := map[string][]byte{
		"00000002.history":         []byte("1\t0/500000\tno recovery target specified\n"),
		seg1 + ".00000028.backup":  []byte("START WAL LOCATION: 0/1000028\n"),
		"000000030000000000000001": wal("000000030000000000000001", sysid, 64<<20, 1),
		seg1 + ".partial":          wal(seg1, sysid, segSize, 2),
	}
	for i, size := range []int{1 << 20, 2 << 20, 4 << 20, 16 << 20} {
		name := segment.Segment{Timeline: 1, No: uint64(i + 2)}.Name(segment.Size(size))
		files[name] = wal(name, sysid, size, uint64(i))
	}
	for name, data := range files {
		res, err := push(t, s, name, data)
		if err != nil || res.AlreadyThere || res.Raw != int64(len(data)) || len(res.Warnings) != 0 {
			t.Fatalf("%s: %+v, %v", name, res, err)
		}
		o, ok := object.ParseKey(res.Key)
		if !ok || o.Name != name || o.SystemID != sysid {
			t.Errorf("%s is stored as %s, which is %+v, %v", name, res.Key, o, ok)
		}
		got, err := fetchInto(t, s, name)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(data), err)
		}
	}
	if n := len(keys(t, s)); n != len(files) {
		t.Errorf("%d objects for %d files", n, len(files))
	}
}

func TestPushTwice(t *testing.T) {
	s := mem.New()
	data := wal(seg1, sysid, segSize, 1)
	if _, err := push(t, s, seg1, data); err != nil {
		t.Fatal(err)
	}
	if res, err := push(t, s, seg1, data); err != nil || !res.AlreadyThere {
		t.Errorf("the same again: %+v, %v", res, err)
	}
	other := bytes.Clone(data)
	other[5000] ^= 1
	_, err := push(t, s, seg1, other)
	conflict, ok := errors.AsType[*object.ConflictError](err)
	if !ok || conflict.Source != sha256.Sum256(other) || conflict.Stored != sha256.Sum256(data) {
		t.Errorf("other content: %v", err)
	}
	if got, err := fetchInto(t, s, seg1); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the first content is gone: %v", err)
	}
}

func TestPushOnDamagedObject(t *testing.T) {
	s := mem.New()
	put(t, s, object.Key(sysid, seg1), []byte("not ours"))
	_, err := push(t, s, seg1, wal(seg1, sysid, segSize, 1))
	if !errors.Is(err, object.ErrDamaged) || errors.Is(err, object.ErrConflict) {
		t.Errorf("%v", err)
	}
}

// A store that refuses a Put because of another that it has not finished: nothing can be read for a moment.
func TestPushOnUnfinishedObject(t *testing.T) {
	data := wal(seg1, sysid, segSize, 1)
	for name, later := range map[string][]byte{"the same": data, "other": wal(seg1, sysid, segSize, 2), "nothing": nil} {
		s := &unfinished{Store: mem.New(), refusals: 3, finish: func(s storage.Store) {
			if later != nil {
				if _, err := push(t, s, seg1, later); err != nil {
					t.Error(err)
				}
			}
		}}
		res, err := push(t, s, seg1, data)
		if name == "other" {
			if !errors.Is(err, object.ErrConflict) {
				t.Errorf("%s: %v", name, err)
			}
		} else if err != nil || res.AlreadyThere != (later != nil) {
			t.Errorf("%s: %+v, %v", name, res, err)
		}
	}
}

type unfinished struct {
	storage.Store
	refusals int
	finish   func(storage.Store)
}

func (u *unfinished) Put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	if u.refusals--; u.refusals >= 0 {
		return &storage.Error{Op: "put", Key: key, Store: "test", Kind: storage.KindExists}
	}
	if u.refusals == -1 {
		u.finish(u.Store)
	}
	return u.Store.Put(ctx, key, body, size)
}

func put(t *testing.T, s storage.Store, key string, data []byte) {
	t.Helper()
	if err := s.Put(t.Context(), key, bytes.NewReader(data), int64(len(data))); err != nil {
		t.Fatal(err)
	}
}

func TestPushRefuses(t *testing.T) {
	good := wal(seg1, sysid, segSize, 1)
	cases := []struct {
		what, name string
		data       []byte
		want       error
	}{
		{"odd name", "xlogtemp.1", good, object.ErrName},
		{"lower case", "00000001000000000000000a", good, object.ErrName},
		{"empty", seg1, nil, object.ErrSource},
		{"half", seg1, good[:segSize/2], object.ErrSource},
		{"one byte more", seg1, append(bytes.Clone(good), 0), object.ErrSource},
		{"zeros", seg1, make([]byte, segSize), object.ErrSource},
		{"recycled", "000000010000000000000002", good, object.ErrSource},
		{"timeline of the future", seg1, wal("000000020000000000000001", sysid, segSize, 1), object.ErrSource},
		{"another cluster", seg1, wal(seg1, sysid+1, segSize, 1), object.ErrSource},
		{"short partial", seg1 + ".partial", good[:8192], object.ErrSource},
		{"empty history", "00000002.history", nil, object.ErrSource},
		{"torn history", "00000002.history", []byte("1\t0/5000"[:2]), object.ErrSource},
		{"history of another", "00000002.history", []byte("2\t0/500000\tx\n"), object.ErrSource},
		{"huge note", seg1 + ".00000028.backup", make([]byte, object.NoteLimit+1), object.ErrSource},
	}
	for _, c := range cases {
		s := mem.New()
		if _, err := push(t, s, c.name, c.data); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.what, err)
		}
		if k := keys(t, s); len(k) != 0 {
			t.Errorf("%s: stored %v", c.what, k)
		}
	}
	dir := filepath.Join(t.TempDir(), seg1)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, filepath.Join(dir, seg1)} {
		if _, err := walstore.Push(t.Context(), mem.New(), walstore.PushRequest{Path: path}); !errors.Is(err, object.ErrSource) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// The source changes after it was opened and its size taken.
func TestPushNoticesAChangingFile(t *testing.T) {
	const size = 16 << 20
	data := wal(seg1, sysid, size, 1)
	changes := map[string]func(path string) error{
		"truncated":      func(path string) error { return os.Truncate(path, size-8192) },
		"truncated to 0": func(path string) error { return os.Truncate(path, 0) },
		"grown":          func(path string) error { return os.Truncate(path, size+1) },
		"rewritten":      func(path string) error { return os.WriteFile(path, data[:size:size], 0o600) },
	}
	for what, change := range changes {
		path := writeFile(t, seg1, data)
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		src, err := walstore.Inspect(f, seg1, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := change(path); err != nil {
			t.Fatal(err)
		}
		if _, err := walstore.Compress(t.Context(), walstore.PushRequest{}, src); !errors.Is(err, object.ErrSource) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestFirstMissing(t *testing.T) {
	s := mem.New()
	archive(t, s, seg1, "000000010000000000000002", "000000010000000000000002.00000028.backup", "000000010000000000000003.partial",
		"000000010000000000000004", "000000020000000000000003")
	seg := func(no uint64) segment.Segment { return segment.Segment{Timeline: 1, No: no} }
	cases := []struct {
		first, last uint64
		missing     uint64 // 0: none
	}{{1, 1, 0}, {1, 2, 0}, {2, 2, 0}, {1, 3, 3}, {3, 3, 3}, {3, 4, 3}, {4, 4, 0}, {4, 5, 5}, {4, 9, 5}, {9, 9, 9}}
	for _, c := range cases {
		got, any, err := walstore.FirstMissing(t.Context(), s, sysid, seg(c.first), seg(c.last), segSize)
		if err != nil || any != (c.missing != 0) || any && got != seg(c.missing) {
			t.Errorf("%d to %d: %v, %v, %v", c.first, c.last, got, any, err)
		}
	}
	if _, any, err := walstore.FirstMissing(t.Context(), s, sysid+1, seg(1), seg(1), segSize); !any || err != nil {
		t.Errorf("of another cluster: %v, %v", any, err)
	}
}

// For whoever has nothing but zstd: see the package comment.
func TestObjectIsPlainZstd(t *testing.T) {
	s := mem.New()
	archive(t, s, seg1)
	body, err := storage.ReadAll(t.Context(), s, object.Key(sysid, seg1), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	dec, err := zstd.NewReader(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	got, err := io.ReadAll(dec)
	if err != nil || !bytes.Equal(got, wal(seg1, sysid, segSize, 7)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// FuzzDecode: whatever an object holds, only the named segment comes out, and not more than that.
func FuzzDecode(f *testing.F) {
	data := wal(seg1, sysid, segSize, 1)
	clear(data[segment.HeaderSize:]) // small seeds are tried more often
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		f.Fatal(err)
	}
	body := append(enc.EncodeAll(data, nil), object.Trailer{Length: segSize, Sum: sha256.Sum256(data)}.Bytes()...)
	f.Add(body, uint16(0), byte(0))
	f.Add(body[:100], uint16(3), byte(7))
	f.Fuzz(func(t *testing.T, b []byte, at uint16, x byte) {
		if len(b) > 0 {
			b = bytes.Clone(b)
			b[int(at)%len(b)] ^= x
		}
		var out bytes.Buffer
		c, err := object.Decode(&out, bytes.NewReader(b), seg1, sysid)
		if out.Len() > 1<<30 {
			t.Fatal("more than a segment came out")
		}
		if err != nil {
			return
		}
		h, err := segment.ParseHeader(out.Bytes())
		if err != nil || h.Verify(seg1, c.Length) != nil || c.Sum != sha256.Sum256(out.Bytes()) {
			t.Errorf("%+v, %v", h, err)
		}
	})
}

// failing makes one call fail.
type failing struct {
	storage.Store
	at, calls int
	kind      storage.Kind
}

func (f *failing) fail(op string) error {
	if f.calls++; f.calls == f.at {
		return &storage.Error{Op: op, Key: "x", Store: "test", Kind: f.kind, Err: errors.New("as told")}
	}
	return nil
}

func (f *failing) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, error) {
	if err := f.fail("get"); err != nil {
		return nil, err
	}
	return f.Store.Get(ctx, key, r)
}

func (f *failing) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Info, error] {
	if err := f.fail("list"); err != nil {
		return func(yield func(storage.Info, error) bool) { yield(storage.Info{}, err) }
	}
	return f.Store.List(ctx, prefix, startAfter)
}

// cutting breaks every download off after n bytes.
type cutting struct {
	storage.Store
	n int64
}

func (c *cutting) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, error) {
	body, err := c.Store.Get(ctx, key, r)
	if err != nil {
		return nil, err
	}
	broken := &storage.Error{Op: "get", Key: key, Store: "test", Kind: storage.KindTransient, Err: io.ErrUnexpectedEOF}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(body, c.n), iotest.ErrReader(broken)), body}, nil
}
