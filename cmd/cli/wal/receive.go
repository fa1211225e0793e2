package wal

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"github.com/pgobj/pgobj/backup/server"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/storage/retry"
	"github.com/pgobj/pgobj/walstore/receive"
)

type WalReceive struct {
	DSN             string        `name:"dsn" env:"PGOBJ_DSN" placeholder:"DSN" help:"How to connect to PostgreSQL; default: libpq's environment, service file and ~/.pgpass. The role needs REPLICATION, and pg_hba.conf a line for replication."`
	Slot            string        `name:"slot" env:"PGOBJ_WAL_RECEIVE_SLOT" placeholder:"NAME" help:"Replication slot: the server keeps WAL until it is stored. Without a slot it may remove WAL before that."`
	CreateSlot      bool          `name:"create-slot" help:"Create the slot if it does not exist; create it again if it has lost its WAL (max_slot_wal_keep_size)."`
	ApplicationName string        `name:"application-name" placeholder:"NAME" help:"Name for pg_stat_replication and synchronous_standby_names (default: as the connection's settings say, or pgobj)."`
	PartialInterval time.Duration `name:"partial-interval" env:"PGOBJ_WAL_PARTIAL_INTERVAL" default:"5s" help:"How often the received part of the current segment is stored. At most this much time can be lost."`
	Synchronous     bool          `name:"synchronous" env:"PGOBJ_WAL_SYNCHRONOUS" help:"Store received WAL immediately, for a server that has pgobj in synchronous_standby_names: a commit then returns when it is in the storage."`
	StatusInterval  time.Duration `name:"status-interval" default:"10s" help:"How often to report to the server, at least (more often if its wal_sender_timeout is short)."`
	AcceptGap       bool          `name:"accept-gap" help:"If the server has removed WAL that the archive does not have, leave a gap and continue from the server's position. Recovery cannot get past the gap: take a base backup."`
	Level           int           `name:"wal-level" env:"PGOBJ_WAL_LEVEL" default:"0" placeholder:"N" help:"zstd compression level, 0 to 19; levels 0 to 5 are all the fastest."`
	Spool           string        `name:"spool" placeholder:"DIR" help:"Directory on this host for WAL that waits to be stored (default: the system's directory for temporary files): up to seven segments, or four of 1 GB. Nothing in it is needed after the end of wal-receive."`
}

func (c *WalReceive) Run(ctx context.Context, a *app.App) error {
	debug.SetGCPercent(50)
	switch {
	case c.CreateSlot && c.Slot == "":
		return app.Usagef("--create-slot needs --slot NAME")
	case c.PartialInterval <= 0:
		return app.Usagef("--partial-interval (PGOBJ_WAL_PARTIAL_INTERVAL) is %v: use a time above 0, such as 5s, or --synchronous to store at once", c.PartialInterval)
	case c.StatusInterval <= 0:
		return app.Usagef("--status-interval is %v: use a time above 0, such as 10s", c.StatusInterval)
	case c.Level < 0 || c.Level > 19:
		return app.Usagef("--wal-level (PGOBJ_WAL_LEVEL) is %d: use 0 to 19", c.Level)
	}
	if c.Slot == "" {
		a.Log.Warn("without --slot the server may remove WAL before it is received")
	}
	// The receiver goes on trying by itself, and has to hear of trouble long before its server is to be left.
	s, err := a.Open(retry.Policy{Budget: 15 * time.Second, Stall: 30 * time.Second})
	if err != nil {
		return err
	}
	interval := c.PartialInterval
	if c.Synchronous {
		interval = 0
	}
	end, err := receive.Run(ctx, receive.Config{
		Store: s,
		Connect: func(ctx context.Context) (*server.Replication, error) {
			return server.ConnectReplication(ctx, c.DSN, c.ApplicationName)
		},
		Admit: a.Gate(s, nil).Admit,
		Slot:  c.Slot, CreateSlot: c.CreateSlot, Interval: interval, Status: c.StatusInterval, AcceptGap: c.AcceptGap,
		Level: c.Level, Spool: cmp.Or(c.Spool, os.TempDir()), Log: a.Log,
	})
	if err != nil {
		return err
	}
	return c.Tell(a, end)
}

func (c *WalReceive) Tell(a *app.App, end receive.Position) error {
	switch {
	case end.Stored == 0 && end.Received == end.Begin:
		fmt.Fprintln(a.Out, "stopped before anything was received")
	case end.Stored >= end.Received:
		fmt.Fprintf(a.Out, "stopped at %s on timeline %d; all of it is stored\n", end.Received, end.Timeline)
	case end.Stored > end.Begin:
		fmt.Fprintf(a.Out, "stopped at %s on timeline %d; all WAL before %s is stored\n", end.Received, end.Timeline, end.Stored)
		return &app.Coded{Code: app.ExitStorage, Err: nil}
	default:
		fmt.Fprintf(a.Out, "stopped at %s on timeline %d; WAL received from %s on is not stored\n", end.Received, end.Timeline, end.Begin)
		return &app.Coded{Code: app.ExitStorage, Err: nil}
	}
	return nil
}
