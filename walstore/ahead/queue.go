package ahead

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/segment"
)

// pushes archives files that PostgreSQL will ask for.
type pushes struct {
	jobs int // files at once
	// pushed is told of every file that is in the archive now. failed is told of every other one that was tried, and of one
	// that pushed has an error for, with the reason. Several at once.
	pushed func(path string, res walstore.PushResult) error
	failed func(path string, err error)
}

// Ready lists the names of the files in a pg_wal that wait to be archived, in the order in which PostgreSQL asks for them:
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

// run archives files, given in the order in which PostgreSQL will ask for them, each as walstore.Push does with r. They are begun
// in order, and none after one has failed or too far before one that is still on its way: so the archive never has more than
// a few files past one that it has not.
func (p pushes) run(ctx context.Context, s storage.Store, r walstore.PushRequest, paths []string) {
	r = r.Sharing()
	r.XXHash = true
	q := newQueue(paths, 2*p.jobs)
	report := func(path string, res walstore.PushResult, err error) {
		if err == nil {
			err = p.pushed(path, res)
		}
		if err != nil {
			p.failed(path, err)
			q.fail()
		}
	}
	var workers sync.WaitGroup
	for range max(1, p.jobs/2) {
		workers.Go(func() {
			for at, two := q.next(ctx); len(two) > 0; at, two = q.next(ctx) {
				first, second := r, r
				first.Path, second.Path = two[0], two[len(two)-1]
				if len(two) == 2 {
					walstore.PushTwo(ctx, s, [2]walstore.PushRequest{first, second}, report)
				} else {
					res, err := walstore.Push(ctx, s, first)
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
