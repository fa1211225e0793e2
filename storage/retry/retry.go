// Package retry is a decorator that repeats what failed with storage.KindTransient, and only that. It
// owns back-off, the watch for attempts that hang, the resumption of broken downloads and listings, and
// what "exists" means for a Put whose earlier answer was lost. It refuses to choose the policy.
package retry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/pgobj/pgobj/storage"
)

// Policy says how long to try. Zero fields mean the default.
type Policy struct {
	// Budget is how long one operation may go on after its first failure (default 5 minutes). It begins
	// again when a download or listing has come further, so that a long one survives many short outages.
	Budget time.Duration
	// FirstWait and MaxWait bound the pause before another attempt (defaults 200 ms and 20 s). It
	// doubles, and a random part of up to a half is taken off, so that many clients do not return as one.
	FirstWait, MaxWait time.Duration
	// Stall ends an attempt in which fewer than 4 KiB moved for so long (default 30 s), counting only
	// the time spent waiting for the store. A slow attempt that moves is never ended.
	Stall time.Duration
	// Hurry ends when there is no time for patience any more (default: never): Budget and Stall are then at most Haste, for
	// what goes on already, too.
	Hurry context.Context
	Haste time.Duration
}

const (
	enoughToBeAlive   = 4 << 10 // bytes in Policy.Stall
	enoughToGoFurther = 1 << 20 // bytes of a download that make the budget begin again
)

// New returns s with retries. Each is logged as one warning; the last error is returned, not logged.
func New(s storage.Store, p Policy, log *slog.Logger) storage.Store {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&p.Budget, 5*time.Minute)
	def(&p.FirstWait, 200*time.Millisecond)
	def(&p.MaxWait, 20*time.Second)
	def(&p.Stall, 30*time.Second)
	if p.Hurry == nil {
		p.Hurry = context.Background()
	}
	return &store{s, p, log}
}

type store struct {
	s   storage.Store
	p   Policy
	log *slog.Logger
}

func (s *store) String() string { return s.s.String() }

// effort is the attempts of one operation.
type effort struct {
	s       *store
	op, key string
	failed  int       // attempts that failed since the last progress
	since   time.Time // of the first of them
}

func (e *effort) progress() { e.failed = 0 }

// again returns nil when it is time for another attempt, else the error to return for err.
func (e *effort) again(ctx context.Context, err error) error {
	if storage.KindOf(err) != storage.KindTransient || ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		return err
	}
	if ctx.Err() != nil {
		return e.giveUp(err, context.Cause(ctx))
	}
	if e.failed++; e.failed == 1 {
		e.since = time.Now()
	}
	p := e.s.p
	hurry, budget := p.Hurry.Done(), p.Budget
	if p.Hurry.Err() != nil {
		hurry, budget = nil, min(budget, p.Haste)
		if _, ok := errors.AsType[stalled](err); ok {
			budget = 0 // it took so long already
		}
	}
	wait := p.MaxWait
	if shift := e.failed - 1; shift < 30 {
		wait = min(p.FirstWait<<shift, p.MaxWait)
	}
	wait -= rand.N(wait/2 + 1)
	if time.Since(e.since)+wait > budget {
		return e.giveUp(err, fmt.Errorf("gave up after attempt %d", e.failed))
	}
	e.s.log.Warn("storage operation failed, trying again", "op", e.op, "key", e.key, "attempt", e.failed, "wait", wait, "cause", cause(err))
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-hurry: // for a last attempt, when the budget is used up by then
		return nil
	case <-ctx.Done():
		return e.giveUp(err, context.Cause(ctx))
	}
}

func (e *effort) giveUp(err, why error) error {
	return &storage.Error{Op: e.op, Key: e.key, Store: e.s.String(), Kind: storage.KindTransient, Err: fmt.Errorf("%w: %w", why, cause(err))}
}

// cause is err without operation and key, which stand beside it.
func cause(err error) error {
	if se, ok := errors.AsType[*storage.Error](err); ok && se.Err != nil {
		return se.Err
	}
	return err
}

// simple repeats an operation that is a single question. attempt learns how many attempts have failed before.
func (s *store) simple(ctx context.Context, op, key string, attempt func(w *watch, failed int) error) error {
	e := effort{s: s, op: op, key: key}
	for {
		w := newWatch(ctx, s.p)
		w.begin()
		err := w.explain(attempt(w, e.failed), op, key, s)
		w.close()
		if err == nil {
			return nil
		}
		if err = e.again(ctx, err); err != nil {
			return err
		}
	}
}

func (s *store) Stat(ctx context.Context, key string) (info storage.Info, err error) {
	err = s.simple(ctx, "stat", key, func(w *watch, _ int) (err error) {
		info, err = s.s.Stat(w.ctx, key)
		return err
	})
	return info, err
}

// Delete tries those again for which that may help.
func (s *store) Delete(ctx context.Context, keys ...string) error {
	if len(keys) == 0 {
		return nil
	}
	final := &storage.NotDeleted{}
	err := s.simple(ctx, "delete", keys[0], func(w *watch, _ int) error {
		err := s.s.Delete(w.ctx, keys...)
		some, ok := errors.AsType[*storage.NotDeleted](err)
		if !ok {
			return err
		}
		var again []string
		for _, e := range some.Errors {
			if err = e; e.Kind == storage.KindTransient {
				again = append(again, e.Key)
			} else {
				final.Errors = append(final.Errors, e)
			}
		}
		if len(again) == 0 {
			return nil // final has them
		}
		keys = again
		return &storage.Error{Op: "delete", Key: again[0], Store: s.String(), Kind: storage.KindTransient, Err: cause(some)}
	})
	return cmp.Or(err, final.OrNil())
}

// Put repeats the whole object. When an attempt before this one has ended without a clear answer, it
// may have created the object: then "exists" is a success if, and only if, the bytes are the same.
func (s *store) Put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	var exists error
	err := s.simple(ctx, "put", key, func(w *watch, failed int) error {
		err := s.s.Put(w.ctx, key, watchedReader{body, w}, size)
		if failed > 0 && storage.KindOf(err) == storage.KindExists {
			exists = err
			return nil
		}
		return err
	})
	if exists != nil {
		return s.settle(ctx, key, body, size, exists)
	}
	return err
}

// settle returns nil when the stored object is body, exists when it is another.
func (s *store) settle(ctx context.Context, key string, body io.ReaderAt, size int64, exists error) error {
	switch same, err := storage.Holds(ctx, s, key, body, size); {
	case err != nil:
		return &storage.Error{Op: "put", Key: key, Store: s.String(), Kind: storage.KindTransient,
			Err: fmt.Errorf("an earlier attempt may have stored the object, and it cannot be compared: %v", err)}
	case same:
		return nil
	}
	return exists
}

// List goes on after the last key that was seen.
func (s *store) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		e := effort{s: s, op: "list", key: prefix}
		last := startAfter
		for {
			w := newWatch(ctx, s.p)
			var failed error
			w.begin()
			for info, err := range s.s.List(w.ctx, prefix, last) {
				w.end(enoughToBeAlive)
				if err != nil {
					failed = w.explain(err, "list", prefix, s)
					break
				}
				last = info.Key
				e.progress()
				if !yield(info, nil) {
					w.close()
					return
				}
				w.begin()
			}
			w.close()
			if failed == nil {
				return
			}
			if err := e.again(ctx, failed); err != nil {
				yield(storage.Info{}, err)
				return
			}
		}
	}
}
