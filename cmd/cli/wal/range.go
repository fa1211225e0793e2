package wal

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/retry"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/segment"
)

// fetchRange puts segments into a directory under their names. It is for people: its exit codes are the usual ones.
func (c *WalFetch) fetchRange(ctx context.Context, a *app.App) error {
	from, to, ok := strings.Cut(c.Range, "..")
	if !ok || segment.Classify(from) != segment.Full || segment.Classify(to) != segment.Full || c.Dest != "" {
		return app.Usagef("use wal-fetch --range FROM..TO DIR, with two names of WAL segments")
	}
	if from[8:] > to[8:] { // by place, on whatever timeline
		return app.Usagef("--range is %q: its end is before its beginning", c.Range)
	}
	store, err := a.Open(retry.Policy{})
	if err != nil {
		return err
	}
	if err := a.Known(ctx, store); err != nil {
		return err
	}
	sysid, err := c.whose(ctx, store)
	if err != nil {
		return err
	}
	names, err := walstore.Between(ctx, store, sysid, from, to)
	if err != nil {
		return err
	}
	var n atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, name := range names {
		g.Go(func() error {
			n.Add(1)
			return walstore.Fetch(ctx, store, walstore.FetchRequest{Name: name, Dest: filepath.Join(c.Name, name), SystemID: sysid})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	fmt.Fprintf(a.Out, "fetched %s to %s\n", show.Number(n.Load(), "file"), c.Name)
	return nil
}

// whose is the system identifier: as given, or of the data directory, or the only one in the archive.
func (c *WalFetch) whose(ctx context.Context, store storage.Store) (uint64, error) {
	if c.SystemID != 0 {
		return c.SystemID, nil
	}
	if dir, err := datadir.Of(filepath.Join(c.Name, "x"), os.Getenv("PGDATA")); err == nil {
		control, _, err := datadir.ReadControl(dir)
		if err != nil {
			return 0, fmt.Errorf("find the system identifier: %w", err)
		}
		return control.SystemID, nil
	}
	ids, err := walstore.Incarnations(ctx, store)
	if err != nil {
		return 0, err
	}
	if len(ids) != 1 {
		return 0, app.Usagef("the archive has WAL of %d clusters %v: give --system-id", len(ids), ids)
	}
	return ids[0], nil
}
