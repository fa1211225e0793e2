package restore

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/backup/content"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/backup/settings"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// readParameters finds the changes of the server's settings on the path of the recovery. Where the WAL was written with
// wal_level = minimal from some place on, the path ends there.
func (p *Plan) readParameters(ctx context.Context) error {
	if err := p.readChanges(ctx, p.Path, p.WAL); err != nil {
		return err
	}
	size := segment.Size(p.Backup.SegmentSize)
	if i := slices.IndexFunc(p.changes, segment.Parameters.Minimal); i >= 0 {
		p.minimal = p.changes[i].At
		p.changes = p.changes[:i]
		p.WAL.End, p.WAL.Missing, p.WAL.Received = p.minimal, "", false
		p.WAL.Last = recovery.NameOf(p.Path, p.WAL, segment.At(0, p.minimal, size).No, size)
	}
	return nil
}

// readChanges reads them along a path.
func (p *Plan) readChanges(ctx context.Context, path timeline.Path, wal recovery.WALRange) error {
	store, b := p.request.Store, p.Backup
	all, err := recovery.ParametersOf(ctx, store, wal.Notes, path, segment.Size(b.SegmentSize))
	if err == nil && wal.Received {
		var received segment.Facts
		received, err = p.segments.Received(ctx, wal.Tail)
		all = append(all, received.Parameters...)
	}
	if err := p.unread(err); err != nil {
		return err
	}
	for _, c := range all {
		if c.At >= b.StartLSN && c.At < wal.End {
			p.changes = append(p.changes, c)
		}
	}
	return nil
}

// readByHand does so where somebody else sets up the recovery, which may go to the end of the WAL.
func (p *Plan) readByHand(ctx context.Context) error {
	b := p.Backup
	path := p.found.Tree.Path(p.found.Timeline).From(b.Timeline, b.StartLSN)
	wal, err := recovery.ScanRange(ctx, p.request.Store, b.SystemID, path, segment.Size(b.SegmentSize), 0)
	if err != nil {
		return err
	}
	return p.readChanges(ctx, path, wal)
}

// checkMinimal refuses a target that lies where PostgreSQL does not replay all that was done: up to 13 it says so in its log
// only, from 14 on it stops (CheckRequiredParameterValues). What has not been looked for, as the backup was named, is looked for before that place.
func (p *Plan) checkMinimal(ctx context.Context, c *recovery.Selector) (err error) {
	r := p.request.Recovery
	if p.minimal == 0 || r.TargetImmediate || !r.TargetTime.IsZero() { // checkTime
		return nil
	}
	at := p.found.At
	if at == nil && r.Seeks() {
		if at, err = c.Find(ctx, p.Backup, p.Path, p.WAL); err != nil {
			return err
		}
		p.found.At = at
	}
	if at != nil && at.At < p.minimal || r.TargetLSN != 0 && (r.TargetLSN < p.minimal || r.TargetLSN == p.minimal && r.Exclusive) {
		return nil
	}
	return recovery.Unreachable("%s\n%s", p.minimalText(), p.beforeMinimal())
}

func (p *Plan) minimalText() string {
	return fmt.Sprintf("from %s on the WAL was written with wal_level = minimal, so it does not have all changes: no backup from before that point can be recovered past it", p.minimal)
}

func (p *Plan) beforeMinimal() string {
	return fmt.Sprintf("Earlier points can be restored: --target-lsn %s --exclusive; pgobj pitr-windows shows it as a time. For later points use a backup that was taken later", p.minimal)
}

// need adds what the server needs to get up and the configuration may not have.
func (p *Plan) need(ctx context.Context, s *content.ManifestScan, conf settings.ConfScan, w *settings.Written) error {
	asShutDown, byHand := p.Backup.Offline() && len(p.Path) == 0, p.request.Recovery.NoSettings
	if !asShutDown && !byHand && (w.File == "" || len(p.Path) == 0) {
		return nil
	}
	control, err := p.control(ctx, s)
	if err != nil {
		return err
	}
	if control.Parameters.Minimal() && !asShutDown {
		return recovery.Unreachable("the server was stopped with wal_level = minimal when backup %s was taken, so no recovery can start from it\nWithout a target it can be restored as it was.", p.Backup.ID)
	}
	p.Needs = settings.Needed(control.Parameters, p.changes)
	var names, left []string
	values := p.configured(conf.Own)
	for _, n := range p.Needs {
		forStart := n.Name == settings.RoomForPrepared
		switch {
		case !forStart && (asShutDown && !byHand || conf.Blind != nil), conf.Has(n, values):
		case byHand && !(asShutDown && forStart):
			left = append(left, n.String())
		default:
			w.Auto, names = append(w.Auto, n), append(names, n.String())
		}
	}
	if len(left) > 0 {
		p.warn("a recovery to the end of the WAL needs %s, which the configuration in the backup does not have: set it before you start the server, as no recovery settings are written", strings.Join(left, ", "))
	}
	if len(names) > 0 {
		w.Comments = append(w.Comments, "The server needs "+strings.Join(names, ", ")+" to start or recover, as it had when it wrote the WAL. They stay:",
			"when it is open, ALTER SYSTEM RESET the ones that you do not want, and restart the server.")
		p.warn("to start or recover the server needs %s, which the configuration in the backup does not have: pgobj sets it in postgresql.auto.conf, and it stays after the recovery. The server's command line (-c, as Patroni and containers use it) overrides this: it must not set lower values", strings.Join(names, ", "))
	}
	return nil
}

// readSaved reads the changes in the WAL that is saved, which the archive has no notes of yet. Those of the server as it ended are in its pg_control
// before they are in the WAL. Where that was written with wal_level = minimal the WAL is saved in vain.
func (p *Plan) readSaved() error {
	c, ok := p.target.Control()
	if len(p.Saved) == 0 || !ok {
		return nil
	}
	p.changes = append(p.changes, c.Parameters)
	for _, name := range p.Saved {
		if segment.Classify(name) != segment.Full {
			continue
		}
		n, err := walstore.NotesOfFile(filepath.Join(p.target.Dir, "pg_wal", name))
		if err != nil {
			return fmt.Errorf("look through WAL that was never archived: %w", err)
		}
		for _, x := range n.Parameters {
			if x.Minimal() && p.expected {
				return p.savedInVain("from %s on it was written with wal_level = minimal, so that it does not hold all that was done", x.At)
			}
		}
		p.changes = append(p.changes, n.Parameters...)
	}
	return nil
}

// control reads the pg_control of the backup.
func (p *Plan) control(ctx context.Context, s *content.ManifestScan) (datadir.Control, error) {
	if s.Control == nil {
		return datadir.Control{}, nil // a restore without it is refused elsewhere
	}
	data, err := content.ReadContent(ctx, p.request.Store, s.Control)
	if err != nil {
		return datadir.Control{}, err
	}
	return datadir.ParseControl(data)
}
