package test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// receiver is a running wal-receive.
type receiver struct {
	cmd  *exec.Cmd
	done chan struct{}
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *receiver) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

// said is all that it has printed.
func (r *receiver) said() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// receive starts wal-receive. It ends with the test, if not before.
func (s *site) receive(t testing.TB, args ...string) *receiver {
	t.Helper()
	r := &receiver{cmd: s.command(append([]string{"--log-level=debug", "wal-receive"}, args...)...), done: make(chan struct{})}
	r.cmd.Stdout, r.cmd.Stderr = r, r
	must(t, r.cmd.Start())
	go func() { // ends with the process, which the cleanup ends
		_ = r.cmd.Wait()
		close(r.done)
	}()
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		<-r.done
		if t.Failed() {
			t.Logf("wal-receive said:\n%s", lastLines(r.said(), 30))
		}
	})
	return r
}

// stop ends it with a signal and returns its exit code.
func (r *receiver) stop(t testing.TB, sig syscall.Signal) int {
	t.Helper()
	_ = r.cmd.Process.Signal(sig) // it may have ended
	return r.ended(t)
}

func (r *receiver) ended(t testing.TB) int {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(generous):
		t.Fatalf("wal-receive does not end:\n%s", r.said())
	}
	return r.cmd.ProcessState.ExitCode()
}

// onlyReceived is a server whose archive_command never works, so that all WAL comes from wal-receive.
func onlyReceived(t testing.TB, st store, o pgtest.Options) *site {
	t.Helper()
	o.Conf = append(o.Conf, "archive_command = 'false'")
	return newSite(t, st, o)
}

// streaming waits until a receiver is connected, as synchronous standby if it is to be one.
func (s *site) streaming(t testing.TB, state string) {
	t.Helper()
	s.Eventually(t, `SELECT count(*) > 0 FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = '`+state+`'`, "t")
}

// writer inserts rows one after the other, and counts those that were acknowledged.
type writer struct {
	acked atomic.Int64
	stop  context.CancelFunc
	done  chan struct{}
}

func (s *site) write(t testing.TB, table string) *writer {
	return s.writeRows(t, table, `repeat(md5($1::text), 20)`)
}

// writeRows writes rows of a number and what filler makes of it.
func (s *site) writeRows(t testing.TB, table, filler string) *writer {
	ctx, cancel := context.WithCancel(t.Context())
	w := &writer{stop: cancel, done: make(chan struct{})}
	go func() { // ends with the server, or with the test
		defer close(w.done)
		for i := int64(1); ctx.Err() == nil; i++ {
			q, done := context.WithTimeout(ctx, generous)
			_, err := s.Query(q, "postgres", strings.ReplaceAll(`INSERT INTO `+table+` VALUES ($1, `+filler+`)`, "$1", strconv.FormatInt(i, 10)))
			done()
			if err != nil {
				return
			}
			w.acked.Store(i)
		}
	}()
	t.Cleanup(func() { cancel(); <-w.done })
	return w
}

func (w *writer) reaches(t testing.TB, n int64) {
	t.Helper()
	testenv.Eventually(t, generous, fmt.Sprintf("%d rows are acknowledged", n), func() bool { return w.acked.Load() >= n })
}

func number(t testing.TB, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	must(t, err)
	return n
}

// The server waits for wal-receive before it acknowledges a commit; then all of it is lost, without a warning. What was
// acknowledged is there after the restore.
func TestReceivedSynchronously(t *testing.T) {
	t.Parallel()
	for _, major := range []int{10, 15, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			o := pgtest.Options{Major: major}
			if major > 10 {
				o.WALSegMB = 1
			}
			s := onlyReceived(t, folderStore(t), o)
			s.Exec(t, `CREATE TABLE w (i int, filler text)`)
			r := s.receive(t, "--slot=safe", "--create-slot", "--synchronous", "--application-name=safe")
			s.streaming(t, "async")
			s.must(t, "backup-push", "--wal-timeout=10m")
			s.Exec(t, `ALTER SYSTEM SET synchronous_standby_names = 'safe'`)
			s.Exec(t, `SELECT pg_reload_conf()`)
			s.streaming(t, "sync")
			w := s.write(t, "w")
			w.reaches(t, 300)
			must(t, s.Crash())
			<-w.done
			acked := w.acked.Load()
			must(t, os.RemoveAll(s.Data))
			testenv.Eventually(t, generous, "the loss is noticed", func() bool { return strings.Contains(r.said(), "connecting again") })
			if code := r.stop(t, syscall.SIGTERM); code != 0 {
				t.Errorf("wal-receive ended with %d", code)
			}
			c := s.start(t, s.fetch(t), "-c", "synchronous_standby_names=")
			n := number(t, c.SQL(t, `SELECT count(*) FROM w`))
			last := number(t, c.SQL(t, `SELECT max(i) FROM w`))
			t.Logf("%d rows were acknowledged, %d are there", acked, n)
			if n < acked || last != n || n > acked+1 {
				t.Errorf("%d rows were acknowledged, %d are there, up to %d", acked, n, last)
			}
			s.must(t, "wal-list")
			s.must(t, "wal-verify")
			if left, err := filepath.Glob(filepath.Join(os.TempDir(), "pgobj-wal-receive-*")); err != nil || len(left) > 0 {
				t.Error(left, err)
			}
		})
	}
}
