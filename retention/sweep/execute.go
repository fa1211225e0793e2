package sweep

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/segment"
)

// ErrChanged says that a plan cannot be carried out as it was shown: the repository changed since, and what
// would be deleted now is something else.
var ErrChanged = errors.New("what would be deleted is not what the plan says")

// errMoved tells Execute that somebody has written to the log since the plan was made.
var errMoved = errors.New("the catalog has gone on")

// errNothing tells Append that there is nothing to add.
var errNothing = errors.New("nothing to add")

// errLocked: the storage was not even asked to delete the object.
var errLocked = errors.New("it is under object lock")

// Result is what has been done.
type Result struct {
	Removed int64     // objects
	Kept    []Refused // objects that the storage would not delete: the next run tries again
}

// Refused is an object that the storage does not let go.
type Refused struct {
	Key   string    // what it is
	Until time.Time // when its lock ends, if the storage tells
	Err   error
}

// Execute does what the plan says, and nothing else. It finishes earlier deletions first. When somebody else wrote
// to the log meanwhile, it makes the plan anew and goes on only if that deletes the same; otherwise the error is
// ErrChanged, and nothing has been deleted.
func Execute(ctx context.Context, r Request, p *Plan) (Result, error) {
	var result Result
	for {
		state, err := r.Catalog.Append(ctx, p.state, func(s *catalog.State) (catalog.Record, error) {
			switch {
			case s.N != p.N:
				return catalog.Record{}, errMoved
			case p.Empty():
				return catalog.Record{}, errNothing
			}
			return catalog.Record{Type: "delete", Delete: &p.Delete}, nil
		})
		switch {
		case errors.Is(err, errMoved):
			again, err := Make(ctx, r)
			if err != nil {
				return result, err
			}
			if again.ID() != p.ID() {
				return result, fmt.Errorf("%w: the catalog changed meanwhile; nothing was deleted", ErrChanged)
			}
			p = again
		case err != nil && !errors.Is(err, errNothing):
			return result, err
		default:
			return result, finish(ctx, r, state, &result)
		}
	}
}

// finish carries out what the log has, and removes old checkpoints of it, which is no part of what was asked for.
func finish(ctx context.Context, r Request, state *catalog.State, result *Result) error {
	state, err := purge(ctx, r, state, result)
	if err != nil {
		return err
	}
	if err := r.Catalog.Prune(ctx, state); err != nil {
		r.Log.Warn("old checkpoints of the catalog stay for now", "error", err)
	}
	return nil
}

// purge carries out every deletion that the log has and that is not done.
func purge(ctx context.Context, r Request, state *catalog.State, result *Result) (*catalog.State, error) {
	for _, u := range slices.Clone(state.Unpurged) {
		before := len(result.Kept)
		if err := remove(ctx, r, u.Delete, result); err != nil {
			return state, fmt.Errorf("carry out the deletion of record %d (the next delete goes on with it): %w", u.N, err)
		}
		if len(result.Kept) > before {
			continue
		}
		next, err := r.Catalog.Append(ctx, state, func(s *catalog.State) (catalog.Record, error) {
			for _, x := range s.Unpurged {
				if x.N == u.N {
					return catalog.Record{Type: "purged", Purged: &catalog.Purged{Of: u.N}}, nil
				}
			}
			return catalog.Record{}, errNothing // another run was faster
		})
		if err != nil && !errors.Is(err, errNothing) {
			return state, err
		}
		state = next
	}
	return state, nil
}

// remover removes objects, several at the same time.
type remover struct {
	Request
	group   *errgroup.Group
	ctx     context.Context
	first   sync.Once
	locks   bool // the first object has a lock, or had one: so each is asked before it is removed
	removed atomic.Int64
	mu      sync.Mutex
	kept    []Refused
}

// remove removes what one record of the log condemned. That an object is in the storage is known from a listing,
// that it may go from the record.
func remove(ctx context.Context, r Request, d catalog.Delete, result *Result) error {
	x := &remover{Request: r}
	x.group, x.ctx = errgroup.WithContext(ctx)
	x.group.SetLimit(requests)
	err := x.all(d)
	if e := x.group.Wait(); e != nil {
		err = e // all only saw what follows from it
	}
	result.Removed += x.removed.Load()
	result.Kept = append(result.Kept, x.kept...)
	return err
}

func (x *remover) all(d catalog.Delete) error {
	for _, w := range d.WAL {
		for o, err := range condemnedWAL(x.ctx, x.Store, w) {
			if err != nil {
				return err
			}
			x.do(o.Key, func() error { return walstore.Remove(x.ctx, x.Store, o) })
		}
	}
	for backup, numbers := range d.Parts {
		for p, err := range part.List(x.ctx, x.Store, backup) {
			if err != nil {
				return err
			}
			if numbers.Contains(p.Number) {
				x.do(part.Key(p.Name), func() error { return part.Remove(x.ctx, x.Store, p.Name) })
			}
		}
	}
	for _, id := range d.Backups {
		x.do(catalog.ManifestKey(id), func() error { return x.Catalog.Remove(x.ctx, id) })
	}
	return nil
}

// do removes an object. One that the storage does not let go does not hold up the others.
func (x *remover) do(key string, remove func() error) {
	x.first.Do(func() { _, x.locks = x.locked(key) })
	x.group.Go(func() error {
		if x.locks {
			if until, _ := x.locked(key); until.After(x.Now()) {
				x.keep(Refused{Key: key, Until: until, Err: errLocked})
				return nil
			}
		}
		err := remove()
		if errors.Is(err, storage.ErrDenied) {
			x.keep(Refused{Key: key, Err: err})
			return nil
		}
		if err == nil {
			x.removed.Add(1)
		}
		return err
	})
}

// locked tells when an object's lock ends, and whether it has one.
func (x *remover) locked(key string) (time.Time, bool) {
	info, err := x.Store.Stat(x.ctx, key)
	return info.LockedUntil, err == nil && !info.LockedUntil.IsZero()
}

func (x *remover) keep(r Refused) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.kept = append(x.kept, r)
}

// condemnedWAL yields the WAL files that a range speaks of and that are there.
func condemnedWAL(ctx context.Context, s storage.Store, w catalog.WALRange) iter.Seq2[walstore.Object, error] {
	return func(yield func(walstore.Object, error) bool) {
		tli, err := segment.TimelineOf(w.First)
		if err != nil {
			yield(walstore.Object{}, fmt.Errorf("%w: it condemns WAL from %q on: %w", catalog.ErrDamaged, w.First, err))
			return
		}
		for o, err := range walstore.List(ctx, s, w.SystemID, tli, "") {
			if err != nil {
				yield(o, err)
				return
			}
			in := o.Name == w.First
			if o.Type != segment.History { // these come first
				if o.Name[:24] > w.Last {
					return
				}
				in = w.First <= o.Name[:24]
			}
			if in && !yield(o, nil) {
				return
			}
		}
	}
}
