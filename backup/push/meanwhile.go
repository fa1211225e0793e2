package push

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/backup/replay"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

// checkReplay sees to it that the replay of the backup's own WAL brings back every database: see package replay. What the WAL
// says of them is in the notes that wal-push has left; only when a database was copied meanwhile is it read.
func (p *push) checkReplay(ctx context.Context) error {
	if p.info.Shutdown != nil {
		return nil // it needs no replay
	}
	_, last := p.walRange()
	to := last
	if p.start.InRecovery && p.stop.Replayed > 0 {
		to.No = max(last.No, segment.Before(last.Timeline, p.stop.Replayed, p.info.SegmentSize).No)
	}
	dirs, err := p.directoryChanges(ctx, to)
	if err != nil {
		return err
	}
	first, any := replay.Copies(dirs)
	if !any {
		return nil
	}
	if to != last {
		p.Log.Info("databases were copied while the backup ran: waiting for all WAL that the standby has replayed", "to", to.Name(p.info.SegmentSize))
		if err := p.waitFor(ctx, last.Next(), to); err != nil {
			return err
		}
		if dirs, err = p.directoryChanges(ctx, to); err != nil {
			return err
		}
	}
	r := replay.Request{Directories: dirs, Version: p.info.VersionNum}
	p.Log.Info("databases were copied during the backup: reading the WAL for changes of their templates", "from", first.String(), "to", p.stop.LSN.String())
	if r.Changed, err = walstore.LastChanges(ctx, p.Store, p.info.SystemID, p.start.Timeline, p.info.SegmentSize, first, p.stop.LSN); err != nil {
		return err
	}
	if lost := replay.Find(r); len(lost) > 0 {
		return p.lostDatabases(ctx, lost)
	}
	return nil
}

// directoryChanges are those that are replayed. A standby's files can be ahead of the end of its backup, as the removal of a directory
// does not move that (dbase_redo): all that it had replayed counts, and what it was doing just then, up to the end of a segment.
func (p *push) directoryChanges(ctx context.Context, last segment.Segment) (dirs []segment.DirectoryChange, err error) {
	first, _ := p.walRange()
	size := p.info.SegmentSize
	until, after := p.stop.LSN, ""
	if p.start.InRecovery {
		until = last.Next().Start(size)
	}
	if first.No > 0 {
		after = segment.Segment{Timeline: first.Timeline, No: first.No - 1}.Name(size)
	}
	var notes []object.Object
	for o, err := range walstore.ListAll(ctx, p.Store, p.info.SystemID, first.Timeline, after) {
		if err != nil {
			return nil, err
		}
		if len(o.Name) >= 24 && o.Name[:24] > last.Name(size) { // a .backup has a longer name
			break
		}
		if o.Note == object.NoteOfDirectories {
			notes = append(notes, o)
		}
	}
	n, err := walstore.ReadNotes(ctx, p.Store, notes, size)
	for _, d := range n.Directories {
		if p.start.LSN <= d.At && d.At < until {
			dirs = append(dirs, d)
		}
	}
	return dirs, err
}

// lostDatabases is the error for them.
func (p *push) lostDatabases(ctx context.Context, lost []replay.Lost) error {
	known := p.backup.Databases
	if info, err := p.Session.Info(ctx); err == nil { // it knows those that are new; without it their OIDs have to do
		known = slices.Concat(known, info.Databases)
	}
	var what []string
	for _, l := range lost {
		name := ""
		for _, d := range known {
			if d.OID == l.Database {
				name = fmt.Sprintf(" (%s)", d.Name)
			}
		}
		what = append(what, fmt.Sprintf("database %d%s: %s", l.Database, name, l))
	}
	return fmt.Errorf("%w\n%s", backup.ErrDatabaseLost, strings.Join(what, "\n"))
}

// warnMinimal says it when wal_level was minimal between the last backup and this one: recovery from older ones ends there.
func (p *push) warnMinimal(ctx context.Context) error {
	var last *catalog.Summary
	for _, id := range p.state.Complete() {
		if s := id.Commit.Summary; s.SystemID == p.info.SystemID {
			last = &s
		}
	}
	size := p.info.SegmentSize
	if last == nil {
		return nil
	}
	first, err := segment.ParseName(last.FirstWAL, size)
	if err != nil || first.No == 0 {
		return nil // it says nothing of WAL
	}
	var notes []object.Object
	for o, err := range walstore.ListAll(ctx, p.Store, p.info.SystemID, 0, segment.Segment{Timeline: first.Timeline, No: first.No - 1}.Name(size)) {
		if err != nil {
			return err
		}
		if o.Note == object.NoteOfParameters {
			notes = append(notes, o)
		}
	}
	if len(notes) == 0 {
		return nil
	}
	path, err := walstore.ReadPath(ctx, p.Store, p.info.SystemID, p.control.Timeline)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	changes, err := recovery.ParametersOf(ctx, p.Store, notes, path, size)
	if errors.Is(err, object.ErrDamaged) {
		p.Log.Warn("whether wal_level was minimal since the last backup is not known", "error", err)
		err = nil
	}
	for _, c := range changes {
		if c.Minimal() && c.At >= last.StartLSN && c.At < p.start.LSN {
			p.warn("wal_level", fmt.Sprintf("wal_level was minimal for a time, from %s on: the changes of that time are not in the WAL, so no older backup can be recovered past it", c.At))
			break
		}
	}
	return err
}
