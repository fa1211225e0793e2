package push

import (
	"context"
	"errors"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// summaries asks the server's WAL summaries (17 and later) what has changed since the previous backup began;
// nil when they do not tell.
func (p *push) summaries(ctx context.Context) (err error) {
	b := p.base
	if !p.info.SummarizeWAL || b == nil || p.Reread || b.SystemID != p.info.SystemID {
		return nil
	}
	// A standby may be before the end of a backup of its primary, which then holds pages from the standby's future.
	if b.StopLSN > p.start.LSN {
		return nil
	}
	// pg_checksums --enable writes every page, of which the WAL tells nothing: a page from before has no checksum.
	if p.info.DataChecksums && !b.Checksums {
		p.Log.Info("all files are read, because page checksums were enabled since the last backup")
		return nil
	}
	wal := p.walSince(b)
	if wal == nil {
		return nil // nobody knows where the switch was, or the backup is of another branch: files are read
	}
	p.changes, err = p.Session.Changes(ctx, wal)
	if errors.Is(err, datadir.ErrNoSummaries) {
		p.Log.Info("all files are read, because the WAL summaries cannot be used", "reason", err)
		return nil
	}
	return err
}

// walSince is the WAL from the start of backup b to the start of this one, by the history that the server has of its
// timeline; nil when b is not on the path to it.
func (p *push) walSince(b *catalog.Backup) timeline.Path {
	path := timeline.To(p.start.Timeline, nil)
	if b.Timeline != p.start.Timeline {
		ancestors, err := datadir.ReadHistory(p.PGDATA, p.start.Timeline)
		if err != nil {
			return nil
		}
		path = timeline.To(p.start.Timeline, ancestors)
	}
	if !path.Passes(b.Timeline, b.StopLSN) {
		return nil
	}
	wal := path.From(b.Timeline, b.StartLSN)
	wal[len(wal)-1].End = p.start.LSN
	return wal
}
