package wal

import (
	"context"
	"time"

	"github.com/pgobj/pgobj/backup/datadir"
)

// stops says whether the server on a data directory has been told to stop, and still runs.
func stops(dataDir string) bool {
	running, _ := datadir.Running(dataDir)
	return running.Status == datadir.Stopping && running.Run() != ""
}

// serving returns a context that ends soon after the server on a data directory has been told to stop.
func serving(ctx context.Context, dataDir string) context.Context {
	ctx, stop := context.WithCancel(ctx)
	if stops(dataDir) {
		stop()
		return ctx
	}
	go func() { // ends with ctx
		defer stop()
		tick := time.NewTicker(aheadWatch)
		defer tick.Stop()
		for !stops(dataDir) {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx
}
