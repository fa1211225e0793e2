package ahead

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/spool"
)

const (
	mostFiles  = 64                   // on a list: what PostgreSQL 15 and later finds in one look
	markerLook = 2 * time.Millisecond // between looks for a marker
	pushHaste  = 2 * time.Second      // how long the storage is waited for when the server stops: less than wal-push does
	pushMemory = 256 << 20            // raw size of the files that are worked on at once
)

// Push says how files are pushed.
type Push struct {
	Level int // of the compression
	Files int // at once, at most; 1: no others than the one that was asked for
}

// Jobs is how many files of a cluster are pushed at once: one, when segments are large.
func (p Push) Jobs(size segment.Size) int {
	return int(max(1, min(int64(p.Files), pushMemory/int64(max(size, 1)))))
}

// Pushed says whether a file that the archiver of a running server waits for is in the archive, as another process has pushed it. It
// waits while one has it on its list, and starts one when more files wait than this one. False: push it.
func (h *Host) Pushed(ctx context.Context, path string, p Push) bool {
	walDir, name := filepath.Split(path)
	m := h.Markers()
	if m == nil || p.Jobs(h.Control.SegmentSize) == 1 || !isReady(walDir, name) { // a rescued file, say, that is pushed by hand
		return false
	}
	if err := h.mayWork(); err != nil {
		h.Log.Debug("nothing is pushed ahead", "error", err)
		return false
	}
	if h.marked(m, path) {
		return true
	}
	seen := m.Pushing(name)
	var ended <-chan struct{}
	if !seen {
		if ended = h.startPushing(m, walDir, name, p); ended == nil {
			return false
		}
	}
	deadline, _ := ctx.Deadline()
	patience := time.After(time.Until(deadline) / 2) // the rest is for a push of our own
	for {
		select {
		case <-ended:
			return h.marked(m, path)
		case <-patience:
			return false
		case <-ctx.Done():
			return false
		case <-time.After(markerLook):
		}
		on := m.Pushing(name)
		if seen && !on || m.Likely(path) {
			return h.marked(m, path)
		}
		seen = on
	}
}

// startPushing starts the process that archives what waits, if the file is not the only one. ended tells of its end; nil: there is none.
func (h *Host) startPushing(m *spool.Markers, walDir, name string, p Push) (ended <-chan struct{}) {
	if m.GaveUp() {
		h.Log.Debug("nothing is pushed ahead", "error", "a process that did so a moment ago failed")
		return nil
	}
	rest, err := waiting(m, walDir)
	if err != nil || len(rest) < 2 || !slices.Contains(rest, name) {
		tidy(m, walDir)
		return nil
	}
	absWAL, err := filepath.Abs(walDir)
	if err != nil {
		return nil
	}
	ended, err = h.start("wal-push-ahead", absWAL, "--wal-level="+strconv.Itoa(p.Level), "--ahead="+strconv.Itoa(p.Files))
	if err != nil {
		h.Log.Debug("nothing is pushed ahead", "error", err)
	}
	return ended
}

// marked answers by a marker.
func (h *Host) marked(m *spool.Markers, path string) bool {
	known, ok := m.Find(path)
	if !ok {
		return false
	}
	for _, w := range known.Warnings {
		h.Log.Warn(w)
	}
	h.Log.Debug("archived ahead", slog.String("file", filepath.Base(path)))
	return true
}

// PushWaiting is the process that archives what waits in a pg_wal, for one run of the server. It ends when it has done so, at the first
// file that fails, and when that run has ended.
func (h *Host) PushWaiting(ctx context.Context, walDir, run string, p Push) error {
	m := h.Markers()
	if m == nil {
		return h.Err
	}
	tidy(m, walDir)
	names, err := waiting(m, walDir)
	if err != nil {
		return err
	}
	list, err := m.Hold(names)
	if err != nil {
		return err
	}
	defer list.Release()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	policy := brief
	policy.Hurry, policy.Haste = h.Serving(ctx), pushHaste
	s, err := h.Open(policy)
	if err != nil {
		return err
	}
	h.whileRuns(ctx, cancel, run, func() bool { return true })
	if err := h.Admit(ctx, s, m, h.Control.SystemID); err != nil {
		return err // as the request does, which is then not answered by a marker
	}
	pushes := pushes{
		jobs: p.Jobs(h.Control.SegmentSize),
		pushed: func(path string, res walstore.PushResult) error {
			err := mark(m, path, res)
			if err != nil { // PostgreSQL's request will push it again
				list.GiveUp()
			}
			return err
		},
		failed: func(path string, err error) {
			h.Log.Debug("not pushed ahead", "file", filepath.Base(path), "error", err)
			list.Forget()
		},
	}
	for i, name := range names {
		names[i] = filepath.Join(walDir, name)
	}
	pushes.run(ctx, s, walstore.PushRequest{Level: p.Level, Spill: h.Spool, SystemID: h.SystemID}, names)
	return nil
}

// waiting are the files of a pg_wal that wait and are not archived, as far as markers know: the first ones, in the order in
// which PostgreSQL asks for them.
func waiting(m *spool.Markers, walDir string) ([]string, error) {
	names, err := Ready(walDir)
	if err != nil {
		return nil, err
	}
	rest := names[:0]
	for _, name := range names {
		if len(rest) < mostFiles && !m.Likely(filepath.Join(walDir, name)) {
			rest = append(rest, name)
		}
	}
	return rest, nil
}

// tidy removes markers that nobody needs.
func tidy(m *spool.Markers, walDir string) {
	m.Tidy(func(name string) bool { return isReady(walDir, name) })
}

// isReady says whether the archiver waits for a file.
func isReady(walDir, name string) bool {
	return datadir.Exists(filepath.Join(walDir, "archive_status", name+".ready"))
}

func mark(m *spool.Markers, path string, res walstore.PushResult) error {
	id, ok := spool.IdentityOf(res.File)
	if !ok {
		return errors.New("this system cannot identify files")
	}
	return m.Add(filepath.Base(path), spool.Archived{Identity: id, SHA256: fmt.Sprintf("%x", res.SHA256), XXHash: res.XXHash, Warnings: res.Warnings})
}
