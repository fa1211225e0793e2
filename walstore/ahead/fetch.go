package ahead

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/storage/owned"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/patience"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/spool"
)

const (
	fetchJobs    = 3
	mostSegments = 64 // in a window, however small they are
)

// Window is wal-fetch's side of what is fetched ahead; nil: there is none.
type Window struct {
	host  *Host
	files *spool.Window
	args  []string // for the process that fills it
}

// Window is that of the recovery that asks for a file to be written to dest, if it is one: a running server asks for a segment under the
// name that its startup process uses (pg_rewind and people do not). It holds so many bytes, at least one segment; 0: there is none.
func (h *Host) Window(name, dest string, bytes int64) *Window {
	if bytes == 0 || filepath.Base(dest) != "RECOVERYXLOG" || segment.Classify(name) != segment.Full || h.Control.Partial || h.Spool == "" {
		return nil
	}
	files, err := h.window()
	if err != nil {
		h.Log.Debug("nothing is fetched ahead", "error", err)
		return nil
	}
	count := max(1, min(mostSegments, bytes/int64(h.Control.SegmentSize)))
	return &Window{h, files, []string{name, "--count=" + strconv.FormatInt(count, 10)}}
}

// window is that of the server that runs on the data directory: of this run of it, so that nothing of an earlier restore is ever
// taken.
func (h *Host) window() (*spool.Window, error) {
	if err := h.mayWork(); err != nil {
		return nil, err
	}
	if !datadir.Recovering(h.Data) {
		return nil, errors.New("the server in the data directory is not in recovery")
	}
	return spool.NewWindow(h.Spool, h.scope(h.Server.Run())), nil
}

// Deliver gives PostgreSQL the segment from the window, if it is there or comes soon.
func (w *Window) Deliver(ctx context.Context, name, dest string) bool {
	if w == nil {
		return false
	}
	w.files.Await(ctx, name, patience.Window)
	path, sum, ok := w.files.Find(name)
	if !ok {
		return false
	}
	if err := deliver(path, sum, walstore.FetchRequest{Name: name, Dest: dest, SystemID: w.host.Control.SystemID}); err != nil {
		w.host.Log.Warn("a segment is fetched again, because its copy that was fetched ahead cannot be used", "error", err)
		return false
	}
	w.host.Log.Debug("fetched ahead", slog.String("file", name))
	w.Got(name)
	return true
}

// Got says that PostgreSQL has a segment, to a process that is started if there is none.
func (w *Window) Got(name string) {
	if w == nil || w.files.Asked(name) {
		return
	}
	if _, err := w.host.start("wal-prefetch", w.args[0], w.args[1:]...); err != nil {
		w.host.Log.Debug("nothing is fetched ahead", "error", err)
	}
}

// deliver gives PostgreSQL a file that was fetched before, after checking it again: its content has to have the
// XXHash that it had when its SHA-256 was found right, and its header has to be the right one. (Recovery waits for this, and
// it takes a tenth of the time.) On an error nothing is handed over, and the file is removed; no conclusion may be
// drawn but to fetch it from the archive.
func deliver(path string, sum uint64, r walstore.FetchRequest) (err error) {
	defer func() {
		if err != nil {
			os.Remove(path)
			err = fmt.Errorf("deliver %s: %w", r.Name, err)
		}
	}()
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	content := xxhash.New()
	dst := object.NewChecked(io.Discard, r.Name, r.SystemID, content)
	if _, err := io.CopyBuffer(dst, struct{ io.Reader }{f}, make([]byte, 256<<10)); err != nil {
		return err
	}
	if err := dst.Finish(); err != nil {
		return err
	}
	if got := content.Sum64(); got != sum {
		return fmt.Errorf("it has XXHash %016x, not %016x any more", got, sum)
	}
	if err := os.Rename(path, r.Dest); !errors.Is(err, syscall.EXDEV) {
		return err // it was synced when it was fetched, and PostgreSQL syncs what it keeps (durable_rename)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil { // the window is on another file system
		return err
	}
	return walstore.ThroughTemp(r.Dest, func(w io.Writer) error {
		_, err := io.Copy(w, f)
		return err
	})
}

// FetchAhead is the process that fills a window, for one run of the server. It ends when the recovery ends, when that run has ended, and
// when nothing was asked for idle; and takes the window with it.
func (h *Host) FetchAhead(ctx context.Context, run, first string, count int, idle time.Duration) error {
	if h.Err != nil || h.Server.Run() != run || h.Spool == "" {
		return h.Err
	}
	files, err := h.window()
	if err != nil {
		return err
	}
	s, err := h.Open(brief)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	asked, release, err := files.Hold(ctx)
	if errors.Is(err, owned.ErrBusy) {
		return nil
	}
	if err != nil {
		return err
	}
	defer release()
	spool.Sweep(h.Spool)
	h.whileRuns(ctx, cancel, run, func() bool { return datadir.Recovering(h.Data) })
	f := filler{store: s, systemID: h.Control.SystemID, size: h.Control.SegmentSize, window: files, count: count}
	f.run(ctx, first, asked, idle)
	return nil
}
