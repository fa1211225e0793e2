// Package outcome tells how a recovery ended, or why it has not: from the restored directory, the server and the
// archive.
package outcome

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/backup/server"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/survey"
	"github.com/pgobj/pgobj/walstore/timeline"
)

var (
	// ErrNotReached says that a recovery ended, or stands, elsewhere than it should.
	ErrNotReached = errors.New("recovery has not reached its target")
	// ErrRecovering says that a recovery goes on.
	ErrRecovering = errors.New("recovery is still running")
	// ErrUnasked says that a server runs which may have recovered, and that nobody could ask it.
	ErrUnasked = errors.New("the server cannot be asked about its recovery")
)

// metNone says that the reason which PostgreSQL gives in a history file means that recovery met no target. Where there
// was one (up to 12, and after a promotion by hand) it has the empty values of what would have been met: the time is 0.
func metNone(reason string) bool {
	return regexp.MustCompile(`^(no recovery target specified|.* transaction 0|.* LSN 0/0|at restore point ""|before (1999-12-31|2000-01-01) .*)$`).MatchString(reason)
}

// Outcome is what has become of a recovery.
type Outcome struct {
	Restored Restored
	State    string           // of the server, in words
	At       segment.LSN      // how far recovery got; 0: nobody knows
	Timeline segment.Timeline // of At
	Reason   string           // why it ended, in PostgreSQL's words, if it did
	Status   *server.Recovery
	WAL      recovery.WALRange  // what the archive has now, or had then
	Text     string             // where recovery is, in a sentence
	Lacking  []recovery.Setting // why it stopped: the server that wrote the WAL had these, and this one has less

	reachedEnd bool // of the WAL that there was
	control    segment.Parameters
}

// Request says which recovery to look at.
type Request struct {
	Dir     string           // the data directory
	Server  *server.Recovery // what its server says; nil: it says nothing
	Runs    bool             // there is one, all the same
	Unasked error            // why the one that runs says nothing; nil: it does not take connections yet
	Store   storage.Store    // nil: the archive is as it was when Dir was restored
}

// Check compares where recovery is, or ended, with where it should. The error is ErrNotReached or
// ErrRecovering if that is not there, and ErrUnasked if nobody can tell.
func Check(ctx context.Context, r Request) (*Outcome, error) {
	x, err := ReadRestored(r.Dir)
	if err != nil {
		return nil, err
	}
	c, _, err := datadir.ReadControl(r.Dir)
	if err != nil {
		return nil, err
	}
	if c.SystemID != x.SystemID {
		return nil, fmt.Errorf("%w: %s has another cluster than the one that was restored there", ErrNotRestored, r.Dir)
	}
	if r.Server != nil && r.Server.SystemID != c.SystemID {
		return nil, fmt.Errorf("%w: the server that answered belongs to another cluster (system identifier %d) than %s (%d)", ErrNotRestored, r.Server.SystemID, r.Dir, c.SystemID)
	}
	o := &Outcome{Restored: *x, Status: r.Server, control: c.Parameters, WAL: recovery.WALRange{End: x.End, Last: x.Last, Received: x.Received}}
	if len(x.Path) == 0 {
		o.State, o.Text = "restored", "pgobj did not set up a recovery here, so there is nothing to compare with"
		return o, nil
	}
	if r.Server != nil && r.Server.InRecovery && x.Standby {
		o.Restored.Path = o.followed(r.Dir)
	}
	if r.Store != nil {
		if o.WAL, err = recovery.ScanRange(ctx, r.Store, x.SystemID, o.Restored.Path, x.SegmentSize, 0); err != nil {
			return nil, err
		}
	}
	switch {
	case r.Server != nil && r.Server.InRecovery:
		return o, o.inRecovery()
	case r.Server != nil:
		o.State = fmt.Sprintf("open, on timeline %d", r.Server.Timeline)
		err = o.ended(r.Dir, r.Server.Timeline)
	default:
		err = o.silent(r, c)
	}
	if r.Store != nil && o.reachedEnd && o.goneOn(ctx, r.Store) {
		o.Text += ". Since then the archive has received WAL up to " + o.WAL.End.String()
	}
	return o, err
}

// followed is the path of a standby, which goes on from what it was restored for: also to timelines that were begun since.
func (o *Outcome) followed(dir string) timeline.Path {
	path := o.Restored.Path
	t := o.newestHistory(dir, path.Last().Timeline)
	ancestors, err := datadir.ReadHistory(dir, t)
	longer := timeline.To(t, ancestors).From(path[0].Timeline, path[0].Begin)
	if err != nil || longer == nil { // timeline 1 has none
		return path
	}
	return longer
}

// goneOn says whether the archive has records after the end of a recovery that has reached what it had. Its last segment is
// as long as the others wherever its last record ends.
func (o *Outcome) goneOn(ctx context.Context, s storage.Store) bool {
	x, w := o.Restored, o.WAL
	from := max(o.At, x.End)
	if w.End <= from {
		return false
	}
	if w.Received || segment.At(0, from-1, x.SegmentSize).No != segment.At(0, w.End-1, x.SegmentSize).No {
		return true
	}
	last, err := survey.NewSegments(s, x.SystemID).Facts(ctx, w.Last)
	return err == nil && last.LastChange >= o.At
}

// silent judges by pg_control, when no server answers.
func (o *Outcome) silent(r Request, c datadir.Control) error {
	o.State = "no server runs; the state in pg_control is: " + c.State.String()
	switch {
	case r.Unasked != nil:
		o.State = "the server runs, but cannot be asked; the state in pg_control is: " + c.State.String()
	case r.Runs:
		o.State = "the server does not accept connections yet; the state in pg_control is: " + c.State.String()
	}
	o.At, o.Timeline = c.MinRecoveryPoint, c.MinRecoveryTimeline
	// The label goes when pg_control says that recovery has begun (StartupXLOG); from a clean shutdown one begins without a label.
	asked := datadir.Recovering(r.Dir)
	begun := !datadir.Exists(filepath.Join(r.Dir, "backup_label")) && (c.State != datadir.ShutDown || !asked)
	clean := c.State == datadir.ShutDown || c.State == datadir.InProduction
	switch {
	case !begun && !r.Runs:
		o.At = 0
		return o.not("recovery has not begun: start the server")
	case begun && clean && !asked:
		return o.ended(r.Dir, max(c.Timeline, o.newestHistory(r.Dir, c.Timeline)))
	case r.Unasked != nil:
		o.Text = fmt.Sprintf("unknown: it has replayed WAL up to %s or further", o.At)
		return fmt.Errorf("%w: %w", ErrUnasked, r.Unasked)
	case r.Runs:
		return o.goesOn()
	case c.State == datadir.ShutDownInRecovery && o.Restored.Action == "shutdown":
		o.Text = fmt.Sprintf("the server shut down in recovery at %s or later, as requested for its target", o.At)
		return nil
	}
	gap := ""
	if o.WAL.Missing != "" {
		gap = fmt.Sprintf(": the archive has no segment %s, although it has %s", o.WAL.Missing, o.WAL.Beyond)
	}
	if lack := lackingIn(r.Dir, c.Parameters); gap == "" && len(lack) > 0 {
		o.Lacking = lack
		return o.not("the server stopped in recovery, at %s or later: the server that wrote the WAL had %s, and this one has lower values. Set the higher values (on its command line, if they are set there), and start the server", o.At, names(lack))
	}
	missed := ""
	if x := o.Restored; gap == "" && !x.ToTheEnd && x.LSN == 0 {
		missed = fmt.Sprintf(". If it says that recovery ended before the target was reached, %s is before backup %s or after the end of the archive: name an older backup, or give no target", x.Goal, x.Backup)
	}
	return o.not("the server stopped in recovery, at %s or later%s. See its log for the reason%s", o.At, gap, missed)
}

// newestHistory: directly after its promotion a server that crashed has its new timeline in the history file, and
// not yet in pg_control.
func (o *Outcome) newestHistory(dir string, after segment.Timeline) segment.Timeline {
	names, _ := datadir.ReadDir(filepath.Join(dir, "pg_wal"))
	newest := after
	for _, name := range names {
		if t, err := segment.TimelineOf(name); err == nil && segment.Classify(name) == segment.History {
			newest = max(newest, t)
		}
	}
	return newest
}

func (o *Outcome) inRecovery() error {
	s, x := o.Status, o.Restored
	o.At = s.Replayed
	o.Timeline, o.State = x.Path.TimelineAt(o.At), "in recovery"
	lack := lackingNow(o.control, s)
	switch {
	case len(lack) > 0:
		o.Lacking = lack
		o.State = "in recovery, stopped by a setting"
		return o.not("recovery stopped at %s, which is not its target: the server that wrote the WAL had %s, and this one has lower values. Set the higher values (on its command line, if they are set there), and restart the server. Do not run pg_wal_replay_resume(): it shuts the server down", o.At, names(lack))
	case x.Standby && o.atEnd(recovery.WALRange{Last: o.WAL.Last}): // it gets complete segments only
		o.State, o.Text = "a standby", fmt.Sprintf("it has replayed all WAL in the archive, up to %s", o.At)
		return nil
	case s.Paused && x.ToTheEnd, s.Paused && x.LSN > o.At && !x.Exclusive:
		o.State = "in recovery, paused"
		return o.not("recovery is paused at %s, which is not its target: run SELECT pg_wal_replay_resume(), or see the server's log", o.At)
	case s.Paused:
		o.State, o.Text = "in recovery, paused at the target and open for reading", fmt.Sprintf("recovery has reached %s and waits at %s%s", x.Goal, o.At, o.lastCommit())
		return nil
	}
	return o.goesOn()
}

func (o *Outcome) goesOn() error {
	x := o.Restored
	until := o.WAL.End
	if x.LSN > 0 {
		until = x.LSN
	}
	o.Text = fmt.Sprintf("still replaying: %s of %s%s", o.At, until, o.lastCommit())
	if o.WAL.Missing != "" && o.At+segment.LSN(x.SegmentSize) >= o.WAL.End {
		return o.not("recovery cannot get past %s: the archive has no segment %s, although it has %s", o.WAL.End, o.WAL.Missing, o.WAL.Beyond)
	}
	return fmt.Errorf("%w: %s", ErrRecovering, o.Text)
}

// ended judges a recovery that is over, by the history of the timeline that the server has opened.
func (o *Outcome) ended(dir string, t segment.Timeline) error {
	history, err := datadir.ReadHistory(dir, t)
	_, onPath := o.Restored.Path.Left(t)
	if errors.Is(err, fs.ErrNotExist) || onPath { // the end of a recovery begins a timeline
		return o.not("the server is on timeline %d and has never recovered from the archive: check whether the signal file was removed", t)
	}
	if err != nil {
		return err
	}
	x := o.Restored
	for _, a := range history {
		left, on := x.Path.Left(a.Timeline)
		if on {
			o.Timeline, o.At, o.Reason = a.Timeline, a.Switch, a.Reason
		}
		if on && a.Switch != left {
			break // here it has left the path
		}
	}
	last := x.Path.Last().Timeline
	switch {
	case o.At == 0:
		return o.not("the server is on timeline %d, which does not descend from the backup's timeline", t)
	case !x.ToTheEnd && !metNone(o.Reason):
		o.Text = fmt.Sprintf("recovery has reached %s: it ended at %s on timeline %d (%s)%s", x.Goal, o.At, o.Timeline, o.Reason, o.lastCommit())
		return nil
	case !x.ToTheEnd:
		return o.not("target not reached: recovery was to go to %s, but ended at %s on timeline %d without reaching it%s", x.Goal, o.At, o.Timeline, o.why())
	case o.Timeline != last:
		return o.not("recovery ended at %s on timeline %d and did not reach timeline %d%s", o.At, o.Timeline, last, o.why())
	case !o.atEnd(recovery.WALRange{Last: x.Last, End: x.End, Received: x.Received}):
		return o.not("recovery ended at %s, but the archive had WAL up to %s%s", o.At, x.End, o.why())
	}
	o.Text = fmt.Sprintf("recovery has reached the end of the WAL: it ended at %s on timeline %d%s", o.At, o.Timeline, o.lastCommit())
	o.reachedEnd = true
	return nil
}

// atEnd: the last record that the archive has in full ends in its last segment. (A record that is longer than a
// segment and torn at the end could make that untrue.) What was received of one that is not complete
// ends with a record, as far as the server had flushed, or with a page (XLogBackgroundFlush, XLogSendPhysical), in any record.
func (o *Outcome) atEnd(w recovery.WALRange) bool {
	size := o.Restored.SegmentSize
	if w.Received {
		const page = 8192
		if w.End%page != 0 {
			return o.At >= w.End
		}
		return o.At >= segment.At(o.Restored.Path[0].Timeline, w.End-1, size).Start(size)
	}
	last, err := segment.ParseName(w.Last, size)
	return err != nil || o.At >= last.Start(size)
}

// why looks for what kept recovery from going on.
func (o *Outcome) why() string {
	size := o.Restored.SegmentSize
	if o.WAL.Missing != "" && o.At+segment.LSN(size) > o.WAL.End {
		return fmt.Sprintf(", because the archive has no segment %s, although it has %s", o.WAL.Missing, o.WAL.Beyond)
	}
	if o.WAL.End > o.At {
		return fmt.Sprintf("; the archive has WAL up to %s now (%s). Check in the server's log whether it was promoted by hand", o.WAL.End, o.WAL.Last)
	}
	return fmt.Sprintf("; the archive ends at %s (%s)", o.WAL.End, o.WAL.Last)
}

func (o *Outcome) lastCommit() string {
	if o.Status == nil || o.Status.LastCommit.IsZero() {
		return ""
	}
	return ", last transaction of " + backup.Stamp(o.Status.LastCommit)
}

func (o *Outcome) not(format string, args ...any) error {
	o.Text = fmt.Sprintf(format, args...)
	return fmt.Errorf("%w: %s", ErrNotReached, o.Text)
}
