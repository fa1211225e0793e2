package cli

import (
	"context"
	"errors"
)

// walPush: written by the walstore engineer.
type walPush struct {
	Path string `arg:"" help:"The WAL file, as archive_command's %p."`
}

func (c *walPush) Run(ctx context.Context, a *app) error { return errors.New("not yet") }
