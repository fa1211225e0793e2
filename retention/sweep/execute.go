package sweep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/retention"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

// ErrChanged says that a plan cannot be carried out as it was shown: the repository changed since, and what
// would be deleted now is something else.
var ErrChanged = errors.New("the plan has changed")

// ErrUnfinished says that the log has the deletion, but that it was not carried out to the end: Garbage does that. The
// same order again may take more.
var ErrUnfinished = errors.New("the deletion is in the catalog, but not all of its objects are removed")

// errMoved tells Execute that somebody has written to the log since the plan was made.
var errMoved = errors.New("the catalog has new records")

// errNothing tells Append that there is nothing to add.
var errNothing = errors.New("nothing to add")

// errLocked and errHeld: the storage was not even asked to delete the object.
var (
	errLocked = errors.New("it is under object lock")
	errHeld   = errors.New("it is under a legal hold")
)

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
// to the log meanwhile, it makes the plan again and goes on only if that deletes the same; otherwise the error is
// ErrChanged, and nothing has been deleted. From where the log has the deletion, the error is ErrUnfinished.
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
				return result, fmt.Errorf("%w: the catalog was changed; nothing was deleted", ErrChanged)
			}
			p = again
		case err != nil && !errors.Is(err, errNothing):
			return result, err
		default:
			err := finish(ctx, r, p, state, &result)
			// Several deletions that were not finished may speak of the same WAL.
			slices.SortFunc(result.Kept, func(a, b Refused) int { return cmp.Compare(a.Key, b.Key) })
			result.Kept = slices.CompactFunc(result.Kept, func(a, b Refused) bool { return a.Key == b.Key })
			return result, err
		}
	}
}

// finish carries out what the log has, and removes old checkpoints of it, which is no part of what was asked for.
func finish(ctx context.Context, r Request, p *Plan, state *catalog.State, result *Result) error {
	state, err := purge(ctx, r, state, result)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnfinished, err)
	}
	if p.Order.Kind == retention.Everything && len(p.Unknown) > 0 {
		// No backup can come to have these ids: its begin record would be in the log that the plan was made from.
		x := newRemover(ctx, r)
		for _, id := range p.Unknown {
			x.backup(id)
		}
		if err := x.end(nil, result); err != nil {
			return err
		}
	}
	if err := r.Catalog.Prune(ctx, state); err != nil {
		r.Log.Warn("old checkpoints of the catalog cannot be removed now", "error", err)
	}
	return nil
}

// purge carries out every deletion that the log has and that is not done.
func purge(ctx context.Context, r Request, state *catalog.State, result *Result) (*catalog.State, error) {
	for _, u := range slices.Clone(state.Unpurged) {
		before := len(result.Kept)
		if err := remove(ctx, r, u.Delete, result); err != nil {
			return state, fmt.Errorf("carry out the deletion of record %d: %w", u.N, err)
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

// batchSize is how many objects go with one request: what S3 allows.
const batchSize = 1000

// remover removes objects, many with a request and several requests at the same time.
type remover struct {
	Request
	group   *errgroup.Group
	ctx     context.Context
	batch   []string    // keys that will go with the next request
	locks   atomic.Bool // an object has a lock, or had one: so each is asked before it is removed
	removed atomic.Int64
	mu      sync.Mutex
	kept    []Refused
}

// remove removes what one record of the log condemned. That an object is in the storage is known from a listing,
// that it may go from the record.
func remove(ctx context.Context, r Request, d catalog.Delete, result *Result) error {
	x := newRemover(ctx, r)
	return x.end(x.all(d), result)
}

func newRemover(ctx context.Context, r Request) *remover {
	x := &remover{Request: r}
	x.group, x.ctx = errgroup.WithContext(ctx)
	x.group.SetLimit(requests)
	return x
}

// end waits for the requests, and counts; err is why not all was asked for.
func (x *remover) end(err error, result *Result) error {
	x.flush()
	if e := x.group.Wait(); e != nil {
		err = e // the other only follows from it
	}
	result.Removed += x.removed.Load()
	result.Kept = append(result.Kept, x.kept...)
	return err
}

// all gathers what goes, in the order in which it was stored: locks, too, begin and end with time (see flush).
func (x *remover) all(d catalog.Delete) error {
	x.sample(d.Backups)
	for _, w := range d.WAL {
		for o, err := range condemnedWAL(x.ctx, x.Store, w) {
			if err != nil {
				return err
			}
			x.do(o.Key)
		}
		x.flush()
	}
	for _, backup := range slices.Sorted(maps.Keys(d.Parts)) {
		numbers := d.Parts[backup]
		for p, err := range part.List(x.ctx, x.Store, backup) {
			if err != nil {
				return err
			}
			if numbers.Contains(p.Number) {
				x.do(part.Key(p.Name))
			}
		}
	}
	x.flush()
	for _, id := range d.Backups {
		x.backup(id)
	}
	return nil
}

// sample asks the backups that go for locks: somebody may have set them for one of them.
func (x *remover) sample(backups []string) {
	group, ctx := errgroup.WithContext(x.ctx)
	group.SetLimit(requests)
	for _, id := range backups {
		group.Go(func() error {
			x.ask(ctx, catalog.BackupKey(id))
			return nil
		})
	}
	_ = group.Wait() // there is none
}

// backup removes what describes a backup.
func (x *remover) backup(id string) {
	x.do(catalog.ManifestKey(id))
	x.do(catalog.BackupKey(id))
}

// do removes an object, with others in one request.
func (x *remover) do(key string) {
	if x.batch = append(x.batch, key); len(x.batch) == batchSize {
		x.flush()
	}
}

// flush removes the objects that have been gathered. Those that the storage does not let go do not hold up the others.
func (x *remover) flush() {
	keys := x.batch
	x.batch = nil
	if len(keys) == 0 {
		return
	}
	x.group.Go(func() error {
		// A bucket may have begun or ended to lock what is put: then the ends of the batch differ.
		x.ask(x.ctx, keys[0])
		x.ask(x.ctx, keys[len(keys)-1])
		if x.locks.Load() {
			keys = slices.DeleteFunc(keys, x.locked)
		}
		if len(keys) == 0 {
			return nil
		}
		err := x.Store.Delete(x.ctx, keys...)
		some, partly := errors.AsType[*storage.NotDeleted](err)
		switch {
		case err == nil:
			x.removed.Add(int64(len(keys)))
			return nil
		case !partly && errors.Is(err, storage.ErrDenied): // as a whole
			some = &storage.NotDeleted{}
			for _, key := range keys {
				some.Errors = append(some.Errors, &storage.Error{Op: "delete", Key: key, Store: x.Store.String(), Kind: storage.KindDenied, Err: err})
			}
		case !partly:
			return fmt.Errorf("remove deleted objects: %w", err)
		}
		for _, e := range some.Errors {
			if e.Kind != storage.KindDenied {
				return fmt.Errorf("remove deleted objects: %w", err)
			}
			x.keep(Refused{Key: e.Key, Err: e})
		}
		x.removed.Add(int64(len(keys) - len(some.Errors)))
		return nil
	})
}

// ask looks for a lock of an object; one that has ended counts.
func (x *remover) ask(ctx context.Context, key string) {
	if x.locks.Load() {
		return
	}
	if info, err := x.Store.Stat(ctx, key); err == nil && (info.LegalHold || !info.LockedUntil.IsZero()) {
		x.locks.Store(true)
	}
}

// locked keeps an object that has a lock.
func (x *remover) locked(key string) bool {
	info, err := x.Store.Stat(x.ctx, key)
	switch {
	case err != nil: // the deletion tells
		return false
	case info.LegalHold:
		x.keep(Refused{Key: key, Err: errHeld})
	case info.LockedUntil.After(x.Now()):
		x.keep(Refused{Key: key, Until: info.LockedUntil, Err: errLocked})
	default:
		return false
	}
	return true
}

func (x *remover) keep(r Refused) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.kept = append(x.kept, r)
}

// condemnedWAL yields the WAL files that a range speaks of and that are there, and what was noted of those that are not.
func condemnedWAL(ctx context.Context, s storage.Store, w catalog.WALRange) iter.Seq2[object.Object, error] {
	return func(yield func(object.Object, error) bool) {
		tli, err := segment.TimelineOf(w.First)
		if err != nil {
			yield(object.Object{}, fmt.Errorf("%w: it condemns WAL from %q on: %w", catalog.ErrDamaged, w.First, err))
			return
		}
		for o, err := range walstore.ListAll(ctx, s, w.SystemID, tli, "") {
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
			if o.Type == segment.Invalid { // it speaks of a range, too
				in = in && o.Name[25:] <= w.Last
			}
			if in && !yield(o, nil) {
				return
			}
		}
	}
}
