package retry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/pgobj/pgobj/storage"
)

var errStalled = errors.New("attempt stalled")

// watch cancels an attempt that waits for the store without progress. Time outside begin and end, in
// which the caller does other work, does not count.
type watch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	stall  time.Duration

	mu    sync.Mutex
	left  time.Duration // of the patience, at the last begin
	begun time.Time
	moved int
}

func newWatch(ctx context.Context, stall time.Duration) *watch {
	w := &watch{stall: stall, left: stall}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(stall, func() { w.cancel(errStalled) })
	w.timer.Stop()
	return w
}

func (w *watch) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begun = time.Now()
	w.timer.Reset(w.left)
}

// end tells that a wait is over and has moved n bytes.
func (w *watch) end(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
	w.left = max(w.left-time.Since(w.begun), time.Millisecond)
	w.count(n)
}

// move tells of n bytes during a wait.
func (w *watch) move(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.count(n) && w.timer.Stop() {
		w.begun = time.Now()
		w.timer.Reset(w.left)
	}
}

func (w *watch) count(n int) bool {
	if w.moved += n; w.moved < enoughToBeAlive {
		return false
	}
	w.moved, w.left = 0, w.stall
	return true
}

func (w *watch) close() {
	w.timer.Stop()
	w.cancel(nil)
}

// explain replaces the error of an attempt that the watch has cancelled.
func (w *watch) explain(err error, op, key string, s *store) error {
	if err == nil || context.Cause(w.ctx) != errStalled {
		return err
	}
	return &storage.Error{Op: op, Key: key, Store: s.String(), Kind: storage.KindTransient,
		Err: fmt.Errorf("nothing moved for %s", w.stall)}
}

// watchedReader counts what an upload takes as progress.
type watchedReader struct {
	r io.ReaderAt
	w *watch
}

func (r watchedReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.r.ReadAt(p, off)
	r.w.move(n)
	return n, err
}
