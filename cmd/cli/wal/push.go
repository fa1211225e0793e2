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
	"github.com/pgobj/pgobj/walstore/ahead"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/tail"
)

// WalPush ends with 0 only when the file is in the storage for good: PostgreSQL then deletes its own.
type WalPush struct {
	Path string `arg:"" help:"The WAL file, as archive_command's %p. With --all: the data directory."`
	All  bool   `name:"all" help:"Archive all WAL files of a stopped server that are not archived yet, and the incomplete last segment. Do this before you delete or overwrite the data directory."`
	pushFlags
}

// pushFlags are those of every process that archives files of a pg_wal.
type pushFlags struct {
	Level int `name:"wal-level" env:"PGOBJ_WAL_LEVEL" default:"0" placeholder:"N" help:"zstd compression level, 0 to 19; levels 0 to 5 are all the fastest."`
	Ahead int `name:"ahead" env:"PGOBJ_WAL_PUSH_AHEAD" default:"4" placeholder:"N" help:"Number of files to archive at once: the requested one, and the next ones that PostgreSQL will request. 1: only the requested one."`
	spoolFlag
}

// walPushTimeout is the --timeout that there is without one: PostgreSQL asks again.
const walPushTimeout = 5 * time.Minute

// walPushHaste: the server that stops asks six times at most (three failures, and three in its last round), and pg_ctl waits for a
// minute: so long the storage is waited for then.
const walPushHaste = 5 * time.Second

func (f pushFlags) check() error {
	if f.Level < 0 || f.Level > 19 {
		return app.Usagef("--wal-level (PGOBJ_WAL_LEVEL) is %d: use 0 to 19", f.Level)
	}
	if f.Ahead < 1 || f.Ahead > 64 {
		return app.Usagef("--ahead (PGOBJ_WAL_PUSH_AHEAD) is %d: use 1 (no other files) to 64", f.Ahead)
	}
	return nil
}

func (f pushFlags) files() ahead.Push { return ahead.Push{Level: f.Level, Files: f.Ahead} }

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
	host, err := c.look(a, c.Path)
	if err != nil {
		return err
	}
	if err := guard(a, host); err != nil {
		return err
	}
	if host.Pushed(ctx, c.Path, c.files()) {
		return nil
	}
	collectLate(1)
	hurry := host.Serving(ctx)
	s, err := a.Open(retry.Policy{Hurry: hurry, Haste: walPushHaste})
	if err != nil {
		return err
	}
	res, err := walstore.Push(ctx, s, walstore.PushRequest{Path: c.Path, Level: c.Level, Spill: host.Spill(), Admit: a.Gate(s, host.Markers()).Admit, SystemID: host.SystemID})
	if err != nil && ctx.Err() == nil && hurry.Err() != nil && errors.Is(err, storage.ErrTransient) {
		return fmt.Errorf("%w\n%w", app.ErrStopping, err)
	}
	if err != nil {
		return c.byName(app.TimedOut(ctx, err))
	}
	pushed(a, c.Path, res)
	return nil
}

// guard keeps the WAL of a data directory out of the archive of another one, where nobody named the server.
func guard(a *app.App, host *ahead.Host) error {
	if host.Data == "" {
		return nil
	}
	if err := a.ConfigFile.Guard(host.Data); err != nil {
		return fmt.Errorf("%w: %w", app.ErrUsage, err)
	}
	return nil
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
	return fmt.Errorf("%w\n%s exists: archive_command must be 'pgobj wal-push %%p', with the path; %%f is only the name", err, path)
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
	ready, err := ahead.Ready(walDir)
	if err != nil {
		return c.noDataDirectory(a, err)
	}
	for i, name := range ready {
		ready[i] = filepath.Join(walDir, name)
	}
	ready = withoutOrphans(a, ready)
	host, err := c.lookAt(a, c.Path)
	if err = cmp.Or(host.Err, err); err != nil {
		return err
	}
	if err := guard(a, host); err != nil {
		return err
	}
	control := host.Control
	last, err := c.tail(a, host)
	if err != nil {
		return err
	}
	ready = append(ready, last.Complete...)
	s, err := a.Open(retry.Policy{})
	if err != nil {
		return err
	}
	if len(ready) > 0 || last.Open != "" { // one question for all of them
		if err := a.Gate(s, nil).Admit(ctx, control.SystemID); err != nil {
			if errors.Is(err, admit.ErrForeign) {
				err = fmt.Errorf("%w\nIf this server will not run again, give --server the name of its own archive: pgobj server-list shows which one belongs to system identifier %d. Without a backup of this server no restore can use the WAL. To take one after a clean shutdown: pgobj backup-push --offline %s", err, control.SystemID, show.ShellQuote(c.Path))
			}
			return fmt.Errorf("archive the files that wait in %s: %w", c.Path, err)
		}
	}
	var mu sync.Mutex
	var failed []error
	var there, bytes int64
	g := errgroup.Group{}
	g.SetLimit(c.files().Jobs(control.SegmentSize))
	for _, path := range ready {
		g.Go(func() error {
			res, err := walstore.Push(ctx, s, walstore.PushRequest{Path: path, Level: c.Level, Spill: host.Spill(), SystemID: host.SystemID})
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
	fmt.Fprintf(a.Out, "archived %d of %s (%s), %d of them were already archived\n", len(ready)-len(failed), show.Number(len(ready), "waiting file"), show.Size(bytes), there)
	return errors.Join(append(failed, c.pushOpen(ctx, a, s, last, control.SystemID))...)
}

// noDataDirectory says what to do with a directory of WAL files, such as --save-wal makes.
func (c *WalPush) noDataDirectory(a *app.App, err error) error {
	names, _ := datadir.ReadDir(c.Path) // what cannot be read has none
	if !slices.ContainsFunc(names, func(name string) bool { return segment.Classify(name) != segment.Invalid }) {
		return app.Usagef("%s is not a data directory: %v", c.Path, err)
	}
	return app.Usagef("%s is a directory of WAL files, not a data directory. Archive them one by one, with the data directory that they were saved from: for f in %s/*; do PGDATA=DATA_DIRECTORY %s wal-push \"$f\"; done", c.Path, show.ShellQuote(c.Path), a.Invocation())
}

// tail is what a server that does not run has written without a note for its archiver. Of one that runs nothing counts: it will
// note it.
func (c *WalPush) tail(a *app.App, h *ahead.Host) (t tail.Tail, _ error) {
	tli, shutdown, ok := h.Control.Wrote()
	if h.Unknown != nil { // this may be the last chance
		a.Log.Warn("it cannot be told whether the server is running; it is taken for stopped", "error", h.Unknown)
	}
	switch {
	case h.Server.Run() != "":
		a.Log.Warn("the server is running: this command does not archive what it writes from now on", "data", c.Path)
	case ok:
		return tail.Find(filepath.Join(c.Path, "pg_wal"), tli, h.Control.SegmentSize, shutdown)
	}
	return t, nil
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
	fmt.Fprintf(a.Out, "archived the incomplete segment %s: %s. A restore by backup-fetch recovers with it\n", filepath.Base(t.Open), show.Size(t.To))
	return nil
}

// withoutOrphans leaves out what does not wait although archive_status says so: a crash can bring back the .ready of a file that
// has been archived and removed. PostgreSQL warns of it, too, and removes it (pgarch_ArchiverCopyLoop).
func withoutOrphans(a *app.App, ready []string) []string {
	return slices.DeleteFunc(ready, func(path string) bool {
		_, err := os.Stat(path)
		gone := errors.Is(err, fs.ErrNotExist)
		if gone {
			a.Log.Warn("left out: archive_status lists it as waiting, but pg_wal does not have it", "file", filepath.Base(path))
		}
		return gone
	})
}
