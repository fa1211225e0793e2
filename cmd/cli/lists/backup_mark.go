package lists

import (
	"context"
	"fmt"
	"time"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/app"
)

type BackupMark struct {
	Backup string `arg:"" help:"Id of the backup or its beginning, latest, or oldest."`
	Pin    bool   `name:"pin" xor:"mark" required:"" help:"Keep the backup, with the WAL that makes it consistent, whatever else is deleted."`
	Unpin  bool   `name:"unpin" xor:"mark" required:"" help:"Remove the pin."`
	Until  string `name:"until" placeholder:"TIME" help:"When the pin ends by itself, such as '2027-01-31 00:00:00+01' (default: never)."`
}

func (c *BackupMark) Run(ctx context.Context, a *app.App) error {
	var until time.Time
	if c.Until != "" {
		if c.Unpin {
			return app.Usagef("--until needs --pin")
		}
		var err error
		if until, err = app.ParseTime("--until", c.Until); err != nil {
			return err
		}
		if !until.After(a.Now()) {
			return app.Usagef("--until %s is in the past", c.Until)
		}
	}
	r, e, err := a.Find(ctx, c.Backup)
	if err != nil {
		return err
	}
	id := e.ID
	_, err = r.Cat.Append(ctx, r.State, func(s *catalog.State) (catalog.Record, error) {
		if e := s.Entry(id); e.Status != catalog.Complete { // it was deleted meanwhile
			return catalog.Record{}, fmt.Errorf("%w: %s", catalog.ErrNoBackup, id)
		}
		pin := &catalog.Pin{Backup: id, Until: until.UTC()}
		if c.Unpin {
			return catalog.Record{Type: "unpin", Unpin: pin}, nil
		}
		return catalog.Record{Type: "pin", Pin: pin}, nil
	})
	if err != nil {
		return err
	}
	if c.Unpin {
		fmt.Fprintf(a.Out, "backup %s is not pinned any more\n", id)
	} else {
		fmt.Fprintf(a.Out, "backup %s is %s\n", id, &app.Pin{Until: until})
	}
	return nil
}
