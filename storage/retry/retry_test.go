package retry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/mem"
	"github.com/pgobj/pgobj/storage/retry"
	st "github.com/pgobj/pgobj/storage/storagetest"
)

// setup runs f in fake time, with a store that has faults below the retries and one without.
func setup(t *testing.T, f func(t *testing.T, s storage.Store, faulty *st.Faulty, log *bytes.Buffer)) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		faulty := st.NewFaulty(mem.New())
		f(t, retry.New(faulty, retry.Policy{}, slog.New(slog.NewTextHandler(&log, nil))), faulty, &log)
	})
}

func put(s storage.Store, key, data string) error {
	return s.Put(context.Background(), key, strings.NewReader(data), int64(len(data)))
}

func get(t *testing.T, s storage.Store, key string, r storage.Range) (string, error) {
	t.Helper()
	body, err := s.Get(t.Context(), key, r)
	if err != nil {
		return "", err
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	return string(data), err
}

func TestConformance(t *testing.T) {
	st.Run(t, func(*testing.T) storage.Store {
		return retry.New(mem.New(), retry.Policy{}, slog.New(slog.DiscardHandler))
	})
}

// With every third call failing before or after its effect, nothing may be noticed from above.
func TestConformanceUnderFaults(t *testing.T) {
	for _, mode := range []st.Mode{st.Before, st.After} {
		st.Run(t, func(*testing.T) storage.Store {
			faulty := st.NewFaulty(mem.New(), st.Fault{When: func(op st.Op) bool { return op.N%3 == 1 }, Mode: mode})
			return retry.New(faulty, retry.Policy{FirstWait: time.Microsecond}, slog.New(slog.DiscardHandler))
		})
	}
}

func TestTransientIsTriedAgainAndLogged(t *testing.T) {
	setup(t, func(t *testing.T, s storage.Store, faulty *st.Faulty, log *bytes.Buffer) {
		faulty.Script(st.Fault{Times: 3})
		begun := time.Now()
		if err := put(s, "a/b", "x"); err != nil {
			t.Fatal(err)
		}
		if n := len(faulty.Ops()); n != 4 {
			t.Errorf("%d attempts", n)
		}
		// 200 + 400 + 800 ms, less up to a half.
		if d := time.Since(begun); d < 700*time.Millisecond || d > 1400*time.Millisecond {
			t.Errorf("waited %v", d)
		}
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		for i, line := range lines {
			for _, want := range []string{"level=WARN", "op=put", "key=a/b", fmt.Sprintf("attempt=%d", i+1), "wait=", st.ErrFault.Error()} {
				if !strings.Contains(line, want) {
					t.Errorf("%q is not in %q", want, line)
				}
			}
		}
		if len(lines) != 3 {
			t.Errorf("%d lines", len(lines))
		}
	})
}

func TestDefiniteErrorsAreNotTriedAgain(t *testing.T) {
	for _, kind := range []storage.Kind{storage.KindNotFound, storage.KindExists, storage.KindDenied, storage.KindNoStore} {
		setup(t, func(t *testing.T, s storage.Store, faulty *st.Faulty, log *bytes.Buffer) {
			faulty.Script(st.Fault{Kind: kind})
			_, getErr := s.Get(t.Context(), "a", storage.All)
			_, statErr := s.Stat(t.Context(), "a")
			var listErr error
			for _, listErr = range s.List(t.Context(), "", "") {
			}
			for _, err := range []error{put(s, "a", "x"), getErr, statErr, listErr, s.Delete(t.Context(), "a")} {
				if storage.KindOf(err) != kind {
					t.Errorf("%v", err)
				}
			}
			if n := len(faulty.Ops()); n != 5 {
				t.Errorf("%d calls", n)
			}
		})
	}
}

func TestBudgetEnds(t *testing.T) {
	setup(t, func(t *testing.T, s storage.Store, faulty *st.Faulty, log *bytes.Buffer) {
		faulty.Script(st.Fault{})
		begun := time.Now()
		err := put(s, "a", "x")
		if storage.KindOf(err) != storage.KindTransient || !errors.Is(err, st.ErrFault) {
			t.Errorf("%v", err)
		}
		if d := time.Since(begun); d < 4*time.Minute || d > 5*time.Minute {
			t.Errorf("gave up after %v", d)
		}
	})
}

func TestContextEndsWaiting(t *testing.T) {
	setup(t, func(t *testing.T, s storage.Store, faulty *st.Faulty, log *bytes.Buffer) {
		faulty.Script(st.Fault{})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		begun := time.Now()
		_, err := s.Stat(ctx, "a")
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, st.ErrFault) {
			t.Errorf("%v", err)
		}
		if d := time.Since(begun); d != 10*time.Second {
			t.Errorf("after %v", d)
		}
	})
}

func TestLostAnswerOfPut(t *testing.T) {
	for _, c := range []struct {
		name, stored string
		mode         st.Mode
		want         storage.Kind // KindOther: success
	}{
		{"own object", "", st.After, storage.KindOther},
		{"same bytes by another", "mine", st.Before, storage.KindOther},
		{"other bytes", "yours", st.Before, storage.KindExists},
		{"longer", "mine and more", st.Before, storage.KindExists},
		{"shorter", "min", st.Before, storage.KindExists},
	} {
		setup(t, func(t *testing.T, s storage.Store, faulty *st.Faulty, log *bytes.Buffer) {
			if c.stored != "" {
				if err := put(s, "a", c.stored); err != nil {
					t.Fatal(err)
				}
			}
			faulty.Script(st.Fault{Mode: c.mode, Times: 1, When: st.Named("put")}, st.Fault{Mode: st.Cut, At: 2, Times: 1, When: st.Named("get")})
			err := put(s, "a", "mine")
			if storage.KindOf(err) != c.want || (err == nil) != (c.want == storage.KindOther) {
				t.Errorf("%s: %v", c.name, err)
			}
			if got, err := get(t, s, "a", storage.All); c.stored != "" && got != c.stored || err != nil {
				t.Errorf("%s: stored is %q, %v", c.name, got, err)
			}
		})
	}
}

// Without an attempt that may have stored something, "exists" says that another was first.
func TestExistsAtFirstAttemptIsTold(t *testing.T) {
	setup(t, func(t *testing.T, s storage.Store, faulty *st.Faulty, log *bytes.Buffer) {
		if err := put(s, "a", "mine"); err != nil {
			t.Fatal(err)
		}
		if err := put(s, "a", "mine"); storage.KindOf(err) != storage.KindExists {
			t.Errorf("%v", err)
		}
		if n := len(faulty.Ops()); n != 2 {
			t.Errorf("%d calls", n)
		}
	})
}

func TestDownloadIsResumed(t *testing.T) {
	data := string(st.Random(1, 1000))
	for _, r := range []storage.Range{{}, {Offset: 100}, {Offset: 100, Length: 500}, {Length: 1000}, {Offset: 900, Length: 500}} {
		setup(t, func(t *testing.T, s storage.Store, faulty *st.Faulty, log *bytes.Buffer) {
			if err := put(s, "a", data); err != nil {
				t.Fatal(err)
			}
			faulty.Script(st.Fault{Mode: st.Cut, At: 30, Times: 3}, st.Fault{Mode: st.Before, Times: 2}, st.Fault{Mode: st.Cut, At: 10, Times: 1})
			got, err := get(t, s, "a", r)
			end := len(data)
			if r.Length > 0 {
				end = min(end, int(r.Offset+r.Length))
			}
			if want := data[r.Offset:end]; got != want || err != nil {
				t.Errorf("%+v: got %d bytes of %d, %v", r, len(got), len(want), err)
			}
			ops := faulty.Ops()
			if last := ops[len(ops)-1]; last.Offset != r.Offset+100 {
				t.Errorf("%+v: resumed at %+v", r, last.Range)
			}
		})
	}
}

// A range that broke just at its end must not be resumed: a Length of 0 would ask for all the rest.
func TestCutAtTheVeryEndOfARange(t *testing.T) {
	setup(t, func(t *testing.T, s storage.Store, faulty *st.Faulty, log *bytes.Buffer) {
		if err := put(s, "a", "0123456789"); err != nil {
			t.Fatal(err)
		}
		faulty.Script(st.Fault{Mode: st.Cut, At: 4})
		if got, err := get(t, s, "a", storage.Range{Offset: 2, Length: 4}); got != "2345" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestLongDownloadSurvivesManyOutages(t *testing.T) {
	setup(t, func(t *testing.T, s storage.Store, faulty *st.Faulty, log *bytes.Buffer) {
		data := string(st.Random(2, 40<<20))
		if err := put(s, "a", data); err != nil {
			t.Fatal(err)
		}
		// Each mebibyte costs an outage of a minute: 40 in all, with a budget of five.
		faulty.Script(st.Fault{When: func(op st.Op) bool { return op.N%2 == 0 }, Mode: st.Cut, At: 1 << 20},
			st.Fault{Mode: st.Before, Hook: func(st.Op) { time.Sleep(time.Minute) }})
		if got, err := get(t, s, "a", storage.All); got != data || err != nil {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
}

func TestAbsentWhenResumed(t *testing.T) {
	setup(t, func(t *testing.T, s storage.Store, faulty *st.Faulty, log *bytes.Buffer) {
		if err := put(s, "a", "0123456789"); err != nil {
			t.Fatal(err)
		}
		faulty.Script(st.Fault{Mode: st.Cut, At: 4, Times: 1}, st.Fault{Kind: storage.KindNotFound})
		if got, err := get(t, s, "a", storage.All); storage.KindOf(err) != storage.KindNotFound {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestListGoesOnAfterTheLastKey(t *testing.T) {
	setup(t, func(t *testing.T, s storage.Store, faulty *st.Faulty, log *bytes.Buffer) {
		var want []string
		for i := range 30 {
			want = append(want, fmt.Sprintf("k/%02d", i))
			if err := put(s, want[i], "x"); err != nil {
				t.Fatal(err)
			}
		}
		faulty.Script(st.Fault{Mode: st.Cut, At: 7, Times: 2}, st.Fault{Mode: st.Before, Times: 1}, st.Fault{Mode: st.Hang, At: 5, Times: 1})
		var got []string
		for info, err := range s.List(t.Context(), "k/", "k/03") {
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour) // the consumer's own time is nobody's stall
			got = append(got, info.Key)
		}
		if !slices.Equal(got, want[4:]) {
			t.Errorf("%q", got)
		}
	})
}

func TestStalledAttemptsAreEnded(t *testing.T) {
	setup(t, func(t *testing.T, s storage.Store, faulty *st.Faulty, log *bytes.Buffer) {
		faulty.Script(st.Fault{Mode: st.Hang, Times: 1})
		begun := time.Now()
		if err := put(s, "a", "0123456789"); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begun); d < 30*time.Second || d > 31*time.Second {
			t.Errorf("ended after %v", d)
		}
		if !strings.Contains(log.String(), "no data moved for 30s") {
			t.Errorf("log: %s", log)
		}
		for _, at := range []int64{0, 3} {
			faulty.Script(st.Fault{Mode: st.Hang, At: at, Times: 1})
			if got, err := get(t, s, "a", storage.All); got != "0123456789" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
		}
		faulty.Script(st.Fault{Mode: st.Hang, Times: 1})
		if _, err := s.Stat(t.Context(), "a"); err != nil {
			t.Error(err)
		}
		faulty.Script(st.Fault{Mode: st.Hang})
		if _, err := s.Stat(t.Context(), "a"); storage.KindOf(err) != storage.KindTransient || errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
}

// slowBody gives a byte a second, or as told.
type slowBody struct {
	each  time.Duration
	bytes int
}

func (b slowBody) ReadAt(p []byte, off int64) (int, error) {
	for i := 0; i < len(p); i += b.bytes {
		time.Sleep(b.each)
	}
	return len(p), nil
}

// trickle is a store that takes bodies in pieces, as a slow network would.
type trickle struct {
	storage.Store
	piece int64
}

func (s trickle) Put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	for off := int64(0); off < size; off += s.piece {
		if ctx.Err() != nil {
			return &storage.Error{Op: "put", Kind: storage.KindTransient, Err: ctx.Err()}
		}
		if _, err := body.ReadAt(make([]byte, min(s.piece, size-off)), off); err != nil && err != io.EOF {
			return err
		}
	}
	return nil
}

func TestSlowUploadIsNotEndedAsLongAsItMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := retry.New(trickle{mem.New(), 8 << 10}, retry.Policy{}, slog.New(slog.DiscardHandler))
		// 8 KiB in 20 s, for an hour and a half.
		if err := s.Put(t.Context(), "a", slowBody{20 * time.Second, 8 << 10}, 2<<20); err != nil {
			t.Error(err)
		}
		// A byte in a second does not count as moving.
		s = retry.New(trickle{mem.New(), 1}, retry.Policy{}, slog.New(slog.DiscardHandler))
		begun := time.Now()
		if err := s.Put(t.Context(), "a", slowBody{time.Second, 1}, 1<<20); storage.KindOf(err) != storage.KindTransient {
			t.Error(err)
		}
		if d := time.Since(begun); d > 7*time.Minute {
			t.Errorf("gave up after %v", d)
		}
	})
}

func TestNoPatienceInAHurry(t *testing.T) {
	for name, c := range map[string]struct {
		fault  st.Fault
		before time.Duration // of the hurry, at most
	}{
		"failing":                 {st.Fault{}, time.Minute},
		"failing, from the start": {st.Fault{}, 0},
		"hanging":                 {st.Fault{Mode: st.Hang}, 10 * time.Second},
		"hanging, from the start": {st.Fault{Mode: st.Hang}, 0},
		"hanging, after attempts": {st.Fault{Mode: st.Hang}, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				faulty := st.NewFaulty(mem.New())
				hurry, stop := context.WithTimeout(t.Context(), c.before)
				defer stop()
				s := retry.New(faulty, retry.Policy{Hurry: hurry, Haste: 5 * time.Second}, slog.New(slog.DiscardHandler))
				faulty.Script(c.fault)
				begun := time.Now()
				err := put(s, "a", "x")
				if d := time.Since(begun) - c.before; storage.KindOf(err) != storage.KindTransient || d > 6*time.Second {
					t.Errorf("%v after the hurry began: %v", d, err)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		hurry, stop := context.WithCancel(t.Context())
		stop()
		s := retry.New(trickle{mem.New(), 8 << 10}, retry.Policy{Hurry: hurry, Haste: 5 * time.Second}, slog.New(slog.DiscardHandler))
		if err := s.Put(t.Context(), "a", slowBody{4 * time.Second, 8 << 10}, 2<<20); err != nil {
			t.Errorf("an upload that moves: %v", err)
		}
	})
}
