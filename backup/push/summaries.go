package push

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/server"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/walstore/segment"
)

// summaries asks the server's WAL summaries (17 and later) what has changed since the previous backup began;
// nil when they do not tell.
func (p *push) summaries(ctx context.Context) (*datadir.Changes, error) {
	b := p.base
	if !p.info.SummarizeWAL || b == nil || p.Reread || b.SystemID != p.info.SystemID {
		return nil, nil
	}
	// A standby may be behind the end of a backup of its primary, which then holds pages from the standby's future.
	if b.StopLSN > p.start.LSN {
		return nil, nil
	}
	// pg_checksums --enable writes every page, of which the WAL tells nothing: a page from before has no checksum.
	if p.info.DataChecksums && !b.Checksums {
		p.Log.Info("all files are read, because page checksums were enabled since the last backup")
		return nil, nil
	}
	wal := []datadir.Stretch{{Timeline: p.start.Timeline, From: b.StartLSN, To: p.start.LSN}}
	if b.Timeline != p.start.Timeline {
		data, err := os.ReadFile(filepath.Join(p.PGDATA, "pg_wal", segment.HistoryName(p.start.Timeline)))
		if err != nil {
			return nil, nil // without the history nobody knows where the switch was: files are read
		}
		line, err := segment.ParseHistory(p.start.Timeline, data)
		if err != nil {
			return nil, nil
		}
		if wal = lineage(line, b, p.start); wal == nil {
			return nil, nil
		}
	}
	c, err := p.Session.Changes(ctx, wal)
	if errors.Is(err, datadir.ErrNoSummaries) {
		p.Log.Info("all files are read, because the WAL summaries cannot be used", "reason", err)
		return nil, nil
	}
	return c, err
}

// lineage is the WAL from the start of backup b to the start of this one along a timeline's history; nil
// when b is not on that line.
func lineage(line segment.Lineage, b *catalog.Backup, start server.StartPoint) []datadir.Stretch {
	var wal []datadir.Stretch
	from := b.StartLSN
	for _, a := range line {
		if a.Timeline < b.Timeline {
			continue
		}
		if len(wal) == 0 && (a.Timeline != b.Timeline || a.Switch < b.StopLSN) {
			return nil
		}
		wal = append(wal, datadir.Stretch{Timeline: a.Timeline, From: from, To: a.Switch})
		from = a.Switch
	}
	if len(wal) == 0 {
		return nil
	}
	return append(wal, datadir.Stretch{Timeline: start.Timeline, From: from, To: start.LSN})
}
