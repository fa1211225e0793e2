package backup

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/pgobj/pgobj/backup/cluster"
	"github.com/pgobj/pgobj/walstore/segment"
)

// ownWAL is the content of a WAL file that belongs to a stopped server's data; nil for all other files, which are
// read as they are.
func (p *push) ownWAL(e cluster.Entry) io.ReaderAt {
	name, ok := strings.CutPrefix(e.Path, "pg_wal/")
	if !ok || p.info.Shutdown == nil || e.Type != cluster.TypeFile {
		return nil
	}
	for _, f := range p.info.Shutdown.WAL {
		if f.Name == name {
			return walContent{e.Source, f.Keep}
		}
	}
	return nil
}

// walContent is a segment up to keep and zeros from there on, as in one that was never used before: what else is
// there is old WAL, up to 1 GB of it, that no server reads.
type walContent struct {
	path string
	keep int64
}

func (w walContent) ReadAt(b []byte, at int64) (int, error) {
	clear(b)
	n := min(w.keep-at, int64(len(b)))
	if n <= 0 {
		return len(b), nil
	}
	f, err := os.Open(w.path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if _, err := f.ReadAt(b[:n], at); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	return len(b), nil
}

// rollsForward says whether a recovery is asked for that goes on behind the place where a server was shut down.
// PostgreSQL can do that from a clean shutdown as from a backup (InitWalRecovery in xlogrecovery.c: DB_SHUTDOWNED), if
// the archive has the WAL from there on.
func (r Recovery) rollsForward() bool {
	return r.Standby || r.Timeline != "" || !r.toTheEnd() && !r.TargetImmediate
}

// leaveCold decides whether a backup of a stopped server is restored as it was shut down. A server that takes the original's place is not,
// if the archive has WAL from after the shutdown: what happened then would be lost, and its own WAL would have names that are taken.
func (p *Plan) leaveCold(ctx context.Context) (bool, error) {
	b, found, r := p.Backup, p.found, p.Recovery
	wal, err := cover(ctx, p.request.Store, b.SystemID, found.history.path(b.Timeline, b.StartLSN, found.timeline), segment.Size(b.SegmentSize), 0)
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

// warnCold tells of WAL that came after a shutdown and is not replayed: what happened then is not in the copy.
func (p *Plan) warnCold() {
	b := p.Backup
	if !b.Offline() || len(p.Path) > 0 || p.coldEnd <= b.StopLSN {
		return
	}
	p.warn("this is a backup of a stopped server, and is restored as that was at %s. The archive has WAL from after it, up to %s, which is not replayed: --target-timeline latest recovers to its end, and a target to somewhere before it", stamp(b.Consistent), p.coldEnd)
	if p.Recovery.KeepArchiving {
		p.warn("the copy goes on with the names of WAL files that the archive has: they will be refused. Give --target-timeline latest, which makes a timeline of its own, or leave out --keep-archiving")
	}
}
