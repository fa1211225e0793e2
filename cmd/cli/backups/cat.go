package backups

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgobj/pgobj/backup/content"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/show"
)

type BackupCat struct {
	Backup string `arg:"" help:"Id of the backup or its beginning, or LATEST."`
	Path   string `arg:"" help:"Path of the file in the data directory, such as postgresql.conf, or of a configuration file from outside of it, such as /etc/postgresql/15/main/pg_hba.conf."`
}

func (c *BackupCat) Run(ctx context.Context, a *app.App) error {
	r, e, err := a.Find(ctx, c.Backup)
	if errors.Is(err, catalog.ErrNoBackup) {
		if _, e := r.State.Resolve(c.Path); e == nil {
			err = fmt.Errorf("%w\nGive the backup first: pgobj backup-cat %s %s", err, show.ShellQuote(c.Path), show.ShellQuote(c.Backup))
		}
	}
	if err != nil {
		return err
	}
	b, err := r.Cat.Backup(ctx, e)
	if err != nil {
		return err
	}
	return content.Cat(ctx, r.Store, b, c.Path, a.Raw)
}
