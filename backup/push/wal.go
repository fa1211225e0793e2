package push

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/archiving"
	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/backup/server"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/segment"
)

const (
	walPoll    = 50 * time.Millisecond // first pause between two looks; it grows to walPollMax
	walPollMax = 5 * time.Second
)

// waitForWAL returns when every segment from the backup's start to its stop is in the repository: without
// them it is no backup. PostgreSQL's own wait would look at archive_command's word only, and wait for ever.
func (p *push) waitForWAL(ctx context.Context) error {
	if p.info.Shutdown != nil {
		return nil // what it needs is among its files
	}
	if p.start.InRecovery && p.Primary != nil {
		if err := p.Primary.SwitchWAL(ctx); err != nil {
			return err
		}
	}
	first, last := p.walRange()
	if err := p.waitFor(ctx, first, last); err != nil {
		return err
	}
	return p.checkWAL(ctx)
}

// waitFor returns when the repository has these segments and those between them.
func (p *push) waitFor(ctx context.Context, first, last segment.Segment) error {
	size := p.info.SegmentSize
	begun, said, pause := time.Now(), time.Now(), walPoll
	for {
		missing, any, err := walstore.FirstMissing(ctx, p.Store, p.info.SystemID, first, last, size)
		if err != nil {
			return err
		}
		if !any {
			return nil
		}
		first = missing // those before it are there
		why, err := p.archiving(ctx)
		if err != nil {
			return err
		}
		if time.Since(begun) >= p.WALTimeout {
			return fmt.Errorf("%w: segment %s did not arrive in %s\n%s", backup.ErrWALMissing, missing.Name(size), p.WALTimeout, why)
		}
		if time.Since(said) >= recovery.WalSay {
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
		return fmt.Errorf("%w: neither the archive nor %[3]s has %[2]s: without it no recovery can reach timeline %[4]d\n%[5]s",
			backup.ErrWALMissing, name, filepath.Join(p.PGDATA, "pg_wal"), p.start.Timeline, backup.WhereHistory(p.start.Timeline))
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

// archiving says in words how PostgreSQL's archiver is doing; the error is archiving.ErrElsewhere.
func (p *push) archiving(ctx context.Context) (string, error) {
	switch {
	case p.archive == nil && p.start.InRecovery:
		return "the primary archives a segment when it is full, or after archive_timeout: run SELECT pg_switch_wal() on the primary, or give --primary-dsn so that pgobj runs it", nil
	case p.archive == nil:
		return "the state of its archiver is unknown", nil
	}
	return p.archive.Look(ctx)
}

// watchArchiver notes how archiving is doing before the backup begins.
func (p *push) watchArchiver(ctx context.Context, s archiving.Server) {
	p.archive = &archiving.Watch{Server: s, Store: p.Store, SystemID: p.info.SystemID, Patience: p.WALTimeout, Log: p.Log}
	p.archive.Begin(ctx)
}

// watch keeps an eye on the server, and on whether its WAL arrives, while files are copied. The start of the backup has
// ended a segment (do_pg_backup_start), so that there is one to arrive.
func (p *push) watch(ctx context.Context) (watched context.Context, stop func()) {
	alive, leave := p.Session.Watch(ctx)
	if p.archive == nil {
		return alive, leave
	}
	pending := archiving.Any
	if at := segment.At(p.start.Timeline, p.start.LSN, p.info.SegmentSize); !p.start.InRecovery && at.No > 0 {
		pending = segment.Segment{Timeline: at.Timeline, No: at.No - 1}.Name(p.info.SegmentSize)
	}
	copying, cancel := context.WithCancelCause(alive)
	var running sync.WaitGroup // for which stop waits
	running.Go(func() {
		if err := p.archive.Run(copying, pending); err != nil {
			cancel(err)
		}
	})
	return copying, func() {
		cancel(context.Canceled)
		running.Wait()
		leave()
	}
}

// sharedSession lets a watch that may end at any moment ask on the backup's own session: a query that is cancelled there would
// take the next one with it.
type sharedSession struct{ Cluster }

const askTimeout = time.Minute

func (s sharedSession) Archiver(ctx context.Context) (server.ArchiverStatus, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	defer cancel()
	return s.Cluster.Archiver(ctx)
}

func (s sharedSession) SwitchWAL(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	defer cancel()
	return s.Cluster.SwitchWAL(ctx)
}
