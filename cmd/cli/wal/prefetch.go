package wal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/spool"
)

const (
	prefetchJobs = 3
	prefetchMost = 64 // segments, however small they are
)

// fetchAhead is wal-fetch's side of a window; nil: there is none. Nothing that goes wrong with it is an error,
// and absence is never concluded from it.
type fetchAhead struct {
	a       *app.App
	window  *spool.Window
	control datadir.Control
	start   []string // command line of the process that fills the window
}

// aheadOf is the window of the recovery that asks, if it is one: a running server asks for a segment under
// the name that its startup process uses (pg_rewind and people do not).
func (c *WalFetch) aheadOf(a *app.App, dataDir string, control datadir.Control) (*fetchAhead, error) {
	bytes, err := parseSize(c.Prefetch)
	if err != nil {
		return nil, app.Usagef("--prefetch (PGOBJ_WAL_PREFETCH) is %q: %v", c.Prefetch, err)
	}
	dir, err := c.dir(a, dataDir)
	if err != nil || dir == "" {
		return nil, err
	}
	if bytes == 0 || filepath.Base(c.Dest) != "RECOVERYXLOG" || segment.Classify(c.Name) != segment.Full || control.Partial {
		return nil, nil
	}
	w, err := a.Window(dir, dataDir, control)
	if err != nil {
		a.Log.Debug("nothing is fetched ahead", "error", err)
		return nil, nil
	}
	count := max(1, min(prefetchMost, bytes/int64(control.SegmentSize)))
	abs, err := filepath.Abs(dataDir)
	if err != nil {
		return nil, nil
	}
	args := append([]string{"wal-prefetch", c.Name, abs, "--of=" + serverRun(abs), "--spool=" + dir, "--count=" + strconv.FormatInt(count, 10)}, a.Settings.Args()...)
	return &fetchAhead{a: a, window: w, control: control, start: args}, nil
}

// serverRun names the run of the server on a data directory.
func serverRun(dataDir string) string {
	pid, started, _ := app.RunningPostmaster(dataDir)
	return fmt.Sprintf("%d/%s", pid, started)
}

// deliver gives PostgreSQL the segment from the window, if it is there or comes soon.
func (f *fetchAhead) deliver(ctx context.Context, name, dest string) bool {
	if f == nil {
		return false
	}
	f.window.Await(ctx, name, aheadStall)
	path, sum, ok := f.window.Find(name)
	if !ok {
		return false
	}
	if err := walstore.Deliver(path, sum, walstore.FetchRequest{Name: name, Dest: dest, SystemID: f.control.SystemID}); err != nil {
		f.a.Log.Warn("a segment is fetched again, because its copy that was fetched ahead cannot be used", "error", err)
		return false
	}
	f.a.Log.Debug("fetched ahead", slog.String("file", name))
	f.got(name)
	return true
}

// got says that PostgreSQL has a segment, to a process that is started if there is none. That stays in the
// process group of the server's startup process, so that it is ended with it; and it watches the server.
func (f *fetchAhead) got(name string) {
	if f == nil || f.window.Asked(name) {
		return
	}
	if _, err := startSelf(f.start); err != nil {
		f.a.Log.Debug("nothing is fetched ahead", "error", err)
	}
}

// WalPrefetch is the process that fills a window. It is for wal-fetch, not for people. It ends when the recovery
// ends, when its server is gone, and when nothing was asked for a while; and takes the window with it. Nobody learns how.
type WalPrefetch struct {
	Name  string        `arg:""`
	Data  string        `arg:""`
	Count int           `name:"count" default:"16"`
	Idle  time.Duration `name:"idle" default:"5m"`
	Of    string        `name:"of" required:""` // the run of the server that it was started for: it may be another by now
	spoolFlag
}

func (c *WalPrefetch) Run(ctx context.Context, a *app.App) error {
	control, _, err := datadir.ReadControl(c.Data)
	if err != nil {
		return err
	}
	if c.Of != serverRun(c.Data) {
		return nil
	}
	dir, err := c.dir(a, c.Data)
	if err != nil || dir == "" {
		return err
	}
	w, err := a.Window(dir, c.Data, control)
	if err != nil {
		return err
	}
	s, err := a.Open(aheadPolicy)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	asked, release, err := w.Hold(ctx)
	if errors.Is(err, spool.ErrBusy) {
		return nil
	}
	if err != nil {
		return err
	}
	defer release()
	spool.Sweep(dir)
	go followServer(ctx, cancel, c.Data, c.Of, func() bool { return app.Recovering(c.Data) }) // ends with ctx
	p := walstore.Prefetch{Store: s, SystemID: control.SystemID, Size: control.SegmentSize, Window: w, Count: c.Count, Jobs: prefetchJobs}
	p.Run(ctx, c.Name, asked, c.Idle)
	return nil
}

// parseSize reads a size as PostgreSQL's settings have it: a number with kB, MB, GB or TB (of 1024), or of bytes.
func parseSize(text string) (int64, error) {
	number, shift := strings.TrimSpace(text), 0
	for i, unit := range []string{"B", "kB", "MB", "GB", "TB"} {
		if n, ok := strings.CutSuffix(number, unit); ok && (unit != "B" || !strings.ContainsAny(n, "kMGT")) {
			number, shift = strings.TrimSpace(n), 10*i
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > 1<<62>>shift {
		return 0, fmt.Errorf("expected a size such as 256MB")
	}
	return n << shift, nil
}
