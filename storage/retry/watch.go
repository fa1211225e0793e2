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

// stalled is what is told of an attempt in which nothing moved for so long.
type stalled time.Duration

func (s stalled) Error() string { return fmt.Sprintf("no data moved for %s", time.Duration(s)) }

// watch cancels an attempt that waits for the store without progress. Time outside begin and end, in
// which the caller does other work, does not count.
type watch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	calm   func() bool // ends the watch for a hurry

	mu    sync.Mutex
	stall time.Duration
	left  time.Duration // of the patience, at the last begin
	begun time.Time
	moved int
}

func newWatch(ctx context.Context, p Policy) *watch {
	w := &watch{stall: p.Stall, left: p.Stall}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(p.Stall, func() { w.cancel(errStalled) })
	w.timer.Stop()
	w.calm = context.AfterFunc(p.Hurry, func() { w.hasten(p.Haste) })
	return w
}

// hasten leaves the attempt no more patience than that.
func (w *watch) hasten(haste time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stall, w.left = min(w.stall, haste), min(w.left, haste)
	if w.timer.Stop() {
		w.begun = time.Now()
		w.timer.Reset(w.left)
	}
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
	w.calm()
	w.timer.Stop()
	w.cancel(nil)
}

// explain replaces the error of an attempt that the watch has cancelled.
func (w *watch) explain(err error, op, key string, s *store) error {
	if err == nil || context.Cause(w.ctx) != errStalled {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return &storage.Error{Op: op, Key: key, Store: s.String(), Kind: storage.KindTransient,
		Err: stalled(w.stall)}
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
