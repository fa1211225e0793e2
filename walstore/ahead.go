package walstore

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/segment"
)

// AheadMemory bounds the raw size of the files that are worked on at once: none but the asked one when
// segments are large.
const AheadMemory = 256 << 20

// Ahead says how Push goes on with files that PostgreSQL will ask for next. Zero fields mean the default.
type Ahead struct {
	Jobs   int           // files at once, the asked one included
	Files  int           // files in all (64, what PostgreSQL 15 and later finds in one look)
	Memory int64         // bound for the raw size of what is worked on at once (AheadMemory)
	Begin  time.Duration // no file is begun later than this (3 s)
	Grace  time.Duration // how long the files in progress may outlast the asked one (10 s)
	// Pushed is told of every file but the asked one that is in the archive now; several at once.
	Pushed func(path string, res PushResult)
	// Failed is told why another file was not archived. PostgreSQL will ask for it, and then it is an error.
	Failed func(path string, err error)
}

// Ready lists the files in a pg_wal that wait to be archived, as paths, in the order in which PostgreSQL asks for them:
// history files first, then by name (pgarch_readyXlog). archive_status is only read.
func Ready(walDir string) ([]string, error) {
	dir, err := os.Open(filepath.Join(walDir, "archive_status"))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	all, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, n := range all {
		if name, ok := strings.CutSuffix(n, ".ready"); ok && segment.Classify(name) != segment.Invalid {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, inOrder)
	for i, n := range names {
		names[i] = filepath.Join(walDir, n)
	}
	return names, nil
}

func inOrder(a, b string) int {
	if c := historyFirst(a, b); c != 0 {
		return c
	}
	return strings.Compare(a, b)
}

func historyFirst(a, b string) int {
	rank := func(path string) int {
		if segment.Classify(filepath.Base(path)) == segment.History {
			return 0
		}
		return 1
	}
	return rank(a) - rank(b)
}

// PushAhead is Push of the asked file, and meanwhile of others, given in the order in which PostgreSQL will
// ask for them. The error is the asked file's alone. Files are begun in order, and none after one has
// failed or too far before one that is still on its way: so the archive never has more than a few files
// behind one that it has not. They may outlast the asked file for a while, never its failure.
func PushAhead(ctx context.Context, s storage.Store, asked PushRequest, others []string, a Ahead) (PushResult, error) {
	a = a.withDefaults()
	info, err := os.Stat(asked.Path)
	if err == nil && info.Size() > 0 {
		a.Jobs = int(min(int64(a.Jobs), a.Memory/info.Size()))
	}
	if a.Jobs <= 1 || len(others) == 0 {
		return Push(ctx, s, asked)
	}
	asked.shop = newWorkshop(asked.Level, max(asked.workers(), runtime.GOMAXPROCS(0)))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	q := newQueue(asked.Path, others, a)
	var res PushResult
	var askedErr error
	var workers sync.WaitGroup
	for range a.Jobs {
		workers.Go(func() {
			for path, done := q.next(ctx); path != ""; path, done = q.next(ctx) {
				r := asked
				r.Path, r.XXH64 = path, path != asked.Path
				got, err := Push(ctx, s, r)
				switch {
				case path == asked.Path:
					res, askedErr = got, err
					if err != nil {
						cancel(fmt.Errorf("%s could not be archived", filepath.Base(path)))
					} else {
						// Nobody waits for the timer: it does nothing after the end.
						time.AfterFunc(a.Grace, func() { cancel(fmt.Errorf("not finished in time")) })
					}
				case err != nil:
					a.Failed(path, err)
				default:
					a.Pushed(path, got)
				}
				done(err)
			}
		})
	}
	workers.Wait()
	return res, askedErr
}

func (a Ahead) withDefaults() Ahead {
	if a.Jobs == 0 {
		a.Jobs = 4
	}
	if a.Files == 0 {
		a.Files = 64
	}
	if a.Memory == 0 {
		a.Memory = AheadMemory
	}
	if a.Begin == 0 {
		a.Begin = 3 * time.Second
	}
	if a.Grace == 0 {
		a.Grace = 10 * time.Second
	}
	if a.Pushed == nil {
		a.Pushed = func(string, PushResult) {}
	}
	if a.Failed == nil {
		a.Failed = func(string, error) {}
	}
	return a
}

// queue hands out paths in order.
type queue struct {
	mu      sync.Mutex
	paths   []string
	asked   int // index of the file that must be handed out whatever happens
	at      int
	reach   int // how far before the oldest one on its way
	pending []bool
	failed  bool
	ends    time.Time
	freed   *sync.Cond
}

func newQueue(asked string, others []string, a Ahead) *queue {
	paths := []string{asked}
	for _, p := range others {
		if filepath.Base(p) != filepath.Base(asked) && len(paths) < a.Files {
			paths = append(paths, p)
		}
	}
	slices.SortStableFunc(paths, historyFirst) // the asked one goes before the rest
	q := &queue{paths: paths, asked: slices.Index(paths, asked), reach: 2 * a.Jobs, pending: make([]bool, len(paths)), ends: time.Now().Add(a.Begin)}
	q.freed = sync.NewCond(&q.mu)
	return q
}

// next is the next path to work on, and what to call when that is done; "" when there is none.
func (q *queue) next(ctx context.Context) (string, func(error)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		i := q.at
		if i > q.asked && (q.failed || time.Now().After(q.ends) || ctx.Err() != nil) || i >= len(q.paths) {
			return "", nil
		}
		if i <= q.asked && q.failed { // a history file that cannot be stored does not stop the asked one
			i = q.asked
		}
		oldest := slices.Index(q.pending, true)
		if oldest < 0 || i-oldest < q.reach || i <= q.asked {
			q.at = i + 1
			q.pending[i] = true
			return q.paths[i], func(err error) { q.done(i, err) }
		}
		q.freed.Wait()
	}
}

func (q *queue) done(i int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pending[i] = false
	q.failed = q.failed || err != nil
	q.freed.Broadcast()
}
