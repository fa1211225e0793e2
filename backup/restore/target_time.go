package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

// checkTime holds a target time against the last transaction that the recovery will meet: PostgreSQL takes a time for
// reached only at a transaction that ended after it, and from 13 on it does not start when there is none.
func (p *Plan) checkTime(ctx context.Context) error {
	b, r := p.Backup, p.request.Recovery
	last, err := p.lastCommit(ctx)
	if err != nil || last.After(r.TargetTime) || r.Exclusive && last.Equal(r.TargetTime) {
		return err
	}
	met := fmt.Sprintf("the WAL in the archive ends at %s, and the last transaction before that was at %s", p.WAL.End, backup.Stamp(last))
	if last.Before(b.Consistent) {
		met = fmt.Sprintf("no transaction ended between backup %s and the end of the WAL in the archive, %s", b.ID, p.WAL.End)
	}
	met += fmt.Sprintf(", but PostgreSQL needs a transaction that ended after %s to see that it has reached that time", backup.Stamp(r.TargetTime))
	switch {
	case p.minimal > 0:
		return recovery.Unreachable("%s\n%s\n%s", met, p.minimalText(), p.beforeMinimal())
	case b.PGVersion < 130000:
		p.warn("%s: at the end of the WAL PostgreSQL %s", met, recovery.AtTheEnd(b.PGVersion))
		return nil
	case p.WAL.Missing != "":
		return recovery.Unreachable("%s\nThere is a gap in the WAL: %s is missing, although %s is there. To see what can be restored: pgobj pitr-windows. %s", met, p.WAL.Missing, p.WAL.Beyond, backup.WhereSegment(p.WAL.Missing))
	}
	return recovery.Unreachable("%s\nRemove --target-time: recovery to the end of the WAL gives the same state, and the server opens. If the server has written more since then, archive it first: SELECT pg_switch_wal(); if the server is stopped: pgobj wal-push --all PGDATA", met)
}

// lastCommit is when the last transaction ended that the recovery will meet after the beginning of the backup; zero when
// there is none.
func (p *Plan) lastCommit(ctx context.Context) (time.Time, error) {
	b, size := p.Backup, segment.Size(p.Backup.SegmentSize)
	if p.WAL.Received {
		received, err := p.segments.Received(ctx, p.WAL.Tail)
		at, found := received.LastCommit(0)
		if err := p.unread(err); found || err != nil {
			return at, err
		}
	}
	last, err := segment.ParseName(p.WAL.Last, size)
	if err != nil {
		return time.Time{}, nil // there is no segment
	}
	for no := last.No; no >= max(1, segment.At(0, b.StartLSN, size).No); no-- {
		facts, err := p.segments.Facts(ctx, recovery.NameOf(p.Path, p.WAL, no, size))
		at, found := facts.LastCommit(p.WAL.End)
		if err := p.unread(err); found || err != nil {
			return at, err
		}
	}
	return time.Time{}, nil
}

// unread passes over what recovery does not get past either.
func (p *Plan) unread(err error) error {
	switch {
	case errors.Is(err, object.ErrDamaged):
		p.warn("recovery ends before this point: %v", err)
		return nil
	case errors.Is(err, storage.ErrNotFound): // a piece whose segment was completed, or of two timelines the other's
		return nil
	}
	return err
}
