package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/outcome"
	"github.com/pgobj/pgobj/backup/unpack"
	"github.com/pgobj/pgobj/storage"
)

// Run does what the plan says. Until it returns nil, PostgreSQL does not start on the target; when it fails or is
// killed, the same request with Delta goes on from what is there.
func (p *Plan) Run(ctx context.Context) error {
	b, r := p.Backup, p.request
	r.Progress.TotalFiles.Store(b.Files)
	r.Progress.TotalBytes.Store(b.Size - p.LeftOut)
	r.Log.Info("restore starts", "backup", b.ID, "taken", b.Started.Format(time.RFC3339), "target", p.Target, "bytes", b.Size, "files", b.Files)
	if err := p.target.Open(); err != nil {
		return fmt.Errorf("restore backup %s to %s: %w", b.ID, p.Target, err)
	}
	if err := p.saveWAL(); err != nil {
		return fmt.Errorf("save WAL that was never archived (nothing has been changed yet): %w", ofTarget(err))
	}
	p.Begun = true
	if err := p.restore(ctx); err != nil {
		return fmt.Errorf("restore backup %s to %s: %w", b.ID, p.Target, p.manifest.Affected(ofTarget(err)))
	}
	return nil
}

// ofTarget marks what the file system of the target has refused, so that it is told from what is wrong with the
// repository, which may be a directory as well. Names that cannot be, or be together, and links that lead elsewhere have
// come from the manifest: nothing else is in the target.
func ofTarget(err error) error {
	if _, ok := errors.AsType[*storage.Error](err); ok || errors.Is(err, backup.ErrTarget) {
		return err
	}
	var cause error
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		cause = e.Err
	} else if e, ok := errors.AsType[*os.LinkError](err); ok {
		cause = e.Err
	} else {
		return err
	}
	for _, e := range []error{unix.EEXIST, unix.ENOENT, unix.ENOTDIR, unix.EISDIR, unix.ELOOP, unix.EINVAL, unix.ENAMETOOLONG} {
		if errors.Is(cause, e) {
			return fmt.Errorf("%w: it lists an impossible path: %w", manifest.ErrDamaged, err)
		}
	}
	if cause.Error() == "path escapes from parent" { // os.Root's, which has no name
		return fmt.Errorf("%w: it lists a path that leads out of the directory: %w", manifest.ErrDamaged, err)
	}
	return fmt.Errorf("%w: %w", backup.ErrTarget, err)
}

func (p *Plan) restore(ctx context.Context) error {
	t := p.target
	if err := t.Begin(p.Backup.ID); err != nil {
		return err
	}
	if t.Delta {
		lines, err := p.manifest.Read()
		if err == nil {
			err = t.Sweep(ctx, lines)
		}
		if err != nil {
			return fmt.Errorf("remove files that are not in the backup: %w", err)
		}
	}
	if err := unpack.NewUnpacker(ctx, p.request.Store, t, p.request.Workers, p.request.Progress).Unpack(p.manifest.All(), p.Backup.Size); err != nil {
		return err
	}
	if err := t.RelocateMap(); err != nil {
		return err
	}
	if err := writeSettings(t, p.written); err != nil {
		return fmt.Errorf("write the recovery settings: %w", err)
	}
	if err := p.writeRestored(); err != nil {
		return fmt.Errorf("write %s: %w", outcome.RestoredFile, err)
	}
	if err := p.writeConfig(); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	if err := t.SyncDirs(); err != nil {
		return fmt.Errorf("fsync the directories: %w", err)
	}
	return t.Finish()
}
