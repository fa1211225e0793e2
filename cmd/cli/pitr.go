package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/segment"
)

// pitrWindows tells which points in time can be restored. A window begins where its first backup is consistent,
// and ends a microsecond before the last transaction in the WAL that can be got to from there without a gap
// ended: PostgreSQL knows that it has reached a target time only from a transaction that ended after it
// (recoveryStopsBefore in xlogrecovery.c), and fails when there is none. That last transaction is had by recovery
// to the end of the WAL.
type pitrWindows struct {
	JSON bool `name:"json" help:"Print JSON: an array of objects, one for each window."`
}

// pitrWindow is one as --json prints it.
type pitrWindow struct {
	SystemID uint64    `json:"system_id,string"`
	Timeline uint32    `json:"timeline"`
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	LastWAL  string    `json:"last_wal"`
	Backups  []string  `json:"backups"` // that it can be restored from; each from its own consistent point on
	Why      string    `json:"ends_because"`
	at       []time.Time
}

// lastCommitLook is in how many segments, from the end of a window backwards, a transaction is looked for.
const lastCommitLook = 16

func (c *pitrWindows) Run(ctx context.Context, a *app) error {
	store, all, err := a.archives(ctx)
	if err != nil {
		return err
	}
	windows := []*pitrWindow{}
	for _, r := range all {
		for _, s := range r.surveys {
			found, err := r.windows(ctx, store, s)
			if err != nil {
				return err
			}
			windows = append(windows, found...)
		}
	}
	if c.JSON {
		return printJSON(a.Out, windows)
	}
	if len(windows) == 0 {
		fmt.Fprintf(a.Err, "nothing can be restored: server %s has no backup with all its WAL in %s\n", a.Server, store)
		return nil
	}
	drawWindows(a, windows)
	return nil
}

// windows are those on one timeline, oldest first. A backup of an ancestor reaches it when it was complete before
// the timelines parted, and no segment is missing on the way.
func (r archive) windows(ctx context.Context, store storage.Store, v *walstore.Survey) ([]*pitrWindow, error) {
	var windows []*pitrWindow
	ends := map[segment.Segment]*pitrWindow{}
	for _, e := range r.state.Complete() {
		b := e.Commit.Summary
		if b.SystemID != r.sysid || len(v.Runs) == 0 || v.Orphan() {
			continue
		}
		if left, ok := v.Lineage.Left(b.Timeline); b.Timeline != v.Timeline && (!ok || left < b.StopLSN) {
			continue
		}
		first, err := segment.ParseName(b.FirstWAL, v.SegmentSize)
		if err != nil || r.missing(e.ID, b).Segment != "" && b.Timeline == v.Timeline {
			continue
		}
		end, ok := walstore.Reach(r.surveys, b.Timeline, first.No, v)
		if !ok || end.Timeline != v.Timeline {
			continue // it ends on an ancestor, and is shown there
		}
		w := ends[end]
		if w == nil {
			w = &pitrWindow{SystemID: r.sysid, Timeline: uint32(v.Timeline), From: b.Consistent, LastWAL: end.Name(v.SegmentSize), Why: r.endOf(v, end)}
			if w.To, err = r.lastCommit(ctx, store, v, end); err != nil {
				return nil, err
			}
			ends[end] = w
			windows = append(windows, w)
		}
		w.Backups, w.at = append(w.Backups, e.ID), append(w.at, b.Consistent)
		if b.Consistent.Before(w.From) {
			w.From = b.Consistent
		}
		if w.To.Before(b.Consistent) { // nothing has happened since
			w.To = b.Consistent
		}
	}
	slices.SortFunc(windows, func(a, b *pitrWindow) int { return a.From.Compare(b.From) })
	return windows, nil
}

func (r archive) endOf(v *walstore.Survey, end segment.Segment) string {
	if end.No == v.Runs[len(v.Runs)-1].Last {
		if seg, reach := v.Received(); reach > 0 {
			return fmt.Sprintf("end of the archive, %s of %s", size(reach), seg.Name(v.SegmentSize))
		}
		return "end of the archive"
	}
	return v.Name(end.No+1) + " is missing"
}

// lastCommit is the last target time that the segments up to one can prove to be reached; zero when no transaction
// ended for long.
func (r archive) lastCommit(ctx context.Context, store storage.Store, v *walstore.Survey, end segment.Segment) (time.Time, error) {
	if end.No == v.Runs[len(v.Runs)-1].Last {
		at, found, err := v.LastReceivedCommit(ctx, store, r.sysid)
		if errors.Is(err, storage.ErrNotFound) { // the segment has been completed meanwhile
			found, err = false, nil
		}
		if err != nil || found {
			return at.Add(-time.Microsecond), err
		}
	}
	run := slices.IndexFunc(v.Runs, func(x walstore.Run) bool { return x.First <= end.No && end.No <= x.Last })
	for no := end.No; no+lastCommitLook > end.No && no >= v.Runs[run].First; no-- {
		at, found, err := walstore.LastCommit(ctx, store, r.sysid, v.Name(no))
		if err != nil || found {
			return at.Add(-time.Microsecond), err
		}
	}
	return time.Time{}, nil
}

const windowWidth = 60

// drawWindows shows time from left to right: = can be restored, B a backup is consistent here, . nothing.
func drawWindows(a *app, windows []*pitrWindow) {
	begin, end := windows[0].From, windows[0].To
	for _, w := range windows {
		if w.From.Before(begin) {
			begin = w.From
		}
		if w.To.After(end) {
			end = w.To
		}
	}
	place := func(t time.Time) int {
		return int(float64(windowWidth-1) * float64(t.Sub(begin)) / float64(max(end.Sub(begin), 1)))
	}
	fmt.Fprintf(a.Out, "%s to %s UTC   = can be restored   B backup   . cannot\n", begin.UTC().Format(time.DateTime), end.UTC().Format(time.DateTime))
	for i := 0; i < len(windows); {
		bar := []byte(strings.Repeat(".", windowWidth))
		j := i
		for ; j < len(windows) && windows[j].Timeline == windows[i].Timeline && windows[j].SystemID == windows[i].SystemID; j++ {
			w := windows[j]
			for x := place(w.From); x <= place(w.To); x++ {
				bar[x] = '='
			}
			for _, t := range w.at {
				bar[place(t)] = 'B'
			}
		}
		fmt.Fprintf(a.Out, "\nsystem %d, timeline %d\n%s\n", windows[i].SystemID, windows[i].Timeline, bar)
		for ; i < j; i++ {
			w := windows[i]
			fmt.Fprintf(a.Out, "  %s to %s UTC (%s): %s %s\n", w.From.UTC().Format(time.DateTime), w.To.UTC().Format("2006-01-02 15:04:05.000000"), w.Why, plural(len(w.Backups), "backup"), strings.Join(w.Backups, ", "))
		}
	}
}
