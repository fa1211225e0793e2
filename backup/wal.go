package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/segment"
)

const (
	walPoll    = 50 * time.Millisecond // first pause between two looks; it grows to walPollMax
	walSay     = 10 * time.Second      // how often the user is told what is awaited
	walPollMax = 5 * time.Second
)

// waitForWAL returns when every segment from the backup's start to its stop is in the repository: without
// them it is no backup. PostgreSQL's own wait would look at archive_command's word only, and wait for ever.
func (p *push) waitForWAL(ctx context.Context) error {
	if p.info.Shutdown != nil {
		return nil // what it needs is among its files
	}
	if p.start.InRecovery && p.SwitchWAL != nil {
		if err := p.SwitchWAL(ctx, p.info.SystemID); err != nil {
			return err
		}
	}
	first, last := p.walRange()
	size := p.info.SegmentSize
	begun, said, pause := time.Now(), time.Now(), walPoll
	for {
		missing, any, err := walstore.FirstMissing(ctx, p.Store, p.info.SystemID, first, last, size)
		if err != nil {
			return err
		}
		if !any {
			return p.checkWAL(ctx)
		}
		first = missing // those before it are there
		why := p.archiving(ctx)
		if time.Since(begun) >= p.WALTimeout {
			return fmt.Errorf("%w: segment %s did not arrive in %s\n%s", ErrWALMissing, missing.Name(size), p.WALTimeout, why)
		}
		if time.Since(said) >= walSay {
			p.Log.Info("waiting for WAL to be archived", "segment", missing.Name(size), "last", last.Name(size), "waited", time.Since(begun).Round(time.Second), "archiver", why)
			said = time.Now()
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		pause = min(pause*5/4, walPollMax)
	}
}

// checkWAL holds the last segment against the server's own. A server that was copied, or set back to a snapshot, runs on
// with the same identity, and the archive has segments of the names that it needs, of another history. Two that went
// apart never come together again, so the last segment speaks for all before it. A standby's may not be complete.
func (p *push) checkWAL(ctx context.Context) error {
	if p.start.InRecovery {
		return nil
	}
	_, last := p.walRange()
	if err := walstore.SameFile(ctx, p.Store, filepath.Join(p.PGDATA, "pg_wal", last.Name(p.info.SegmentSize)), p.info.SystemID); err != nil {
		return fmt.Errorf("compare the archive's WAL with the server's: %w", err)
	}
	return nil
}

// archiveHistory sees to it that the archive has the history file of the server's timeline, without which no recovery gets
// there. PostgreSQL has it archived at the promotion, and never again: not when archiving was off then, as on a copy that
// backup-fetch has restored, and on many a standby.
func (p *push) archiveHistory(ctx context.Context) error {
	if p.start.Timeline == 1 || p.info.Shutdown != nil { // of a stopped server it is among the files
		return nil
	}
	name := segment.HistoryName(p.start.Timeline)
	err := p.pushHistory(ctx, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	line, err := walstore.ReadHistory(ctx, p.Store, p.info.SystemID, p.start.Timeline)
	if errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("%w: the archive has no %s, nor has %s: without it no recovery gets to timeline %d\n%s",
			ErrWALMissing, name, filepath.Join(p.PGDATA, "pg_wal"), p.start.Timeline, whereHistory(p.start.Timeline))
	}
	if err != nil {
		return err
	}
	for _, a := range line { // recovery from an older backup asks for each on its way to the newest
		if a.Timeline == 1 {
			continue
		}
		if err := p.pushHistory(ctx, segment.HistoryName(a.Timeline)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (p *push) pushHistory(ctx context.Context, name string) error {
	res, err := walstore.Push(ctx, p.Store, walstore.PushRequest{Path: filepath.Join(p.PGDATA, "pg_wal", name),
		SystemID: func() (uint64, error) { return p.info.SystemID, nil }})
	if err == nil && !res.AlreadyThere {
		p.Log.Info("archived a history file that was not in the archive", "file", name)
	}
	return err
}

// archiving says in words how PostgreSQL's archiver is doing.
func (p *push) archiving(ctx context.Context) string {
	switch {
	case p.start.InRecovery && p.SwitchWAL != nil:
		return "the primary was told to end the segment, so it is to archive it: is its archive_command pgobj wal-push, with this storage and server, and does it succeed (pg_stat_archiver)?"
	case p.start.InRecovery:
		return "the primary archives a segment when it is full, or after archive_timeout: run SELECT pg_switch_wal() there, or let pgobj do it (--primary-dsn)"
	}
	a, err := p.Session.Archiver(ctx)
	switch {
	case err != nil:
		return fmt.Sprintf("the server does not say how its archiver is doing: %v", err)
	case a.LastFailedAt.After(a.LastArchivedAt):
		return fmt.Sprintf("archive_command failed for %s at %s (failures so far: %d): the server's log says why", a.LastFailed, stamp(a.LastFailedAt), a.FailedCount)
	case a.LastArchived == "":
		return "archive_command has not archived anything yet: is it pgobj wal-push, with this storage and server?"
	}
	return fmt.Sprintf("the server last archived %s at %s: if it is newer than the segment that is missing, archive_command writes to another storage or server name", a.LastArchived, stamp(a.LastArchivedAt))
}
