package site

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/testenv"
)

// Receiver is a running wal-receive.
type Receiver struct {
	Cmd  *exec.Cmd
	Done chan struct{}
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *Receiver) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

// Said is all that it has printed.
func (r *Receiver) Said() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// Receive starts wal-receive. It ends with the test, if not before.
func (s *Site) Receive(t testing.TB, args ...string) *Receiver {
	t.Helper()
	r := &Receiver{Cmd: s.Command(append([]string{"--log-level=debug", "wal-receive"}, args...)...), Done: make(chan struct{})}
	r.Cmd.Stdout, r.Cmd.Stderr = r, r
	Must(t, r.Cmd.Start())
	go func() { // ends with the process, which the cleanup ends
		_ = r.Cmd.Wait()
		close(r.Done)
	}()
	t.Cleanup(func() {
		_ = r.Cmd.Process.Kill()
		<-r.Done
		if t.Failed() {
			t.Logf("wal-receive said:\n%s", LastLines(r.Said(), 30))
		}
	})
	return r
}

// Stop ends it with a signal and returns its exit code.
func (r *Receiver) Stop(t testing.TB, sig syscall.Signal) int {
	t.Helper()
	_ = r.Cmd.Process.Signal(sig) // it may have ended
	return r.Ended(t)
}

func (r *Receiver) Ended(t testing.TB) int {
	t.Helper()
	select {
	case <-r.Done:
	case <-time.After(Generous):
		t.Fatalf("wal-receive does not end:\n%s", r.Said())
	}
	return r.Cmd.ProcessState.ExitCode()
}

// Streaming waits until a receiver is connected, as synchronous standby if it is to be one.
func (s *Site) Streaming(t testing.TB, state string) {
	t.Helper()
	s.Eventually(t, `SELECT count(*) > 0 FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = '`+state+`'`, "t")
}

// Writer inserts rows one after the other, and counts those that were acknowledged.
type Writer struct {
	Acked atomic.Int64
	Stop  context.CancelFunc
	Done  chan struct{}
}

func (s *Site) Write(t testing.TB, table string) *Writer {
	return s.WriteRows(t, table, `repeat(md5($1::text), 20)`)
}

// WriteRows writes rows of a number and what filler makes of it.
func (s *Site) WriteRows(t testing.TB, table, filler string) *Writer {
	ctx, cancel := context.WithCancel(t.Context())
	w := &Writer{Stop: cancel, Done: make(chan struct{})}
	go func() { // ends with the server, or with the test
		defer close(w.Done)
		for i := int64(1); ctx.Err() == nil; i++ {
			q, done := context.WithTimeout(ctx, Generous)
			_, err := s.Query(q, "postgres", strings.ReplaceAll(`INSERT INTO `+table+` VALUES ($1, `+filler+`)`, "$1", strconv.FormatInt(i, 10)))
			done()
			if err != nil {
				return
			}
			w.Acked.Store(i)
		}
	}()
	t.Cleanup(func() { cancel(); <-w.Done })
	return w
}

func (w *Writer) Reaches(t testing.TB, n int64) {
	t.Helper()
	testenv.Eventually(t, Generous, fmt.Sprintf("%d rows are acknowledged", n), func() bool { return w.Acked.Load() >= n })
}

func Number(t testing.TB, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	Must(t, err)
	return n
}
