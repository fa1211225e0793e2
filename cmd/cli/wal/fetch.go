package wal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/storage/retry"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/ahead"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/patience"
	"github.com/pgobj/pgobj/walstore/segment"
)

// WalFetch answers PostgreSQL by its exit code, which decides over data:
//
//   - 0: the file is there, checked and synced.
//   - 1: there is no such file. PostgreSQL looks elsewhere, or ends recovery and promotes. So it is said
//     only when the archive proves it.
//   - 255: nobody knows. PostgreSQL stops with FATAL, and can be started again when the trouble is over.
//     A standby would be shut down by that; it asks again after 1, so there 1 stands for trouble too.
//
// How long it waits before that is in package patience. Codes from 126 on that are not 128+n all mean the same to PostgreSQL;
// 128+15 would be a clean end.
type WalFetch struct {
	Name     string `arg:"" help:"Name of the WAL file, as restore_command's %f. With --range: a directory."`
	Dest     string `arg:"" optional:"" help:"Where to write it, as restore_command's %p."`
	Range    string `name:"range" placeholder:"FROM..TO" help:"Fetch all segments from one name to another into a directory, along TO's timeline and its ancestors."`
	SystemID uint64 `name:"system-id" placeholder:"ID" help:"With --range: system identifier of the cluster, if the directory is in no data directory and the archive has WAL of several clusters."`
	Prefetch string `name:"prefetch" env:"PGOBJ_WAL_PREFETCH" default:"256MB" placeholder:"SIZE" help:"How much WAL to fetch before recovery asks for it, at least one segment; 0: none."`
	Received string `name:"received" placeholder:"TIMELINE" help:"At the end of the archive, deliver the part of the incomplete last segment that wal-receive has stored. TIMELINE is recovery_target_timeline: a number, or latest. backup-fetch writes this; never use it on a standby or with archive_mode = always."`
	// PostgreSQL makes a tablespace where the original had it made, so a copy on the original's host would overwrite it.
	NewTablespaces string `name:"new-tablespaces" enum:"any,free,none" default:"any" placeholder:"WHERE" help:"Stop the server before it replays a CREATE TABLESPACE. free: in a directory that another cluster already uses; none: in any directory. backup-fetch writes free, a drill none (default: never stop)."`
	spoolFlag
}

func (c *WalFetch) Run(ctx context.Context, a *app.App) error {
	// A panic would end the process with code 2, which PostgreSQL takes for "there is no such file". Like
	// this it is an abort: code 134.
	debug.SetTraceback("crash")
	if c.Range != "" {
		return c.fetchRange(ctx, a)
	}
	if c.Dest == "" {
		return fetchError(".", app.Usagef("wal-fetch needs two arguments, as in restore_command = 'pgobj wal-fetch %%f %%p'"))
	}
	if segment.Classify(c.Name) == segment.Invalid && segment.Classify(c.Dest) != segment.Invalid {
		return fetchError(".", app.Usagef("wal-fetch %s %s: give the name first, as in restore_command = 'pgobj wal-fetch %%f %%p'", show.ShellQuote(c.Name), c.Dest))
	}
	if c.Name == segment.HistoryName(1) { // there is none; PostgreSQL asks when it begins timeline 2 (writeTimeLineHistory)
		return &app.Coded{Code: patience.Absent, Err: nil}
	}
	host, err := c.look(a, c.Dest)
	dir := host.Data
	if err = cmp.Or(host.Err, err); err == nil {
		err = c.fetch(ctx, a, host)
	}
	if err == nil {
		err = c.checkTablespaces(dir)
	}
	if errors.Is(err, datadir.ErrTablespace) { // a standby must not go on either, nor get the segment from its primary
		return &app.Coded{Code: patience.Unknown, Err: err}
	}
	if errors.Is(err, walstore.ErrAbsent) {
		a.Log.Debug("not in the archive", "file", c.Name)
		return &app.Coded{Code: patience.Absent, Err: nil}
	}
	if err != nil && hasHistory(dir, c.Name) {
		return &app.Coded{Code: patience.Absent, Err: err}
	}
	return fetchError(dir, err)
}

// hasHistory says whether PostgreSQL has a copy of its own of a history file, which it takes when it gets none
// (RestoreArchivedFile). It asks for its own timeline's when it begins the next one. By then standby.signal is gone: 255 would
// end the server in the middle of a promotion, after which it comes up on the timeline that it had left.
func hasHistory(dir, name string) bool {
	if dir == "" || segment.Classify(name) != segment.History {
		return false
	}
	info, err := os.Stat(filepath.Join(dir, "pg_wal", name))
	return err == nil && info.Mode().IsRegular() && info.Size() > 0
}

// fetchError gives a failure its exit code. dir is the data directory, empty when it is not known.
func fetchError(dir string, err error) error {
	if err == nil {
		return nil
	}
	if datadir.IsStandby(dir) {
		return &app.Coded{Code: patience.Absent, Err: err}
	}
	return &app.Coded{Code: patience.Unknown, Err: err}
}

// BadCommandLine is the error of a command line that cannot be understood. restore_command's would
// promote a server short of its data if it ended with any code below 126.
func BadCommandLine(args []string, err error) error {
	if !slices.Contains(args, "wal-fetch") {
		return err
	}
	return fetchError(".", err)
}

func (c *WalFetch) fetch(ctx context.Context, a *app.App, host *ahead.Host) error {
	dir, control := host.Data, host.Control
	bytes, err := parseSize(c.Prefetch)
	if err != nil {
		return app.Usagef("--prefetch (PGOBJ_WAL_PREFETCH) is %q: %v", c.Prefetch, err)
	}
	window := host.Window(c.Name, c.Dest, bytes)
	if window.Deliver(ctx, c.Name, c.Dest) {
		return nil
	}
	collectLate(1)
	budget, standby := a.RetryFor, datadir.IsStandby(dir)
	if standby || hasHistory(dir, c.Name) {
		budget = min(budget, patience.Elsewhere)
	}
	req := walstore.FetchRequest{Name: c.Name, Dest: c.Dest, SystemID: control.SystemID}
	if !standby {
		req.Size = control.SegmentSize
	}
	if req.Received, err = c.received(dir); err != nil {
		return err
	}
	began := time.Now()
	for try := 1; ; try++ {
		// The client of the storage tries again, too, and has what is left of the same time.
		s, err := a.Open(retry.Policy{Budget: max(budget-time.Since(began), time.Millisecond), Stall: min(patience.Attempt, budget)})
		if err != nil {
			return err
		}
		err = walstore.Fetch(ctx, s, req)
		wait := min(patience.Pause<<min(try-1, 10), patience.LongestPause)
		if err == nil {
			window.Got(c.Name)
		}
		limit := budget
		switch {
		case !errors.Is(err, walstore.ErrGap):
		case standby: // asks again by itself, and its primary may have the file
			limit = 0
		default:
			limit = min(budget, patience.Gap)
		}
		if !mayMend(err, try) || time.Since(began)+wait > limit {
			return err
		}
		a.Log.Warn("trying again", "file", c.Name, "in", wait, "error", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}

// received says what a recovery may have of a segment that is not complete. A standby has to wait for the rest, and
// pg_rewind and people (see ahead.Host.Window) get whole segments.
func (c *WalFetch) received(dataDir string) (*walstore.Received, error) {
	if c.Received == "" || datadir.IsStandby(dataDir) || filepath.Base(c.Dest) != "RECOVERYXLOG" {
		return nil, nil
	}
	r := &walstore.Received{Own: filepath.Join(dataDir, "pg_wal", c.Name)}
	if c.Received == "latest" {
		return r, nil
	}
	n, err := strconv.ParseUint(c.Received, 10, 32)
	if err != nil || n == 0 {
		return nil, app.Usagef("--received is %q: use the number of a timeline, or latest", c.Received)
	}
	r.Target = segment.Timeline(n)
	return r, nil
}

// checkTablespaces takes a segment away again that recovery must not replay on this host. (pg_rewind and people only read:
// see ahead.Host.Window.)
func (c *WalFetch) checkTablespaces(dataDir string) error {
	if c.NewTablespaces == "any" || filepath.Base(c.Dest) != "RECOVERYXLOG" || segment.Classify(c.Name) != segment.Full {
		return nil
	}
	control, _, err := datadir.ReadControl(dataDir)
	if err == nil {
		err = datadir.CheckNewTablespaces(dataDir, control, c.Name, c.Dest, c.NewTablespaces == "none")
	}
	if err != nil {
		os.Remove(c.Dest) // whether it can be or not, PostgreSQL does not take it
	}
	return err
}

// mayMend says whether another try can have another end. Rights and buckets come back when somebody mends
// them. Wrong bytes can be the doing of something on the way, but a damaged object stays so.
func mayMend(err error, try int) bool {
	for _, final := range []error{nil, walstore.ErrAbsent, walstore.ErrUnknownArchive, object.ErrName, object.ErrDest} {
		if errors.Is(err, final) {
			return false
		}
	}
	return !errors.Is(err, object.ErrDamaged) || try < patience.Damaged
}

// parseSize reads a size as PostgreSQL's settings have it: a number with kB, MB, GB or TB (of 1024), or of bytes.
func parseSize(text string) (int64, error) {
	number, shift := strings.TrimSpace(text), 0
	for i, unit := range []string{"B", "kB", "MB", "GB", "TB"} {
		if n, ok := strings.CutSuffix(number, unit); ok && (unit != "B" || !strings.ContainsAny(n, "kMGT")) {
			number, shift = strings.TrimSpace(n), 10*i
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > 1<<62>>shift {
		return 0, fmt.Errorf("expected a size such as 256MB")
	}
	return n << shift, nil
}
