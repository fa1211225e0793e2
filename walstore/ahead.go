package walstore

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/segment"
)

// AheadMemory bounds the raw size of the files that are worked on at once.
const AheadMemory = 256 << 20

// Ahead archives files that PostgreSQL will ask for.
type Ahead struct {
	Jobs int // files at once
	// Pushed is told of every file that is in the archive now. Failed is told of every other one that was tried, and of one
	// that Pushed has an error for, with the reason. Several at once.
	Pushed func(path string, res PushResult) error
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
	rank := func(name string) int {
		if segment.Classify(name) == segment.History {
			return 0
		}
		return 1
	}
	if c := rank(a) - rank(b); c != 0 {
		return c
	}
	return strings.Compare(a, b)
}

// Push archives files, given in the order in which PostgreSQL will ask for them, each as Push does with r. They are begun
// in order, and none after one has failed or too far before one that is still on its way: so the archive never has more than
// a few files behind one that it has not.
func (a Ahead) Push(ctx context.Context, s storage.Store, r PushRequest, paths []string) {
	r.pool = newEncoderPool(r.Level, max(r.workers(), runtime.GOMAXPROCS(0)))
	r.XXH3 = true
	q := newQueue(paths, 2*a.Jobs)
	report := func(path string, res PushResult, err error) {
		if err == nil {
			err = a.Pushed(path, res)
		}
		if err != nil {
			a.Failed(path, err)
			q.fail()
		}
	}
	var workers sync.WaitGroup
	for range max(1, a.Jobs/2) {
		workers.Go(func() {
			for at, two := q.next(ctx); len(two) > 0; at, two = q.next(ctx) {
				first, second := r, r
				first.Path, second.Path = two[0], two[len(two)-1]
				if len(two) == 2 {
					pushTwo(ctx, s, [2]PushRequest{first, second}, report)
				} else {
					res, err := Push(ctx, s, first)
					report(first.Path, res, err)
				}
				q.done(at)
			}
		})
	}
	workers.Wait()
}

// queue hands out paths in order, two at a time.
type queue struct {
	mu      sync.Mutex
	paths   []string
	at      int
	reach   int // how far before the oldest one on its way
	pending []bool
	failed  bool
	freed   *sync.Cond
}

func newQueue(paths []string, reach int) *queue {
	q := &queue{paths: paths, reach: reach, pending: make([]bool, len(paths))}
	q.freed = sync.NewCond(&q.mu)
	return q
}

// next is what to work on next, from index at on; done says when that is over. None: there is no more.
func (q *queue) next(ctx context.Context) (at int, two []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		at = q.at
		if q.failed || ctx.Err() != nil || at == len(q.paths) {
			return at, nil
		}
		if oldest := slices.Index(q.pending, true); oldest < 0 || at-oldest < q.reach {
			q.at, q.pending[at] = min(at+2, len(q.paths)), true
			return at, q.paths[at:q.at]
		}
		q.freed.Wait()
	}
}

func (q *queue) done(at int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pending[at] = false
	q.freed.Broadcast()
}

// fail keeps more from being handed out.
func (q *queue) fail() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.failed = true
	q.freed.Broadcast()
}
