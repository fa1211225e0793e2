package backups

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/backup/restore"
	"github.com/pgobj/pgobj/backup/target"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/storage/connect"
	"github.com/pgobj/pgobj/storage/retry"
	"github.com/pgobj/pgobj/walstore/segment"
)

type BackupFetch struct {
	TargetDir string `arg:"" name:"target-dir" help:"Directory to restore to: the new PGDATA. It must be empty or not exist, unless --delta is given."`
	Backup    string `arg:"" optional:"" default:"LATEST" help:"Id of the backup or its beginning, oldest, or LATEST (default): the newest that fits the target."`
	Plan      bool   `name:"plan" help:"Print what would be done, with all numbers and warnings, and change nothing."`

	OnlyDatabase []string `name:"only-database" sep:"none" placeholder:"NAME" help:"Restore this database (name or OID), and of the others only empty files; drop them after the recovery. Can be repeated. Templates and postgres are always restored."`

	pointFlags    `group:"How far to recover (default: to the end of the WAL)"`
	settingsFlags `group:"What the server is told"`
	placeFlags    `group:"Where to"`
	app.JobsFlag
}

// pointFlags are the recovery target, in PostgreSQL's words. The drill takes the same.
type pointFlags struct {
	Target         string `name:"target" placeholder:"immediate" help:"immediate: only until the backup is consistent."`
	TargetTime     string `name:"target-time" placeholder:"TIME" help:"To this time, such as '2026-11-21 14:05:00+01'. A date means its midnight; without an offset or zone: local time."`
	TargetXID      string `name:"target-xid" placeholder:"XID" help:"To the end of this transaction."`
	TargetLSN      string `name:"target-lsn" placeholder:"LSN" help:"To this place in the WAL, such as 16/B374D848."`
	TargetName     string `name:"target-name" placeholder:"NAME" help:"To this restore point (pg_create_restore_point)."`
	Exclusive      bool   `name:"exclusive" help:"Stop just before the time, transaction or LSN instead of just after it."`
	TargetTimeline string `name:"target-timeline" placeholder:"TIMELINE" help:"Along this timeline: its number, current (the backup's own), or latest (default)."`
}

// settingsFlags are what else the restored server is told.
type settingsFlags struct {
	TargetAction       string `name:"target-action" enum:"pause,promote,shutdown" default:"pause" help:"What the server does at the target: pause (open for reading until SELECT pg_wal_replay_resume(); a table that a DROP after the target locks cannot be read until then), promote or shutdown."`
	RestoreCommand     string `name:"restore-command" placeholder:"COMMAND" help:"restore_command to write (default: this pgobj with its settings)."`
	Standby            bool   `name:"standby" help:"Make a standby: it follows the archive, and its primary if --primary-conninfo names it."`
	PrimaryConnInfo    string `name:"primary-conninfo" placeholder:"DSN" help:"primary_conninfo to write, with --standby. Put passwords into ~/.pgpass."`
	PrimarySlotName    string `name:"primary-slot-name" placeholder:"NAME" help:"primary_slot_name to write, with --standby."`
	NoRecoverySettings bool   `name:"no-recovery-settings" help:"Write no recovery settings and no signal file: you write them yourself."`
	KeepArchiving      bool   `name:"keep-archiving" help:"Keep archiving and subscriptions as they were: for a server that replaces the original. By default both are off, so that a copy cannot write to the original's archive or consume changes of its replication slots (a --standby keeps them, and archives nothing before its promotion)."`
}

// placeFlags say where things go.
type placeFlags struct {
	Delta            bool     `name:"delta" help:"Reuse the files of the existing data directory that still fit, fetch the rest, and remove files that are not in the backup. Also continues an unfinished restore."`
	SaveWAL          string   `name:"save-wal" placeholder:"DIR" help:"With --delta: first copy WAL that was never archived to this directory."`
	DiscardWAL       bool     `name:"discard-wal" help:"With --delta: give up WAL that was never archived."`
	Tablespace       []string `name:"tablespace" sep:"none" placeholder:"NAME=DIR" help:"Put this tablespace (name or OID) there. Can be repeated."`
	TablespaceMapAll string   `name:"tablespace-map-all" placeholder:"DIR" help:"Put every other tablespace below this directory, by its name."`
	WALDir           string   `name:"waldir" placeholder:"DIR" help:"Put pg_wal there, with a link to it."`
	Link             []string `name:"link" sep:"none" placeholder:"PATH[=DIR]" help:"Restore this file or directory of the data directory as a link: to its original place, or to DIR. Can be repeated."`
	ConfigDir        string   `name:"config-dir" placeholder:"DIR" help:"Put configuration files that were outside of the data directory there."`
}

func (c *BackupFetch) Run(ctx context.Context, a *app.App) error {
	debug.SetGCPercent(25) // as in backup-push
	req, err := c.request(a)
	if err != nil {
		return err
	}
	plan, err := restore.NewPlan(ctx, req)
	if err != nil {
		return c.mixedUp(ctx, a, err)
	}
	defer plan.Close()
	if c.Plan {
		printPlan(a, plan)
		return nil
	}
	for _, w := range plan.Warnings {
		a.Log.Warn(w)
	}
	stop := a.Show("backup-fetch", req.Progress)
	start := time.Now()
	err = plan.Run(ctx)
	stop()
	if err != nil && plan.Begun {
		return notWhole(err)
	}
	if err != nil {
		return err
	}
	printDone(a, plan, req.Progress, time.Since(start))
	return nil
}

// notWhole says what a restore that failed has left in its directory, and how to go on: the same command would only meet
// the same damage again.
func notWhole(err error) error {
	err = fmt.Errorf("%w\nThe restore is not complete, and PostgreSQL does not start on it", err)
	for _, damage := range []error{part.ErrDamaged, manifest.ErrDamaged, catalog.ErrDamaged} {
		if errors.Is(err, damage) {
			return fmt.Errorf("%w. To restore another backup over it, use --delta", err)
		}
	}
	return fmt.Errorf("%w. Run the same command with --delta to continue", err)
}

// mixedUp says of a backup that there is not that the directory, which comes first, was given in its place.
func (c *BackupFetch) mixedUp(ctx context.Context, a *app.App, err error) error {
	if !errors.Is(err, catalog.ErrNoBackup) {
		return err
	}
	switch _, _, e := a.Find(ctx, c.TargetDir); {
	case e == nil:
		return fmt.Errorf("%w\nGive the directory first: pgobj backup-fetch %s %s", err, show.ShellQuote(c.Backup), show.ShellQuote(c.TargetDir))
	case app.IsPath(c.Backup):
		return fmt.Errorf("%w\nGive the directory to restore to first, and the backup second", err)
	}
	return err
}

// request turns the flags into one.
func (c *BackupFetch) request(a *app.App) (r restore.Request, err error) {
	if r.Workers, err = c.Count(); err != nil {
		return r, err
	}
	if r.Recovery, err = c.recovery(); err != nil {
		return r, err
	}
	c.settingsFlags.fill(&r.Recovery)
	if err := r.Recovery.Check(); err != nil {
		return r, app.Usagef("%v", err)
	}
	if (c.SaveWAL != "" || c.DiscardWAL) && !c.Delta {
		return r, app.Usagef("--save-wal and --discard-wal need --delta")
	}
	if r.Layout, err = c.layout(); err != nil {
		return r, err
	}
	if r.Store, err = a.Open(retry.Policy{}); err != nil {
		return r, err
	}
	if r.Recovery.RestoreCommand == "" {
		command, err := a.RestoreCommand(a.ConfigFile)
		if err != nil {
			return r, err
		}
		if !c.Standby {
			command = orAbort + command
		}
		r.Recovery.RestoreCommand, r.Recovery.OwnCommand = command, true
	}
	r.Catalog, r.Log, r.Progress = a.Catalog(r.Store), a.Log, &backup.Progress{}
	r.Databases, r.StorageDir = c.OnlyDatabase, connect.Directory(a.Storage)
	r.Target, r.Backup, r.Delta, r.SaveWAL, r.DiscardWAL = c.TargetDir, c.Backup, c.Delta, c.SaveWAL, c.DiscardWAL
	return r, nil
}

// recovery reads the target.
func (c *pointFlags) recovery() (r recovery.Recovery, err error) {
	r = recovery.Recovery{TargetName: c.TargetName, Exclusive: c.Exclusive, Timeline: c.TargetTimeline}
	if c.TargetTime != "" {
		if r.TargetTime, err = app.ParseTime("--target-time", c.TargetTime); err != nil {
			return r, err
		}
	}
	if c.TargetXID != "" {
		if r.TargetXID, err = strconv.ParseUint(c.TargetXID, 10, 64); err != nil || r.TargetXID < 3 {
			return r, app.Usagef("--target-xid %q: write the number of a transaction, 3 or higher", c.TargetXID)
		}
	}
	if c.TargetLSN != "" {
		if r.TargetLSN, err = segment.ParseLSN(c.TargetLSN); err != nil || r.TargetLSN == 0 {
			return r, app.Usagef("--target-lsn %q: write it as 16/B374D848", c.TargetLSN)
		}
	}
	switch c.Target {
	case "":
	case "immediate":
		r.TargetImmediate = true
	default:
		return r, app.Usagef("--target %q: the only value is immediate; for other targets use --target-time, --target-xid, --target-lsn or --target-name", c.Target)
	}
	return r, nil
}

func (c *settingsFlags) fill(r *recovery.Recovery) {
	r.RestoreCommand, r.Standby, r.PrimaryConnInfo, r.PrimarySlotName = c.RestoreCommand, c.Standby, c.PrimaryConnInfo, c.PrimarySlotName
	r.TargetAction, r.NoSettings, r.KeepArchiving = c.TargetAction, c.NoRecoverySettings, c.KeepArchiving
}

func (c *placeFlags) layout() (target.Layout, error) {
	l := target.Layout{TablespaceRoot: c.TablespaceMapAll, WALDir: c.WALDir, ConfigDir: c.ConfigDir, Tablespaces: map[string]string{}, Links: map[string]string{}}
	for _, ts := range c.Tablespace {
		name, dir, ok := strings.Cut(ts, "=")
		if !ok || name == "" || dir == "" {
			return l, app.Usagef("--tablespace %q: write it as NAME=DIR or OID=DIR", ts)
		}
		l.Tablespaces[name] = dir
	}
	for _, link := range c.Link {
		path, dir, to := strings.Cut(link, "=")
		if path == "" || !filepath.IsLocal(path) || to && dir == "" {
			return l, app.Usagef("--link %q: write it as PATH or PATH=DIR, with the path in the data directory", link)
		}
		l.Links[path] = dir
	}
	return l, nil
}

// orAbort stands before a recovery's restore_command. A process that cannot even start, as where no more threads are allowed,
// then ends by a signal: otherwise its code is 2, which is the end of the WAL for PostgreSQL. So it would be from a shell that
// cannot fork, which exec does without. A standby asks again.
const orAbort = "GOTRACEBACK=crash exec "
