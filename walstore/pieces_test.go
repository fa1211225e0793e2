package walstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/mem"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/partial"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/survey"
)

const (
	seg2      = "000000010000000000000002"
	seg3      = "000000010000000000000003"
	seg2on2   = "000000020000000000000002"
	forkAt    = 2*segSize + 300_000 // in seg2
	received2 = 500_000             // bytes of seg2 that were received
)

func putPieces(t *testing.T, s storage.Store, data []byte, name string, bounds ...int64) {
	t.Helper()
	for i := 1; i < len(bounds); i++ {
		if err := partial.PutPiece(t.Context(), s, sysid, object.Piece{Segment: name, From: bounds[i-1], To: bounds[i]}, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
	}
}

// received is an archive that ends with pieces of seg2, and what seg2 will be.
func received(t *testing.T) (storage.Store, []byte) {
	t.Helper()
	s := mem.New()
	archive(t, s, seg1)
	data := wal(seg2, sysid, segSize, 5)
	putPieces(t, s, data, seg2, 0, 8192, 100_000, received2)
	return s, data
}

func fetchReceivedInto(t *testing.T, s storage.Store, name string, r *walstore.Received) ([]byte, error) {
	t.Helper()
	dest := filepath.Join(t.TempDir(), "RECOVERYXLOG")
	err := walstore.Fetch(t.Context(), s, walstore.FetchRequest{Name: name, Dest: dest, SystemID: sysid, Received: r})
	data, readErr := os.ReadFile(dest)
	if (err == nil) != (readErr == nil) {
		t.Fatalf("%v, but the file: %v", err, readErr)
	}
	return data, err
}

func upToZeros(data []byte, n int) []byte {
	return append(bytes.Clone(data[:n]), make([]byte, len(data)-n)...)
}

// What was received of a segment is given only to who asks for it, only at the end of the archive, and never more
// than belongs to the way to the target.
func TestFetchReceived(t *testing.T) {
	history := "1\t0/" + segment.LSN(forkAt).String()[2:] + "\tno recovery target specified\n"
	fork := func(t *testing.T, s storage.Store) {
		if _, err := push(t, s, "00000002.history", []byte(history)); err != nil {
			t.Fatal(err)
		}
	}
	cases := map[string]struct {
		prepare func(t *testing.T, s storage.Store, data []byte)
		ask     *walstore.Received
		want    int // bytes before the zeros
		err     error
	}{
		"at the end":       {ask: &walstore.Received{}, want: received2},
		"who does not ask": {err: walstore.ErrAbsent},
		"its own timeline": {ask: &walstore.Received{Target: 1}, want: received2},
		"later segment": {prepare: func(t *testing.T, s storage.Store, _ []byte) { archive(t, s, seg3) },
			ask: &walstore.Received{}, err: walstore.ErrGap},
		"later pieces": {prepare: func(t *testing.T, s storage.Store, _ []byte) {
			putPieces(t, s, wal(seg3, sysid, segSize, 6), seg3, 0, 8192)
		},
			ask: &walstore.Received{}, err: walstore.ErrGap},
		"later pieces, and who does not ask": {prepare: func(t *testing.T, s storage.Store, _ []byte) {
			putPieces(t, s, wal(seg3, sysid, segSize, 6), seg3, 0, 8192)
		}, err: walstore.ErrGap},
		"to the latest of two": {prepare: func(t *testing.T, s storage.Store, _ []byte) { fork(t, s) }, ask: &walstore.Received{}, want: forkAt - 2*segSize},
		"to the second":        {prepare: func(t *testing.T, s storage.Store, _ []byte) { fork(t, s) }, ask: &walstore.Received{Target: 2}, want: forkAt - 2*segSize},
		"to the first of two":  {prepare: func(t *testing.T, s storage.Store, _ []byte) { fork(t, s) }, ask: &walstore.Received{Target: 1}, want: received2},
		"to one that is unknown": {prepare: func(t *testing.T, s storage.Store, _ []byte) { fork(t, s) }, ask: &walstore.Received{Target: 3},
			err: storage.ErrNotFound},
		"overlapping": {prepare: func(t *testing.T, s storage.Store, data []byte) {
			putPieces(t, s, data, seg2, 4096, 300_000, 700_000)
			putPieces(t, s, data, seg2, 0, 700)
		}, ask: &walstore.Received{}, want: 700_000},
		"after a gap": {prepare: func(t *testing.T, s storage.Store, data []byte) { putPieces(t, s, data, seg2, received2+1, 700_000) },
			ask: &walstore.Received{}, want: received2},
		"all of it": {prepare: func(t *testing.T, s storage.Store, data []byte) { putPieces(t, s, data, seg2, received2, segSize) },
			ask: &walstore.Received{}, want: segSize},
		"complete": {prepare: func(t *testing.T, s storage.Store, data []byte) {
			if _, err := push(t, s, seg2, data); err != nil {
				t.Fatal(err)
			}
		}, ask: &walstore.Received{}, want: segSize},
		"no beginning": {prepare: func(t *testing.T, s storage.Store, data []byte) {
			if err := partial.DropPiece(t.Context(), s, sysid, object.Piece{Segment: seg2, From: 0, To: 8192}); err != nil {
				t.Fatal(err)
			}
		}, ask: &walstore.Received{}, err: walstore.ErrAbsent},
		"damaged": {prepare: func(t *testing.T, s storage.Store, data []byte) {
			p := object.Piece{Segment: seg2, From: 8192, To: 100_000}
			if err := partial.DropPiece(t.Context(), s, sysid, p); err != nil {
				t.Fatal(err)
			}
			put(t, s, p.Key(sysid), objectOf(t, data[8192:99_999]))
		}, ask: &walstore.Received{}, err: object.ErrDamaged},
		"on the second timeline": {prepare: func(t *testing.T, s storage.Store, data []byte) {
			fork(t, s)
			putPieces(t, s, data, seg2on2, 0, 400_000)
		}, ask: &walstore.Received{}, want: forkAt - 2*segSize}, // seg2 of the first is asked for below
	}
	for what, c := range cases {
		t.Run(what, func(t *testing.T) {
			s, data := received(t)
			if c.prepare != nil {
				c.prepare(t, s, data)
			}
			got, err := fetchReceivedInto(t, s, seg2, c.ask)
			if c.err != nil {
				if !errors.Is(err, c.err) {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil || !bytes.Equal(got, upToZeros(data, c.want)) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}

// PostgreSQL's own copy is left to it when it begins with what was received: it may reach further.
func TestFetchReceivedBesideOwnCopy(t *testing.T) {
	s, data := received(t)
	own := filepath.Join(t.TempDir(), seg2)
	other := bytes.Clone(data)
	other[1000] ^= 1
	for what, c := range map[string]struct {
		own    []byte
		absent bool
	}{
		"further": {upToZeros(data, received2+5000), true}, "as far": {upToZeros(data, received2), true}, "shorter": {upToZeros(data, received2-100), false},
		"another": {other, false}, "cut": {data[:1000], false}, "none": {nil, false},
	} {
		t.Run(what, func(t *testing.T) {
			_ = os.Remove(own)
			if c.own != nil {
				if err := os.WriteFile(own, c.own, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := fetchReceivedInto(t, s, seg2, &walstore.Received{Own: own})
			if c.absent && !errors.Is(err, walstore.ErrAbsent) || !c.absent && (err != nil || !bytes.Equal(got, upToZeros(data, received2))) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}

// A piece that is there is compared.
func TestPutPieceTwice(t *testing.T) {
	s, data := received(t)
	putPieces(t, s, data, seg2, 0, 8192)
	data[5000] ^= 1
	err := partial.PutPiece(t.Context(), s, sysid, object.Piece{Segment: seg2, From: 0, To: 8192}, bytes.NewReader(data))
	if !errors.Is(err, object.ErrConflict) {
		t.Error(err)
	}
}

// While a receiver works on a segment and completes it, whoever asks gets a beginning of it, or all; never a gap.
func TestFetchReceivedMeanwhile(t *testing.T) {
	s := mem.New()
	archive(t, s, seg1)
	two, three := wal(seg2, sysid, segSize, 5), wal(seg3, sysid, segSize, 6)
	done := make(chan error, 1)
	ctx := context.WithoutCancel(t.Context())
	go func() { done <- grow(ctx, s, two, three) }()
	last := 0
	for ended := false; !ended; {
		select {
		case err := <-done:
			if ended = true; err != nil {
				t.Fatal(err)
			}
		default:
		}
		got, err := fetchReceivedInto(t, s, seg2, &walstore.Received{})
		if errors.Is(err, walstore.ErrAbsent) && last == 0 {
			continue
		}
		n := 0
		for n < len(got) && got[n] == two[n] {
			n++
		}
		if err != nil || n < last || !bytes.Equal(got[n:], make([]byte, len(got)-n)) {
			t.Fatalf("%d bytes after %d: %v", n, last, err)
		}
		last = n
	}
	if last != segSize {
		t.Error(last)
	}
}

// grow stores two in steps, as one piece that replaces the ones before, then whole, and goes on with three.
func grow(ctx context.Context, s storage.Store, two, three []byte) error {
	var before object.Piece
	for to := int64(8192); to < segSize; to += rand.Int64N(40_000) + 1 {
		p := object.Piece{Segment: seg2, From: 0, To: to}
		if err := partial.PutPiece(ctx, s, sysid, p, bytes.NewReader(two)); err != nil {
			return err
		}
		if before.To != 0 {
			if err := partial.DropPiece(ctx, s, sysid, before); err != nil {
				return err
			}
		}
		before = p
	}
	f, err := os.CreateTemp("", "")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := io.Copy(f, bytes.NewReader(two)); err != nil {
		return err
	}
	if _, err := walstore.Push(ctx, s, walstore.PushRequest{Path: seg2, File: f}); err != nil {
		return err
	}
	if err := partial.PutPiece(ctx, s, sysid, object.Piece{Segment: seg3, From: 0, To: 8192}, bytes.NewReader(three)); err != nil {
		return err
	}
	return partial.DropPiece(ctx, s, sysid, before)
}

func TestPieceNames(t *testing.T) {
	for name, want := range map[string]bool{
		seg2 + ".00000000-00002000.piece": true, seg2 + ".00002000-00002000.piece": false, seg2 + ".00002000-00001000.piece": false,
		seg2 + ".0-2000.piece": false, seg2 + ".00000000-40000000.piece": false, seg2 + ".0000000a-00002000.piece": false, "x.00000000-00002000.piece": false,
		seg2 + ".3E000000-40000000.piece": true, seg2 + ".00000000-00002000": false, seg2 + ".piece": false, seg2[:23] + ".00000000-00002000.piece": false,
	} {
		if p, ok := object.ParsePiece(name); ok != want || ok && p.Name() != name {
			t.Errorf("%s: %v, %v", name, p, ok)
		}
		if want {
			o, ok := object.ParseKey("wal/7/00000001/" + name + ".zst")
			if !ok || o.Type != segment.Received || o.Name != name[:24] {
				t.Errorf("%+v", o)
			}
		}
		if segment.Classify(name) != segment.Invalid {
			t.Errorf("%s is taken for a file of PostgreSQL's", name)
		}
	}
}

// Survey tells pieces that count from those that do not any more.
func TestSurveyPieces(t *testing.T) {
	s, data := received(t)
	all, err := survey.Examine(t.Context(), s, sysid, 0)
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	if seg, reach := all[0].Received(); seg.No != 2 || reach != received2 || len(all[0].Obsolete) != 0 {
		t.Errorf("%v %d %v", seg, reach, all[0].Obsolete)
	}
	if _, err := push(t, s, seg2, data); err != nil {
		t.Fatal(err)
	}
	if all, err = survey.Examine(t.Context(), s, sysid, 0); err != nil {
		t.Fatal(err)
	}
	if _, reach := all[0].Received(); reach != 0 || len(all[0].Obsolete) != 3 || len(all[0].Pieces) != 0 {
		t.Errorf("%d %+v", reach, all[0])
	}
}

// Pieces of a segment say that what lies before it is missing, as wal-fetch does: the segment may be complete only hours later.
func TestGapsBeforePieces(t *testing.T) {
	s := mem.New()
	archive(t, s, seg1, "00000002.history")
	for _, name := range []string{"000000010000000000000004", "000000020000000000000006"} {
		data := wal(name, sysid, segSize, 7)
		if err := partial.PutPiece(t.Context(), s, sysid, object.Piece{Segment: name, From: 0, To: 8192}, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
	}
	all, err := survey.Examine(t.Context(), s, sysid, 0)
	if err != nil || len(all) != 2 {
		t.Fatal(all, err)
	}
	for i, want := range []string{"[000000010000000000000002-000000010000000000000003]", "[000000010000000000000002-000000010000000000000004 000000020000000000000005-000000020000000000000005]"} {
		var got []string
		for _, h := range survey.Gaps(all, all[i]) {
			got = append(got, h.First+"-"+h.Last)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("timeline %d: gaps %v, want %s", i+1, got, want)
		}
	}
}
