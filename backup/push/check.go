package push

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/server"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/walstore/segment"
)

// check asks all that can be known before any work is done.
func (p *push) check(ctx context.Context) (err error) {
	if p.info, err = p.Session.Info(ctx); err != nil {
		return err
	}
	i := p.info
	if p.PGDATA == "" {
		p.PGDATA = i.DataDirectory
	}
	if p.PGDATA == "" {
		return fmt.Errorf("%w: the role may not read data_directory: name PGDATA on the command line, or grant pg_read_all_settings to the role", backup.ErrServer)
	}
	if p.PGDATA, err = filepath.Abs(p.PGDATA); err != nil { // a restore works out by it what lay within
		return err
	}
	if p.PGDATA, err = filepath.EvalSymlinks(p.PGDATA); err != nil {
		return fmt.Errorf("find the data directory (run backup-push on the server's own host, as the owner of its files): %w", err)
	}
	if err := datadir.Outside(p.StorageDir, p.PGDATA); err != nil {
		return err
	}
	if p.control, _, err = datadir.ReadControl(p.PGDATA); err != nil {
		return err
	}
	if p.control.SystemID != i.SystemID {
		return fmt.Errorf("%w: %s belongs to the cluster with system identifier %d, but the server that answered has %d", backup.ErrServer, p.PGDATA, p.control.SystemID, i.SystemID)
	}
	if err := p.checkTablespaces(ctx); err != nil {
		return err
	}
	switch {
	case i.Shutdown != nil:
		return nil
	case i.InRecovery:
		return p.checkStandby(ctx)
	}
	p.watchArchiver(ctx, sharedSession{p.Session})
	return checkArchiving(i)
}

// checkStandby: how WAL is archived is the primary's business. If it can be told to end a segment, that is tried
// now, and not for the first time when everything has been copied.
func (p *push) checkStandby(ctx context.Context) error {
	if p.info.ReplayPaused {
		p.Log.Warn("WAL replay is paused on this standby: the backup contains only what the standby has replayed so far")
	}
	if p.Primary == nil {
		return nil
	}
	p.Primary.SystemID = p.info.SystemID
	p.watchArchiver(ctx, p.Primary)
	return p.Primary.SwitchWAL(ctx)
}

// checkArchiving: a primary has to be set up to archive.
func checkArchiving(i server.Info) error {
	switch {
	case i.WALLevel == "minimal":
		return fmt.Errorf("%w: wal_level is minimal: set it to replica, set archive_mode and archive_command, and restart the server", backup.ErrServer)
	case i.Streams > 0 && (i.ArchiveMode == "off" || i.ArchiveCommand == "" && i.ArchiveLibrary == ""):
		return nil // one of them may be wal-receive; whether WAL arrives will show
	case i.ArchiveMode == "off":
		return fmt.Errorf("%w: archive_mode is off and no wal-receive is connected, so the WAL that the backup needs would never be archived: set archive_mode = on and archive_command = 'pgobj wal-push %%p', and restart the server; or run pgobj wal-receive", backup.ErrServer)
	case i.ArchiveCommand == "" && i.ArchiveLibrary == "":
		return fmt.Errorf("%w: archive_command is empty (or the role may not read it: grant pg_read_all_settings): set archive_command = 'pgobj wal-push %%p' and reload the server", backup.ErrServer)
	}
	return nil
}

// checkDirectory makes sure, when the backup has started, that the files are those of the server that started it: a
// primary and its standby have one system identifier, and often the same path on their hosts.
func (p *push) checkDirectory(context.Context) error {
	if p.info.Shutdown != nil {
		return nil // there is only the directory
	}
	c, _, err := datadir.ReadControl(p.PGDATA)
	if err != nil {
		return err
	}
	state := datadir.InProduction
	if p.start.InRecovery {
		state = datadir.InArchiveRecovery
	}
	if c.State != state || c.Redo < p.start.LSN {
		return fmt.Errorf("%w: %s is not the data directory of the server that answered, but of another server of the same cluster: the state in its pg_control is %q and its last checkpoint is at %s; the server's is at %s: run backup-push on the server's own host, and check PGHOST and PGPORT (or --dsn)",
			backup.ErrServer, p.PGDATA, c.State, c.Redo, p.start.LSN)
	}
	return nil
}

// checkStart refuses a backup that begins in WAL which was deleted, before everything is copied: commit would.
func (p *push) checkStart(context.Context) error {
	first := segment.At(p.start.Timeline, p.start.LSN, p.info.SegmentSize).Name(p.info.SegmentSize)
	return p.state.CheckWAL(catalog.Summary{SystemID: p.info.SystemID, FirstWAL: first, LastWAL: first})
}
