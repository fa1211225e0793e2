package cli

import (
	"context"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/storage/retry"
)

type backupCat struct {
	Backup string `arg:"" help:"Id of the backup, the beginning of one, or LATEST."`
	Path   string `arg:"" help:"Path of the file in the data directory, such as postgresql.conf, or of a configuration file from outside of it, such as /etc/postgresql/15/main/pg_hba.conf."`
}

func (c *backupCat) Run(ctx context.Context, a *app) error {
	store, err := a.open(retry.Policy{})
	if err != nil {
		return err
	}
	cat := a.catalog(store)
	state, err := cat.Load(ctx)
	if err != nil {
		return err
	}
	e, err := state.Resolve(c.Backup)
	if err != nil {
		return err
	}
	b, err := cat.Backup(ctx, e)
	if err != nil {
		return err
	}
	return backup.Cat(ctx, store, b, c.Path, a.Out)
}
