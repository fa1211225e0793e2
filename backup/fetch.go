package backup

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
)

// FetchRequest says which backup to restore, where to, and how far to recover.
type FetchRequest struct {
	Store    storage.Store // rooted at the server's folder
	Catalog  *catalog.Catalog
	Target   string // folder; it must not exist, or be empty
	Backup   string // id, the beginning of one, or LATEST: the newest that fits Recovery's target
	Workers  int
	Recovery Recovery
	Progress *Progress
	Log      *slog.Logger
}

// Fetch restores a backup. Until it returns nil, PostgreSQL does not start on the target.
func Fetch(ctx context.Context, r FetchRequest) (*catalog.Backup, error) {
	state, err := r.Catalog.Load(ctx)
	if err != nil {
		return nil, err
	}
	for _, problem := range state.Problems {
		r.Log.Warn("the catalog is damaged", "problem", problem)
	}
	entry, err := choose(state, r.Backup, r.Recovery.TargetTime)
	if len(state.Problems) > 0 && (err != nil || isLatest(r.Backup)) {
		// What cannot be read may be the newest backup, and an older one is not what was asked for.
		return nil, fmt.Errorf("%w: %s\nThe backup that is wanted may be hidden by this; name one that pgobj backup-list shows", catalog.ErrDamaged, strings.Join(state.Problems, "; "))
	}
	if err != nil {
		return nil, err
	}
	b, err := r.Catalog.Backup(ctx, entry)
	if err != nil {
		return nil, err
	}
	m, err := fetchManifest(ctx, r.Store, b)
	if err != nil {
		return nil, err
	}
	defer m.close()
	r.Progress.TotalFiles.Store(b.Files)
	r.Progress.TotalBytes.Store(b.Size)
	r.Log.Info("restore starts", "backup", b.ID, "taken", b.Started.Format(time.RFC3339), "target", r.Target, "bytes", b.Size, "files", b.Files)
	t, err := newTarget(r.Target, b)
	if err != nil {
		return nil, err
	}
	defer t.close()
	if err := restore(ctx, r, b, m, t); err != nil {
		return nil, fmt.Errorf("restore backup %s to %s: %w\nThe restore is not complete; PostgreSQL will not start on it; empty the folder before the next try", b.ID, t.dir, err)
	}
	return b, nil
}

func restore(ctx context.Context, r FetchRequest, b *catalog.Backup, m *files, t *target) error {
	lines, err := m.read()
	if err != nil {
		return err
	}
	if err := newUnpacker(ctx, r.Store, t, r.Workers, r.Progress).unpack(lines, b.Size); err != nil {
		return err
	}
	if err := t.relocateMap(); err != nil {
		return err
	}
	if err := writeRecovery(t, b.PGVersion/10000, r.Recovery); err != nil {
		return fmt.Errorf("write the recovery settings: %w", err)
	}
	if err := t.syncDirs(); err != nil {
		return fmt.Errorf("fsync the folders: %w", err)
	}
	return t.finish()
}

// choose finds the backup: the one named, or the newest that is consistent before the target.
func choose(s *catalog.State, name string, target time.Time) (*catalog.Entry, error) {
	e, err := s.Resolve(name)
	if err != nil || target.IsZero() || !target.Before(e.Commit.Summary.Consistent) {
		return e, err
	}
	if !isLatest(name) {
		return nil, fmt.Errorf("%w: backup %s is consistent from %s on, the target is %s: name an older backup, or none", catalog.ErrNoBackup, e.ID, stamp(e.Commit.Summary.Consistent), stamp(target))
	}
	var best *catalog.Entry
	for _, e := range s.Complete() {
		if !target.Before(e.Commit.Summary.Consistent) {
			best = e
		}
	}
	if best == nil {
		first := s.Complete()[0]
		return nil, fmt.Errorf("%w: none is old enough for %s; the oldest, %s, can restore any time from %s on", catalog.ErrNoBackup, stamp(target), first.ID, stamp(first.Commit.Summary.Consistent))
	}
	return best, nil
}

func isLatest(name string) bool { return name == "" || strings.EqualFold(name, "latest") }

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.999999Z07:00") }
