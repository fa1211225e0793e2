package cli

import (
	"context"
	"errors"
)

// walFetch: written by the walstore engineer. Its exit code differs from the table in errors.go: return
// an error that carries it (see exitCode in report).
type walFetch struct {
	Name string `arg:"" help:"Name of the WAL file, as restore_command's %f."`
	Dest string `arg:"" help:"Where to write it, as restore_command's %p."`
}

func (c *walFetch) Run(ctx context.Context, a *app) error { return errors.New("not yet") }
