package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/backup/content"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/backup/settings"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/segment"
)

// readParameters finds the changes of the server's settings on the path of the recovery. Where the WAL was written with
// wal_level = minimal from some place on, the path ends there.
func (p *Plan) readParameters(ctx context.Context) error {
	store, b, size := p.request.Store, p.Backup, segment.Size(p.Backup.SegmentSize)
	all, err := recovery.ParametersOf(ctx, store, p.WAL.Notes, p.Path, size)
	if err == nil && p.WAL.Received {
		var more []segment.Parameters
		more, err = walstore.ParametersIn(ctx, store, b.SystemID, p.WAL.Tail)
		all = append(all, more...)
	}
	if err := p.unread(err); err != nil {
		return err
	}
	for _, c := range all {
		if c.At >= b.StartLSN && c.At < p.WAL.End {
			p.changes = append(p.changes, c)
		}
	}
	if i := slices.IndexFunc(p.changes, segment.Parameters.Minimal); i >= 0 {
		p.minimal = p.changes[i].At
		p.changes = p.changes[:i]
		p.WAL.End, p.WAL.Missing, p.WAL.Received = p.minimal, "", false
		p.WAL.Last = recovery.NameOf(p.Path, p.WAL, segment.At(0, p.minimal, size).No, size)
	}
	return nil
}

// checkMinimal refuses a target that lies where PostgreSQL does not replay all that was done: up to 13 it says so in its log
// only, from 14 on it stops (CheckRequiredParameterValues).
func (p *Plan) checkMinimal(at *segment.Mark) error {
	r := p.request.Recovery
	switch {
	case p.minimal == 0 || r.TargetImmediate || at != nil && at.At < p.minimal, r.TargetLSN != 0 && (r.TargetLSN < p.minimal || r.TargetLSN == p.minimal && r.Exclusive):
		return nil
	case at == nil && r.Seeks():
		p.warn("%s: recovery must end before it. %s", p.minimalText(), p.beforeMinimal())
		return nil
	case !r.TargetTime.IsZero():
		return nil // checkTime
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
	asShutDown := p.Backup.Offline() && len(p.Path) == 0
	if !asShutDown && (w.File == "" || len(p.Path) == 0) {
		return nil
	}
	control, err := p.control(ctx, s)
	if err != nil {
		return err
	}
	if control.Parameters.Minimal() && !asShutDown {
		return recovery.Unreachable("the server was stopped with wal_level = minimal when backup %s was taken, so no recovery can start from it\nWithout a target it can be restored as it was.", p.Backup.ID)
	}
	p.Needs = settings.Needed(control.Parameters, append(slices.Clone(p.changes), p.ofSaved()...))
	var names []string
	values := p.configured(conf.Own)
	for _, n := range p.Needs {
		if n.Name != settings.RoomForPrepared && (asShutDown || conf.Blind != nil) {
			continue
		}
		if !conf.Has(n, values) {
			w.Auto, names = append(w.Auto, n), append(names, n.String())
		}
	}
	if len(names) > 0 {
		w.Comments = append(w.Comments, "The server needs "+strings.Join(names, ", ")+" to start or recover, as it had when it wrote the WAL. They stay:",
			"when it is open, ALTER SYSTEM RESET the ones that you do not want, and restart the server.")
		p.warn("to start or recover the server needs %s, which the configuration in the backup does not have: pgobj sets it in postgresql.auto.conf, and it stays after the recovery. The server's command line (-c, as Patroni and containers use it) overrides this: it must not set lower values", strings.Join(names, ", "))
	}
	return nil
}

// ofSaved are the settings of the server that wrote the WAL that is saved: it is not in the archive yet, nor are notes of it.
func (p *Plan) ofSaved() []segment.Parameters {
	c, ok := p.target.Control()
	if len(p.Saved) == 0 || !ok {
		return nil
	}
	return []segment.Parameters{c.Parameters}
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
