package backups

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/push"
	"github.com/pgobj/pgobj/backup/server"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/storage/codec"
	"github.com/pgobj/pgobj/storage/connect"
)

type BackupPush struct {
	PGDATA         string        `arg:"" optional:"" name:"pgdata" help:"The server's data directory (default: asked from the server)."`
	DSN            string        `name:"dsn" env:"PGOBJ_DSN" placeholder:"DSN" help:"How to connect to PostgreSQL; default: libpq's environment, service file and ~/.pgpass."`
	Compression    string        `name:"compression" env:"PGOBJ_COMPRESSION" default:"zstd" help:"zstd, zstd:LEVEL (1 to 19; levels 1 to 5 are all the fastest), or lz4: faster and larger."`
	Checkpoint     string        `name:"checkpoint" enum:"fast,spread" default:"fast" help:"Begin with an immediate checkpoint (fast) or wait for a spread one."`
	Label          []string      `name:"label" sep:"none" placeholder:"NAME=VALUE" help:"A note about the backup, which backup-list and backup-show print. Can be repeated."`
	Labels         string        `name:"labels" env:"PGOBJ_LABELS" placeholder:"NAME=VALUE,..." help:"Notes about every backup of this server. --label adds to them."`
	Full           bool          `name:"full" help:"Store everything again, reusing nothing. Use it after stored data was damaged."`
	Reread         bool          `name:"reread" help:"Read every file, also files that have not changed since the last backup. Stored content is still reused: see --full."`
	NewIncarnation bool          `name:"new-incarnation" help:"Accept that the server was created again (initdb) since its last backup."`
	WALTimeout     time.Duration `name:"wal-timeout" default:"10m" help:"How long to wait for the last WAL segment to be archived."`
	Offline        bool          `name:"offline" help:"Back up a server that is shut down, without a connection: PGDATA is the argument, or the environment's."`
	PrimaryDSN     string        `name:"primary-dsn" env:"PGOBJ_PRIMARY_DSN" placeholder:"DSN" help:"On a standby: how to connect to its primary. pgobj ends the last WAL segment that the backup needs there (pg_switch_wal)."`
	JSON           bool          `name:"json" help:"Print the result as JSON."`
	app.JobsFlag
}

func (c *BackupPush) Run(ctx context.Context, a *app.App) error {
	// The heap is mostly buffers without pointers, so collecting it often is cheap, and keeps the
	// memory close to what is in use on a host that belongs to PostgreSQL.
	debug.SetGCPercent(25)
	codec, err := codec.Parse(c.Compression)
	if err != nil {
		return app.Usagef("--compression (PGOBJ_COMPRESSION): %v", err)
	}
	labels, err := c.labels()
	if err != nil {
		return err
	}
	jobs, err := c.Count()
	if err != nil {
		return err
	}
	r, err := a.Load(ctx) // before PostgreSQL is bothered: does the storage answer?
	if err != nil {
		return err
	}
	if err := c.noBackup(r.State); err != nil {
		return err
	}
	session, end, err := c.server(ctx)
	if err != nil {
		return err
	}
	defer end()
	var primary *server.Primary
	if c.PrimaryDSN != "" {
		primary = &server.Primary{DSN: c.PrimaryDSN}
	}
	progress := &backup.Progress{}
	stop := a.Show("backup-push", progress)
	b, err := push.Push(ctx, push.Request{
		Store: r.Store, StorageDir: connect.Directory(a.Storage), Catalog: r.Cat, State: r.State, Session: session, PGDATA: c.PGDATA, Codec: codec, Workers: jobs,
		Spread: c.Checkpoint == "spread", Labels: labels, Full: c.Full, Reread: c.Reread, NewIncarnation: c.NewIncarnation, WALTimeout: c.WALTimeout, Primary: primary,
		Tool: a.Version, Now: time.Now, Progress: progress, Log: a.Log,
	})
	stop()
	if err != nil {
		return err
	}
	if c.JSON {
		if err := show.JSON(a.Out, app.Listed{Backup: b.ID, Status: catalog.Complete, Summary: &b.Summary}); err != nil {
			return err
		}
	} else {
		needs := fmt.Sprintf("needs WAL %s to %s", b.FirstWAL, b.LastWAL)
		if c.Offline {
			needs = "needs no WAL from the archive"
		}
		fmt.Fprintf(a.Out, "backup %s is complete: %s, %s, in %s; %s\n", b.ID, show.Number(b.Files, "file"), show.Size(b.Size), b.Finished.Sub(b.Started).Round(10*time.Millisecond), needs)
		fmt.Fprintf(a.Out, "read %s of it, reused %s of earlier backups (%s), stored %s\n", show.Size(b.Read), show.Size(b.Reused), show.Percent(b.Reused, b.Size), show.Size(b.Stored))
		if b.Adopted > 0 {
			fmt.Fprintf(a.Out, "of the reused content, %s was stored by unfinished runs\n", show.Size(b.Adopted))
		}
	}
	if b.DamagedPages > 0 {
		return fmt.Errorf("%w: %d in %s, first block(s) %v of %s", app.ErrDamagedPages, b.DamagedPages, show.Number(len(b.Damaged), "file"), b.Damaged[0].Blocks, b.Damaged[0].Path)
	}
	return nil
}

// labels are those of every backup, and over them those of this one.
func (c *BackupPush) labels() (map[string]string, error) {
	own, err := app.ParseLabels(c.Label)
	if err != nil || c.Labels == "" {
		return own, err
	}
	all, err := app.ParseLabels(app.SplitLabels(c.Labels))
	if err != nil {
		return nil, fmt.Errorf("--labels (PGOBJ_LABELS): %w", err)
	}
	maps.Copy(all, own)
	return all, nil
}

// noBackup refuses a backup's name in the place of the data directory.
func (c *BackupPush) noBackup(s *catalog.State) error {
	if _, err := os.Stat(c.PGDATA); c.PGDATA == "" || !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if e, err := s.Resolve(c.PGDATA); err == nil {
		return app.Usagef("backup-push %s: this is not a directory on this host, but the id of backup %s\nThe argument is the server's data directory; pgobj chooses the id of the new backup", show.ShellQuote(c.PGDATA), e.ID)
	}
	return nil
}

// server is what the backup is taken of; end lets go of it.
func (c *BackupPush) server(ctx context.Context) (_ push.Cluster, end func(), err error) {
	if !c.Offline {
		session, err := server.Connect(ctx, c.DSN)
		if err != nil {
			return nil, nil, err
		}
		return session, func() { session.Close(context.WithoutCancel(ctx)) }, nil
	}
	dir := cmp.Or(c.PGDATA, os.Getenv("PGDATA"))
	if dir == "" {
		return nil, nil, app.Usagef("--offline needs the data directory: pgobj backup-push --offline PGDATA")
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, nil, err
	}
	stopped, err := server.OpenStopped(dir)
	return stopped, func() {}, err
}
