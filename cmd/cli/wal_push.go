package cli

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/pgobj/pgobj/storage/retry"
	"github.com/pgobj/pgobj/walstore"
)

// walPush ends with 0 only when the file is in the storage for good: PostgreSQL then deletes its own.
// PostgreSQL asks again after every failure, so the deadline only has to keep a push from hanging.
type walPush struct {
	Path    string        `arg:"" help:"The WAL file, as archive_command's %p."`
	Timeout time.Duration `name:"timeout" env:"PGOBJ_WAL_PUSH_TIMEOUT" default:"5m" help:"Give up after this time; PostgreSQL tries again."`
	Level   int           `name:"wal-level" env:"PGOBJ_WAL_LEVEL" default:"0" placeholder:"N" help:"zstd level of the compression, 0 (the fastest) to 19."`
}

// walPushMemory is from where on garbage is collected after all.
const walPushMemory = 96 << 20

func (c *walPush) Run(ctx context.Context, a *app) error {
	// The process is short: collecting garbage of a few MiB several times takes a tenth of its time.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(walPushMemory)
	if c.Timeout <= 0 {
		return usagef("--timeout (PGOBJ_WAL_PUSH_TIMEOUT) is %v: use a time above 0, such as 5m", c.Timeout)
	}
	if c.Level < 0 || c.Level > 19 {
		return usagef("--wal-level (PGOBJ_WAL_LEVEL) is %d: use 0 to 19", c.Level)
	}
	s, err := a.open(retry.Policy{Budget: c.Timeout})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("not finished within --timeout %v", c.Timeout))
	defer cancel()
	systemID := func() (uint64, error) { return systemIDOf(c.Path) }
	res, err := walstore.Push(ctx, s, walstore.PushRequest{Path: c.Path, SystemID: systemID, Level: c.Level})
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return fmt.Errorf("%w\n%w", cause, err)
		}
		return err
	}
	for _, w := range res.Warnings {
		a.log.Warn(w)
	}
	a.log.Debug("archived", slog.String("file", filepath.Base(c.Path)), slog.String("key", res.Key),
		slog.Bool("already_there", res.AlreadyThere), slog.Int64("bytes", res.Raw), slog.Int64("stored", res.Stored))
	return nil
}
