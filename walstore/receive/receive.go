// Package receive streams WAL from a server into the archive: it follows the server's timelines, goes on where the
// archive ends, stores the segment that is being written piece by piece, and reports what is stored, so that a
// commit can wait for it. It refuses to keep anything of its own: after any end it knows where it was from the
// archive alone, and what it spools on this host has no name that could be left behind.
//
// # Promise
//
// What is reported to the server as flushed is in the archive: whole segments as Push stores them, the last one as
// pieces (see walstore.Piece), all without a gap from the first byte of this stream on. Segments are stored in order,
// and nothing of one before all of those before it.
package receive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/pgobj/pgobj/backup/server"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/partial"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/survey"
	"github.com/pgobj/pgobj/walstore/timeline"
)

var (
	// ErrRemoved: the archive lacks WAL that the server does not have any more.
	ErrRemoved = errors.New("the server does not have the next WAL any more")
	// ErrOtherServer: the server is not of the cluster that was streamed from before.
	ErrOtherServer = errors.New("another cluster answers at this address")
	// ErrStream: what the server sends is not the WAL that was asked for.
	ErrStream = errors.New("the stream is not the requested one")
)

// Config says what to receive. All fields but Slot have to be set.
type Config struct {
	Store   storage.Store // rooted at the server's directory
	Connect func(context.Context) (*server.Replication, error)
	Admit   func(ctx context.Context, systemID uint64) error // see admit.Gate

	Slot       string
	CreateSlot bool          // unless it is there
	Interval   time.Duration // how long received WAL may wait before it is stored; 0: not at all
	Status     time.Duration // how often the server hears from us
	AcceptGap  bool          // go on from where the server is when what comes next is gone
	Level      int           // of the compression, as PushRequest
	Spool      string        // directory for files without a name
	Log        *slog.Logger
}

// Position is where the receiver was when it ended.
type Position struct {
	Timeline segment.Timeline
	Begin    segment.LSN // of its last stream
	Received segment.LSN
	Stored   segment.LSN // reported as flushed; 0: nothing was
}

const (
	waitMin = time.Second // before another try
	waitMax = 30 * time.Second
	// graceful is how long the receiver goes on storing what it has when it is told to end.
	graceful = 30 * time.Second
	// patience is how long the connection stays open while nothing can be stored: a server that stops waits for us until we
	// have all of its WAL or are gone, and pg_ctl stop gives up after 60 seconds.
	patience = 30 * time.Second
	// lookBack is in how many segments before the archive's end a gap is looked for that the server may still fill:
	// pushes that run ahead leave such when they are interrupted.
	lookBack = 64
)

// Run receives until ctx is done; then it stores what it has, and that is no error. It goes on by itself after the
// loss of the connection, while another holds the slot, and while the storage is in trouble, but not when its first
// connection or its first look at the storage fails, and not when going on would leave a gap or contradict the archive.
func Run(ctx context.Context, c Config) (Position, error) {
	r := &receiver{Config: c, next: map[segment.Timeline]uint64{}, later: map[segment.Timeline][]uint64{}, histories: map[segment.Timeline]bool{}}
	for wait := waitMin; ; wait = min(2*wait, waitMax) {
		before := r.pos
		err := r.session(ctx)
		switch {
		case ctx.Err() != nil && (err == nil || !r.final(err)):
			return r.pos, nil
		case r.final(err) || !r.prepared:
			return r.pos, err
		case r.pos != before:
			wait = waitMin
		}
		wait := wait/2 + rand.N(wait/2)
		c.Log.Warn("the stream has ended; connecting again", "in", wait.Round(time.Millisecond), "at", r.pos.Received.String(), "error", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return r.pos, nil
		}
	}
}

// final says that trying again would have the same end.
func (r *receiver) final(err error) bool {
	for _, f := range []error{server.ErrReplication, server.ErrVersion, ErrRemoved, ErrOtherServer, ErrStream,
		object.ErrConflict, object.ErrDamaged, object.ErrSource, ErrSpool} {
		if errors.Is(err, f) {
			return true
		}
	}
	return false
}

type receiver struct {
	Config
	sysid     uint64
	size      segment.Size
	prepared  bool // server and archive have answered
	started   bool // it has streamed
	pos       Position
	next      map[segment.Timeline]uint64   // the first segment that the archive lacks
	later     map[segment.Timeline][]uint64 // where else to go on when that is gone
	histories map[segment.Timeline]bool     // that are in the archive
	slotMade  bool                          // there is one at the server that it is connected to
}

// session is one connection.
func (r *receiver) session(ctx context.Context) error {
	conn, err := r.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	r.slotMade = false // a server that has taken the other's place does not have its slots
	for {
		at, id, err := r.prepare(ctx, conn)
		if err != nil {
			return err
		}
		r.prepared = true
		err = r.stream(ctx, conn, at)
		switch {
		case errors.Is(err, server.ErrWALRemoved):
			return r.removed(at, id, err)
		case err != nil || ctx.Err() != nil:
			return err
		}
	}
}

// start is a segment to begin with. The archive has what comes before it, as far as it goes, if follows.
type start struct {
	segment.Segment
	follows bool
}

// prepare finds out where to go on.
func (r *receiver) prepare(ctx context.Context, conn *server.Replication) (start, server.Identity, error) {
	id, err := conn.Identify(ctx)
	if err != nil {
		return start{}, id, err
	}
	size, err := conn.SegmentSize(ctx)
	if err != nil {
		return start{}, id, err
	}
	if r.sysid != 0 && (id.SystemID != r.sysid || size != r.size) {
		return start{}, id, fmt.Errorf("%w: its system identifier is %d, it was %d", ErrOtherServer, id.SystemID, r.sysid)
	}
	if r.sysid == 0 {
		r.size = size
		if err := r.Admit(ctx, id.SystemID); err != nil {
			return start{}, id, err
		}
		if err := r.survey(ctx, id.SystemID); err != nil {
			return start{}, id, err
		}
		r.sysid = id.SystemID
	}
	path, err := r.path(ctx, conn, id.Timeline)
	if err != nil {
		return start{}, id, err
	}
	if r.CreateSlot && !r.slotMade {
		made, err := conn.CreateSlot(ctx, r.Slot)
		if err != nil {
			return start{}, id, err
		}
		r.slotMade = true
		if made {
			r.Log.Info("created a replication slot", "slot", r.Slot)
		}
	}
	if at, ok := r.position(path); ok {
		return start{at, true}, id, nil
	}
	from := id.Position
	if r.Slot != "" {
		kept, err := conn.SlotStart(ctx, r.Slot)
		if err != nil {
			return start{}, id, err
		}
		if kept != 0 {
			from = min(from, kept)
		}
	}
	return start{segment.At(id.Timeline, from, r.size), false}, id, nil
}

// survey looks at what the archive has.
func (r *receiver) survey(ctx context.Context, sysid uint64) error {
	all, err := survey.Examine(ctx, r.Store, sysid, r.size)
	if err != nil {
		return err
	}
	for _, v := range all {
		for _, p := range v.Obsolete {
			if err := partial.DropPiece(ctx, r.Store, sysid, p); err != nil {
				r.Log.Warn("could not remove the received parts of a segment that is complete now", "object", p.String(), "error", err)
				break
			}
		}
		var starts []uint64
		for _, run := range v.Runs {
			if run.Last+lookBack >= v.Runs[len(v.Runs)-1].Last {
				starts = append(starts, run.Last+1)
			}
		}
		if seg, ok := v.LastPiece(); ok && (len(starts) == 0 || seg.No > starts[len(starts)-1]) {
			starts = append(starts, seg.No)
		}
		if len(starts) > 0 {
			r.next[v.Timeline], r.later[v.Timeline] = starts[0], starts[1:]
		}
	}
	return nil
}

// position is the first segment on the path to the server's timeline that the archive lacks; false when it has none of the path.
func (r *receiver) position(path timeline.Path) (segment.Segment, bool) {
	for i, span := range slices.Backward(path) {
		next, ok := r.next[span.Timeline]
		switch end := segment.At(span.Timeline, span.End, r.size); {
		case !ok:
		case i == len(path)-1 || next < end.No:
			return segment.Segment{Timeline: span.Timeline, No: next}, true
		default: // the successor's first segment begins with a copy of this timeline's last bytes
			return segment.Segment{Timeline: path[i+1].Timeline, No: end.No}, true
		}
	}
	return segment.Segment{}, false
}

// path stores the history files of the server's timeline and its ancestors, and returns what the first says.
func (r *receiver) path(ctx context.Context, conn *server.Replication, tli segment.Timeline) (timeline.Path, error) {
	if tli == 1 {
		return timeline.To(1, nil), nil
	}
	data, err := conn.History(ctx, tli)
	if err != nil {
		return nil, err
	}
	ancestors, err := segment.ParseHistory(tli, data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStream, err)
	}
	for _, a := range ancestors {
		if a.Timeline == 1 || r.histories[a.Timeline] {
			continue
		}
		older, err := conn.History(ctx, a.Timeline)
		if err != nil { // the server does not need it
			r.Log.Debug("an older history file is not stored", "timeline", a.Timeline, "error", err)
			continue
		}
		if err := r.storeHistory(ctx, a.Timeline, older); err != nil {
			return nil, err
		}
	}
	return timeline.To(tli, ancestors), r.storeHistory(ctx, tli, data)
}

func (r *receiver) storeHistory(ctx context.Context, tli segment.Timeline, data []byte) error {
	if r.histories[tli] {
		return nil
	}
	f, err := nameless(r.Spool)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("%w: %w", ErrSpool, err)
	}
	_, err = walstore.Push(ctx, r.Store, walstore.PushRequest{Path: segment.HistoryName(tli), File: f, Level: r.Level,
		SystemID: func() (uint64, error) { return r.sysid, nil }})
	if err == nil {
		r.histories[tli] = true
	}
	return err
}

// removed decides how to go on when the server does not have the segment any more.
func (r *receiver) removed(at start, id server.Identity, err error) error {
	t := at.Timeline
	name := at.Name(r.size)
	if later := r.later[t]; len(later) > 0 {
		r.Log.Warn("the archive has a gap that the server cannot fill any more", "segment", name, "error", err)
		r.next[t], r.later[t] = later[0], later[1:]
		return err
	}
	now := segment.At(id.Timeline, id.Position, r.size)
	if r.AcceptGap && (now.Timeline != t || now.No > at.No) {
		r.Log.Warn("a gap is left in the archive: recovery cannot get past it; take a base backup now", "first", name, "until", now.Name(r.size))
		r.next[now.Timeline] = now.No
		return err
	}
	return fmt.Errorf("%w: the archive needs %s, and the server has removed it (%w)\nThe server is at %s now, in %s. --accept-gap continues from there and leaves a gap: recovery cannot get past it, so take a base backup then. If a pg_wal still has the segment, archive it instead, in that data directory: pgobj wal-push pg_wal/%s",
		ErrRemoved, name, err, id.Position, now.Name(r.size), name)
}
