package walstore_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/mem"
	"github.com/pgobj/pgobj/storage/storagetest"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
)

// A flipped bit is found, or changed nothing.
func TestFetchRefusesEveryFlippedBit(t *testing.T) {
	s := mem.New()
	archive(t, s, seg1)
	key := object.Key(sysid, seg1)
	body, err := storage.ReadAll(t.Context(), s, key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	want, tried, same := wal(seg1, sysid, segSize, 7), 0, 0
	for i := range body {
		if i >= 256 && i < len(body)-2*object.TrailerSize && i%4096 != 0 {
			continue
		}
		tried++
		bad := mem.New()
		data := bytes.Clone(body)
		data[i] ^= 1 << (i % 8)
		put(t, bad, key, data)
		got, err := fetchInto(t, bad, seg1)
		switch {
		case err == nil && bytes.Equal(got, want): // two encodings of one content: zstd has many
			same++
		case !errors.Is(err, object.ErrDamaged) || !strings.Contains(err.Error(), key):
			t.Errorf("byte %d: %v", i, err)
		}
	}
	if tried < 400 || same > tried/10 {
		t.Errorf("%d bytes were tried, %d of them changed nothing", tried, same)
	}
}

// objectOf wraps content as Push would, without its checks.
func objectOf(t *testing.T, data []byte) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	return append(enc.EncodeAll(data, nil), object.Trailer{Length: int64(len(data)), Sum: sha256.Sum256(data)}.Bytes()...)
}

func TestFetchRefusesWrongObjects(t *testing.T) {
	good := wal(seg1, sysid, segSize, 1)
	body := objectOf(t, good)
	longer := append(bytes.Clone(good), make([]byte, 8192)...)
	history := "00000002.history"
	cases := []struct {
		what, name string
		body       []byte
	}{
		{"empty", seg1, nil}, {"one byte", seg1, []byte{0}}, {"trailer only", seg1, body[len(body)-object.TrailerSize:]},
		{"first half", seg1, body[:len(body)/2]}, {"no trailer", seg1, body[:len(body)-object.TrailerSize]},
		{"without its last byte", seg1, body[:len(body)-1]}, {"one byte more", seg1, append(bytes.Clone(body), 0)},
		{"two objects", seg1, append(bytes.Clone(body), body...)}, {"zeros", seg1, make([]byte, len(body))},
		{"HTML", seg1, []byte("<!DOCTYPE html><html><title>Please log in</title>" + strings.Repeat(" ", 100))},
		{"another segment", seg1, objectOf(t, wal("000000010000000000000002", sysid, segSize, 1))},
		{"another cluster", seg1, objectOf(t, wal(seg1, sysid+1, segSize, 1))},
		{"later timeline", seg1, objectOf(t, wal("000000020000000000000001", sysid, segSize, 1))},
		{"short segment", seg1, objectOf(t, good[:segSize/2])}, {"long segment", seg1, objectOf(t, longer)},
		{"zero segment", seg1, objectOf(t, make([]byte, segSize))}, {"20 bytes", seg1, objectOf(t, good[:20])},
		{"history in a segment's place", seg1, objectOf(t, []byte("1\t0/500000\tx\n"))},
		{"segment in a history's place", history, body}, {"empty history", history, objectOf(t, nil)},
		{"history of an older timeline", history, objectOf(t, []byte("1\t0/5\tx\n2\t0/6\tx\n"))},
	}
	for _, c := range cases {
		s := mem.New()
		put(t, s, object.Key(sysid, c.name), c.body)
		if _, err := fetchInto(t, s, c.name); !errors.Is(err, object.ErrDamaged) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

// A small object that unpacks to 64 GiB must neither fill the disk nor take for ever.
func TestFetchStopsABomb(t *testing.T) {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	zeros := enc.EncodeAll(make([]byte, 8<<20), nil)
	for _, first := range [][]byte{nil, objectOf(t, wal(seg1, sysid, segSize, 1))} {
		bomb := append(bytes.Clone(first), bytes.Repeat(zeros, 8192)...)
		s := mem.New()
		put(t, s, object.Key(sysid, seg1), bomb)
		if _, err := fetchInto(t, s, seg1); !errors.Is(err, object.ErrDamaged) {
			t.Errorf("%v", err)
		}
		n := &counter{}
		if _, err := object.Decode(n, bytes.NewReader(bomb), seg1, sysid); err == nil || n.n > segSize {
			t.Errorf("%d bytes were written: %v", n.n, err)
		}
		if _, err := object.Decode(n, bytes.NewReader(bomb), "00000002.history", sysid); err == nil || n.n > segSize+object.NoteLimit {
			t.Errorf("%d bytes were written: %v", n.n, err)
		}
	}
}

type counter struct{ n int }

func (c *counter) Write(p []byte) (int, error) { c.n += len(p); return len(p), nil }

func TestAbsence(t *testing.T) {
	const (
		seg2, seg3, seg5 = "000000010000000000000002", "000000010000000000000003", "000000010000000000000005"
		tli2seg5         = "000000020000000000000005"
		tli2seg6         = "000000020000000000000006"
		history2         = "00000002.history"
	)
	cases := []struct {
		what  string
		there []string
		name  string
		want  error
	}{
		{"after the last", []string{seg1, seg2}, seg3, walstore.ErrAbsent},
		{"the last is partial", []string{seg1, seg2, seg3 + ".partial"}, seg3, walstore.ErrAbsent},
		{"only a partial", []string{seg3 + ".partial"}, seg3, walstore.ErrAbsent},
		{"a gap", []string{seg1, seg3}, seg2, walstore.ErrGap},
		{"a wide gap", []string{seg1, seg5}, seg2, walstore.ErrGap},
		{"a gap at the next xlogid", []string{seg1, "000000010000000100000000"}, "0000000100000000000000FF", walstore.ErrGap},
		{"a partial in a gap", []string{seg1, seg2 + ".partial", seg3}, seg2, walstore.ErrGap},
		{"a timeline that is not there", []string{seg1}, tli2seg5, walstore.ErrAbsent},
		{"an older timeline goes on", []string{seg1, seg5, history2}, "000000020000000000000004", walstore.ErrAbsent},
		{"history of no timeline", []string{seg1}, history2, walstore.ErrAbsent},
		{"history between others", []string{seg1, "00000003.history"}, history2, walstore.ErrAbsent},
		{"history of a timeline with WAL", []string{seg1, tli2seg5}, history2, walstore.ErrGap},
		{"history of a timeline with a partial", []string{seg1, tli2seg5 + ".partial"}, history2, walstore.ErrGap},
		{"timeline 1 has no history", []string{seg1}, "00000001.history", walstore.ErrAbsent},
		{"before the beginning of a timeline", []string{history2, tli2seg5}, "000000020000000000000004", walstore.ErrAbsent},
		{"first of a timeline", []string{history2, tli2seg6}, tli2seg5, walstore.ErrGap},
		{"before it, without its history", []string{tli2seg5}, "000000020000000000000004", walstore.ErrGap},
		{"nothing", nil, seg1, walstore.ErrUnknownArchive},
		{"nothing, history", nil, history2, walstore.ErrUnknownArchive},
		{"nothing, partial", nil, seg1 + ".partial", walstore.ErrUnknownArchive},
		{"a partial", []string{seg1}, seg1 + ".partial", walstore.ErrAbsent},
		{"a backup", []string{seg1}, seg1 + ".00000028.backup", walstore.ErrAbsent},
		{"a name", []string{seg1}, "../" + seg2, object.ErrName},
	}
	for _, c := range cases {
		s := mem.New()
		archive(t, s, c.there...)
		_, err := fetchInto(t, s, c.name)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.what, err)
		}
		if gap, ok := errors.AsType[*walstore.GapError](err); ok && (gap.Missing != c.name || !slices.Contains(c.there, gap.Next)) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

// What is listed and cannot be had is not there, and not absent either: some servers list for a while what they have lost.
func TestListedButGone(t *testing.T) {
	s := mem.New()
	archive(t, s, seg1, seg2)
	f := storagetest.NewFaulty(s, storagetest.Fault{When: storagetest.Named("get"), Kind: storage.KindNotFound})
	_, err := fetchInto(t, f, seg1)
	if !errors.Is(err, storage.ErrNotFound) || errors.Is(err, walstore.ErrAbsent) {
		t.Errorf("%v", err)
	}
}

// A segment that a later timeline comes after was complete when that began, wherever it has gone since.
func TestAbsenceBeforeFork(t *testing.T) {
	s := mem.New()
	const tli1seg4, tli1seg5 = "000000010000000000000004", "000000010000000000000005"
	const history2 = "00000002.history"
	archive(t, s, "000000010000000000000003", history2) // leaves timeline 1 in segment 5
	for name, want := range map[string]error{tli1seg4: walstore.ErrGap, tli1seg5: walstore.ErrAbsent} {
		err := walstore.Fetch(t.Context(), s, walstore.FetchRequest{Name: name, Dest: filepath.Join(t.TempDir(), "x"), SystemID: sysid, Size: segSize})
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if gap, ok := errors.AsType[*walstore.GapError](err); ok && gap.Next != history2 {
			t.Error(err)
		}
		if _, err := fetchInto(t, s, name); !errors.Is(err, walstore.ErrAbsent) {
			t.Errorf("%s, without the segments' size: %v", name, err)
		}
	}
}

// A segment from before its timeline began was never written, also when a later timeline comes from that one: PostgreSQL
// before 2020's minor releases asks for it, and takes the older timeline's when it is told that there is none.
func TestAbsenceBeforeTimeline(t *testing.T) {
	s := mem.New()
	archive(t, s, "000000010000000000000003")
	if _, err := push(t, s, "00000003.history", []byte("1\t0/500000\tx\n2\t0/700080\tx\n")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{"000000020000000000000004": walstore.ErrAbsent, "000000020000000000000005": walstore.ErrGap,
		"000000020000000000000006": walstore.ErrGap, "000000020000000000000007": walstore.ErrAbsent} {
		err := walstore.Fetch(t.Context(), s, walstore.FetchRequest{Name: name, Dest: filepath.Join(t.TempDir(), "x"), SystemID: sysid, Size: segSize})
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
}

// A store that fails or is another one proves nothing: whatever call fails, its error comes back.
func TestTroubleIsNeverAbsence(t *testing.T) {
	s := mem.New()
	archive(t, s, seg1)
	for _, kind := range []storage.Kind{storage.KindOther, storage.KindDenied, storage.KindNoStore, storage.KindTransient} {
		for n := 1; ; n++ {
			f := &failing{Store: s, at: n, kind: kind}
			_, err := fetchInto(t, f, "000000010000000000000002")
			if f.calls < n {
				if n < 4 || !errors.Is(err, walstore.ErrAbsent) {
					t.Errorf("after %d calls: %v", n-1, err)
				}
				break
			}
			if errors.Is(err, walstore.ErrAbsent) || storage.KindOf(err) != kind {
				t.Errorf("kind %d, call %d: %v", kind, n, err)
			}
		}
	}
	// A listing that hides everything but says no error, as a wrong prefix does.
	if _, err := fetchInto(t, storage.Sub(s, "elsewhere"), seg1); !errors.Is(err, walstore.ErrUnknownArchive) {
		t.Errorf("%v", err)
	}
	if err := walstore.Fetch(t.Context(), s, walstore.FetchRequest{Name: seg1, Dest: filepath.Join(t.TempDir(), "x"), SystemID: sysid + 1}); !errors.Is(err, walstore.ErrUnknownArchive) {
		t.Errorf("%v", err)
	}
}

// A body that breaks off is trouble on the way, not a damaged object.
func TestBrokenDownloadIsNotDamage(t *testing.T) {
	s := mem.New()
	archive(t, s, seg1)
	for _, n := range []int64{0, 1, 39, 5000, 100_000} {
		_, err := fetchInto(t, &cutting{s, n}, seg1)
		if !errors.Is(err, storage.ErrTransient) || errors.Is(err, object.ErrDamaged) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

func TestFetchNeedsADirectory(t *testing.T) {
	s := mem.New()
	archive(t, s, seg1)
	err := walstore.Fetch(t.Context(), s, walstore.FetchRequest{Name: seg1, Dest: filepath.Join(t.TempDir(), "no", "such"), SystemID: sysid})
	if !errors.Is(err, object.ErrDest) {
		t.Errorf("%v", err)
	}
}
