package wal

import (
	"context"
	"time"

	"github.com/pgobj/pgobj/cmd/cli/app"
)

// WalPushAhead is the process that archives what waits. It is for wal-push, not for people; see package ahead. Nobody learns how it ends.
type WalPushAhead struct {
	WAL  string `arg:""`
	Data string `arg:""`
	Of   string `name:"of" required:""` // the run of the server that it was started for: it may be another by now
	pushFlags
}

func (c *WalPushAhead) Run(ctx context.Context, a *app.App) error {
	collectLate(min(c.Ahead, 3))
	host, err := c.lookAt(a, c.Data)
	if err != nil {
		return err
	}
	limit := walPushTimeout
	ctx, cancel := app.WithTimeout(ctx, &limit)
	defer cancel()
	return host.PushWaiting(ctx, c.WAL, c.Of, c.files())
}

// WalPrefetch is the process that fills a window. It is for wal-fetch, not for people; see package ahead. Nobody learns how it ends.
type WalPrefetch struct {
	Name  string        `arg:""`
	Data  string        `arg:""`
	Count int           `name:"count" default:"16"`
	Idle  time.Duration `name:"idle" default:"5m"`
	Of    string        `name:"of" required:""` // the run of the server that it was started for: it may be another by now
	spoolFlag
}

func (c *WalPrefetch) Run(ctx context.Context, a *app.App) error {
	host, err := c.lookAt(a, c.Data)
	if err != nil {
		return err
	}
	return host.FetchAhead(ctx, c.Of, c.Name, c.Count, c.Idle)
}
