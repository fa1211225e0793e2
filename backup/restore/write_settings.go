package restore

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/backup/content"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/settings"
	"github.com/pgobj/pgobj/backup/target"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
)

// writeSettings writes what makes PostgreSQL recover, and keeps it from archiving, when it is started on the
// target.
func writeSettings(t *target.Target, w settings.Written) error {
	if text := w.Own(); text != "" {
		if err := t.WriteFile(w.File, []byte(text)); err != nil {
			return err
		}
	}
	auto := w.InAuto()
	old, err := t.ReadFile(settings.AutoConf)
	if err != nil {
		return err
	}
	text := settings.CommentOut(old, auto)
	if len(auto) > 0 {
		text += settings.Block(w.Comments, auto)
	}
	if text != old {
		if err := t.WriteFile(settings.AutoConf, []byte(text)); err != nil {
			return err
		}
	}
	if w.Signal == "" {
		return nil
	}
	return t.WriteFile(w.Signal, nil)
}

// scanConf reads the configuration files that the backup has.
func scanConf(ctx context.Context, s storage.Store, b *catalog.Backup, files []*manifest.File) (settings.ConfScan, error) {
	c := settings.ConfScan{Own: map[string]string{}}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	texts := make([][]byte, len(files))
	for i, f := range files {
		g.Go(func() (err error) {
			if texts[i], err = content.ReadContent(ctx, s, f); err != nil {
				return fmt.Errorf("read %s of the backup: %w", f.RawPath(), err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return c, err
	}
	for i, f := range files {
		c.Own[f.RawPath()] = string(texts[i])
		c.Scan(f.RawPath(), string(texts[i]), b)
	}
	for _, f := range b.ConfigFiles {
		if !datadir.IsAccess(f.Path) {
			c.Scan(f.Path, string(f.Content), b)
		}
	}
	return c, nil
}
