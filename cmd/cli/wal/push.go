package wal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/retry"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/admit"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/spool"
	"github.com/pgobj/pgobj/walstore/tail"
)

// WalPush ends with 0 only when the file is in the storage for good: PostgreSQL then deletes its own.
type WalPush struct {
	Path string `arg:"" help:"The WAL file, as archive_command's %p. With --all: the data directory."`
	All  bool   `name:"all" help:"Archive every file that still waits for it in the data directory of a stopped server, and what there is of the segment that it was writing: the last chance before it is wiped or given up."`
	pushFlags
}

// pushFlags are those of every process that archives files of a pg_wal.
type pushFlags struct {
	Level int `name:"wal-level" env:"PGOBJ_WAL_LEVEL" default:"0" placeholder:"N" help:"zstd level of the compression, 0 to 19; up to 5 all are the fastest."`
	Ahead int `name:"ahead" env:"PGOBJ_WAL_PUSH_AHEAD" default:"4" placeholder:"N" help:"Files that are pushed at once: the one asked for, and those that PostgreSQL will ask for next. 1: no others."`
	spoolFlag
}

// walPushTimeout is the --timeout that there is without one: PostgreSQL asks again.
const walPushTimeout = 5 * time.Minute

// The server that stops asks six times at most (three failures, and three in its last round), and pg_ctl waits for a minute: so
// long the storage is waited for then, for a request of ours, and before that of the process that works ahead.
const (
	walPushHaste      = 5 * time.Second
	walPushAheadHaste = 2 * time.Second
)

func (f pushFlags) check() error {
	if f.Level < 0 || f.Level > 19 {
		return app.Usagef("--wal-level (PGOBJ_WAL_LEVEL) is %d: use 0 to 19", f.Level)
	}
	if f.Ahead < 1 || f.Ahead > 64 {
		return app.Usagef("--ahead (PGOBJ_WAL_PUSH_AHEAD) is %d: use 1 (no other files) to 64", f.Ahead)
	}
	return nil
}

// jobs is how many files of a cluster are pushed at once: one, when segments are large.
func (f pushFlags) jobs(size segment.Size) int {
	return int(max(1, min(int64(f.Ahead), walstore.AheadMemory/int64(max(size, 1)))))
}

// collectLate lets garbage be collected from 96 MiB for each of files on, and no earlier: in a process that is short, doing
// so for a few MiB several times takes a tenth of its time.
func collectLate(files int) {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(int64(files) * 96 << 20)
}

func (c *WalPush) Run(ctx context.Context, a *app.App) error {
	if err := c.check(); err != nil {
		return err
	}
	if c.All {
		collectLate(min(c.Ahead, 3))
		return c.pushAll(ctx, a)
	}
	if a.Timeout == nil {
		limit := walPushTimeout
		var cancel context.CancelFunc
		ctx, cancel = app.WithTimeout(ctx, &limit)
		defer cancel()
	}
	ahead, err := c.aheadOf(a)
	if err != nil {
		return err
	}
	if ahead.archived(ctx, c.Path) {
		return nil
	}
	collectLate(1)
	hurry := c.hurry(ctx)
	s, err := a.Open(retry.Policy{Hurry: hurry, Haste: walPushHaste})
	if err != nil {
		return err
	}
	res, err := c.push(ctx, a, s)
	if err != nil && ctx.Err() == nil && hurry.Err() != nil && errors.Is(err, storage.ErrTransient) {
		return fmt.Errorf("%w\n%w", app.ErrStopping, err)
	}
	if err != nil {
		return c.byName(app.TimedOut(ctx, err))
	}
	pushed(a, c.Path, res)
	return nil
}

// hurry ends soon after the server has been told to stop: it does not end before its archiver does.
func (c *WalPush) hurry(ctx context.Context) context.Context {
	dataDir, err := dataDirFor(c.Path)
	if err != nil {
		return context.Background() // a rescued file
	}
	return serving(ctx, dataDir)
}

func (c *WalPush) push(ctx context.Context, a *app.App, s storage.Store) (walstore.PushResult, error) {
	memory, dir, err := c.memory(a)
	if err != nil {
		return walstore.PushResult{}, err
	}
	return walstore.Push(ctx, s, walstore.PushRequest{Path: c.Path, Level: c.Level, Spill: cmp.Or(dir, os.TempDir()), Admit: a.Gate(s, memory).Admit,
		SystemID: func() (uint64, error) { return systemIDOf(c.Path) }})
}

// memory is the spool of the data directory that the file belongs to, and the markers in it; none for a rescued file.
func (c *WalPush) memory(a *app.App) (*spool.Markers, string, error) {
	dataDir, err := dataDirFor(c.Path)
	if err != nil {
		return nil, "", nil
	}
	dir, err := c.dir(a, dataDir)
	if err != nil || dir == "" {
		return nil, "", err
	}
	control, _, err := datadir.ReadControl(dataDir)
	if err != nil {
		return nil, dir, nil // Push says what is wrong, where that matters
	}
	memory, err := a.Markers(dir, dataDir, control)
	if err != nil {
		a.Log.Debug("nothing is remembered of this archive", "error", err)
	}
	return memory, dir, nil
}

// byName says of a file that there is not that pg_wal has it, as PostgreSQL runs archive_command in the data directory.
func (c *WalPush) byName(err error) error {
	if _, e := os.Lstat(c.Path); app.IsPath(c.Path) || !errors.Is(e, fs.ErrNotExist) {
		return err
	}
	path := filepath.Join("pg_wal", c.Path)
	if _, e := os.Lstat(path); e != nil {
		return err
	}
	return fmt.Errorf("%w\n%s is there: archive_command = 'pgobj wal-push %%p' gives the path, %%f only the name", err, path)
}

func pushed(a *app.App, path string, res walstore.PushResult) {
	for _, w := range res.Warnings {
		a.Log.Warn(w)
	}
	a.Log.Debug("archived", slog.String("file", filepath.Base(path)), slog.String("key", res.Key),
		slog.Bool("already_there", res.AlreadyThere), slog.Int64("bytes", res.Raw), slog.Int64("stored", res.Stored))
}

// pushAll archives what waits in a data directory. One file that fails does not keep the others.
func (c *WalPush) pushAll(ctx context.Context, a *app.App) error {
	walDir := filepath.Join(c.Path, "pg_wal")
	ready, err := walstore.Ready(walDir)
	if err != nil {
		return c.noDataDirectory(a, err)
	}
	ready = withoutOrphans(a, ready)
	control, _, err := datadir.ReadControl(c.Path)
	if err != nil {
		return err
	}
	last, err := c.tail(a, control)
	if err != nil {
		return err
	}
	ready = append(ready, last.Complete...)
	s, err := a.Open(retry.Policy{})
	if err != nil {
		return err
	}
	spill, err := c.dir(a, c.Path)
	if err != nil {
		return err
	}
	if len(ready) > 0 || last.Open != "" { // one question for all of them
		if err := a.Gate(s, nil).Admit(ctx, control.SystemID); err != nil {
			if errors.Is(err, admit.ErrForeign) {
				err = fmt.Errorf("%w\nOf a server that will not run again: pgobj server-list shows which archive is of %d, for --server; without a backup of it the WAL is of no use to any restore. After a clean shutdown pgobj backup-push --offline %s takes one", err, control.SystemID, show.ShellQuote(c.Path))
			}
			return fmt.Errorf("archive what waits in %s: %w", c.Path, err)
		}
	}
	var mu sync.Mutex
	var failed []error
	var there, bytes int64
	g := errgroup.Group{}
	g.SetLimit(c.jobs(control.SegmentSize))
	for _, path := range ready {
		g.Go(func() error {
			res, err := walstore.Push(ctx, s, walstore.PushRequest{Path: path, Level: c.Level, Spill: cmp.Or(spill, os.TempDir()),
				SystemID: func() (uint64, error) { return control.SystemID, nil }})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = append(failed, err)
				return nil
			}
			pushed(a, path, res)
			bytes += res.Raw
			if res.AlreadyThere {
				there++
			}
			return nil
		})
	}
	_ = g.Wait() // every error is in failed
	fmt.Fprintf(a.Out, "archived %d of %s (%s), %d of them had been archived before\n", len(ready)-len(failed), show.Number(len(ready), "waiting file"), show.Size(bytes), there)
	return errors.Join(append(failed, c.pushOpen(ctx, a, s, last, control.SystemID))...)
}

// noDataDirectory says what to do with a directory of WAL files, such as --save-wal makes.
func (c *WalPush) noDataDirectory(a *app.App, err error) error {
	names, _ := datadir.ReadDir(c.Path) // what cannot be read has none
	if !slices.ContainsFunc(names, func(name string) bool { return segment.Classify(name) != segment.Invalid }) {
		return app.Usagef("%s is no data directory: %v", c.Path, err)
	}
	return app.Usagef("%s is no data directory, but a directory of WAL files. Archive them one by one, with the data directory that they were saved from: for f in %s/*; do PGDATA=DATA_DIRECTORY %s wal-push \"$f\"; done", c.Path, show.ShellQuote(c.Path), a.Invocation())
}

// tail is what a server that does not run has written without a note for its archiver. Of one that runs nothing counts: it will
// note it.
func (c *WalPush) tail(a *app.App, control datadir.Control) (t tail.Tail, err error) {
	tli, shutdown, ok := control.Wrote()
	switch {
	case app.ServerRuns(c.Path):
		a.Log.Warn("the server is running: what it writes from now on is not archived by this", "data", c.Path)
	case ok:
		t, err = tail.Find(filepath.Join(c.Path, "pg_wal"), tli, control.SegmentSize, shutdown)
	}
	return t, err
}

// pushOpen archives what there is of the segment that the server was writing.
func (c *WalPush) pushOpen(ctx context.Context, a *app.App, s storage.Store, t tail.Tail, sysid uint64) error {
	if t.Open == "" {
		return nil
	}
	there, err := walstore.PushOpen(ctx, s, t.Open, t.To, sysid)
	if err != nil || there {
		return err
	}
	fmt.Fprintf(a.Out, "archived what there is of %s, which is not complete: %s. A restore by backup-fetch has it in its recovery\n", filepath.Base(t.Open), show.Size(t.To))
	return nil
}

// withoutOrphans leaves out what does not wait although archive_status says so: a crash can bring back the .ready of a file that
// has been archived and removed. PostgreSQL warns of it, too, and removes it (pgarch_ArchiverCopyLoop).
func withoutOrphans(a *app.App, ready []string) []string {
	return slices.DeleteFunc(ready, func(path string) bool {
		_, err := os.Stat(path)
		gone := errors.Is(err, fs.ErrNotExist)
		if gone {
			a.Log.Warn("left out: archive_status has it as waiting, and pg_wal does not have it", "file", filepath.Base(path))
		}
		return gone
	})
}
