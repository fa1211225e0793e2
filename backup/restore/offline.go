package restore

import (
	"context"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/walstore/segment"
)

// leaveOffline decides whether a backup of a stopped server is restored as it was shut down. A server that takes the original's place is not,
// if the archive has WAL from after the shutdown: what happened then would be lost, and its own WAL would have names that are taken.
func (p *Plan) leaveOffline(ctx context.Context) (bool, error) {
	b, found, r := p.Backup, p.found, p.Recovery
	wal, err := recovery.ScanRange(ctx, p.request.Store, b.SystemID, found.Tree.Path(found.Timeline).From(b.Timeline, b.StartLSN), segment.Size(b.SegmentSize), 0)
	if err != nil {
		return true, err
	}
	if wal.End > b.StopLSN && r.KeepArchiving && !r.NoSettings && !r.TargetImmediate {
		return false, nil
	}
	p.Recovery.NoSettings, p.Recovery.TargetImmediate = true, false // which is where it is
	p.coldEnd = wal.End
	return true, nil
}

// warnOffline tells of WAL that came after a shutdown and is not replayed: what happened then is not in the copy.
func (p *Plan) warnOffline() {
	b := p.Backup
	if !b.Offline() || len(p.Path) > 0 || p.coldEnd <= b.StopLSN {
		return
	}
	p.warn("this is a backup of a stopped server, restored as the server was at %s. The archive has later WAL, up to %s, which is not replayed: --target-timeline latest recovers to its end, a target to a point before that", backup.Stamp(b.Consistent), p.coldEnd)
	if p.Recovery.KeepArchiving {
		p.warn("the copy will write WAL files with names that the archive already has, and the archive will refuse them. Give --target-timeline latest, so that the copy gets a timeline of its own, or remove --keep-archiving")
	}
}
