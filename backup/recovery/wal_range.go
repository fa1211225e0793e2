package recovery

import (
	"context"
	"time"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/partial"
	"github.com/pgobj/pgobj/walstore/patience"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// WALRange is the WAL that the archive offers for a recovery, without a gap from the backup's start on.
type WALRange struct {
	First, Last string // names of segments; Last is empty when there is none
	Segments    int
	Bytes       int64       // as stored
	End         segment.LSN // it holds everything before
	Received    bool        // the last bytes of it were received, of a segment that is not complete
	Archived    time.Time   // when the last one was stored, by the storage's clock

	Missing string      // the segment that would come next, if later ones show that there is a gap
	Beyond  string      // the first one after the gap
	Before  segment.LSN // where the last record before the gap begins; 0: nobody knows
	beyond  time.Time   // when that was stored, by the storage's clock

	Tail  []object.Piece  // with Received: those with the last bytes
	Notes []object.Object // of all kinds, of segments that are not beyond a gap
}

// RangeScan puts a WALRange together from listings, segment by segment in the order in which recovery wants
// them.
type RangeScan struct {
	WALRange
	Size segment.Size
	Next segment.Segment // that comes next
	// begin is the number of the first segment of the span that is being listed; what is missing before it
	// is the parent's.
	begin  uint64
	parent segment.Timeline
	behind segment.LSN         // the end of the parent's segment in which it is left; 0: the successor has one of that, too
	pieces []object.Piece      // of next
	Each   func(object.Object) // is told of every segment; may be nil
}

// ScanRange lists the WAL along a path, up to the segment that holds the byte before until (0: all there is).
func ScanRange(ctx context.Context, s storage.Store, systemID uint64, path timeline.Path, size segment.Size, until segment.LSN) (WALRange, error) {
	return (&RangeScan{Size: size}).Scan(ctx, s, systemID, path, until)
}

// WaitForRange is ScanRange for an archive that a server may be working on. One that catches up archives several segments at
// once, and they arrive in any order: a gap with new WAL after it may be one that is being filled, for patience.Gap.
func WaitForRange(ctx context.Context, s storage.Store, systemID uint64, path timeline.Path, size segment.Size, until segment.LSN) (WALRange, error) {
	for began := time.Now(); ; {
		w, err := ScanRange(ctx, s, systemID, path, size, until)
		if err != nil || w.Missing == "" || time.Since(w.beyond) > patience.Gap || time.Since(began) > patience.Gap {
			return w, err
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return w, context.Cause(ctx)
		}
	}
}

// GapAhead looks for a gap from a point of the path on. PostgreSQL 15 and later read ahead of what they replay, by as many records as fit into
// wal_decode_buffer_size (XLogPrefetcher): segments that were ended early have so few that it may be any number of them.
func GapAhead(ctx context.Context, s storage.Store, systemID uint64, path timeline.Path, size segment.Size, from segment.LSN) (WALRange, error) {
	first := segment.At(0, from, size).No
	for len(path) > 1 && segment.At(0, path[0].End, size).No < first {
		path = path[1:]
	}
	rest := path.From(path[0].Timeline, max(path[0].Begin, from))
	return ScanRange(ctx, s, systemID, rest, size, 0)
}

func (c *RangeScan) Scan(ctx context.Context, s storage.Store, systemID uint64, path timeline.Path, until segment.LSN) (WALRange, error) {
	size := c.Size
	c.Next = segment.At(path[0].Timeline, path[0].Begin, size)
	c.First, c.End = c.Next.Name(size), c.Next.Start(size)
	for _, span := range path {
		if until > 0 && span.Begin >= until {
			break
		}
		end := span.End
		if until > 0 && (end == 0 || until < end) {
			end = until
		}
		// The segment in which a timeline is left is read from its successor, whose first segment begins with
		// a copy of it; the parent's own is used if the successor has not archived its copy yet.
		c.parent, c.Next.Timeline, c.begin = c.Next.Timeline, span.Timeline, segment.At(span.Timeline, span.Begin, size).No
		if c.End > span.Begin { // what comes there is of the history that was given up, unless the successor has it
			c.behind, c.End = c.End, span.Begin
		}
		if err := c.list(ctx, s, systemID, end); err != nil || c.Missing != "" {
			return c.WALRange, err
		}
	}
	c.addReceived(path.Last())
	return c.WALRange, nil
}

// addReceived adds what was received of the segment that comes next. Of the parent's, only what comes before the last
// span belongs to the path.
func (c *RangeScan) addReceived(last timeline.Span) {
	chain, reach := partial.Chain(c.pieces)
	if reach == 0 || c.pieces[0].Segment[8:] != c.Next.Name(c.Size)[8:] {
		return
	}
	end := c.Next.Start(c.Size) + segment.LSN(reach)
	if c.pieces[0].Segment[:8] != last.Timeline.Hex() {
		end = min(end, last.Begin)
	}
	if end > c.End {
		c.End, c.Received, c.Tail = end, true, chain
	}
}

// list takes the segments of one timeline, from c.next on and up to the one with the byte before end.
func (c *RangeScan) list(ctx context.Context, s storage.Store, systemID uint64, end segment.LSN) error {
	from := c.Next
	if from.No = min(from.No, c.begin); from.No > 0 {
		from.No-- // a listing begins after a name
	}
	for o, err := range walstore.ListAll(ctx, s, systemID, from.Timeline, from.Name(c.Size)) {
		if err != nil {
			return err
		}
		if o.Type != segment.Full && o.Type != segment.Received && o.Type != segment.Noted {
			continue
		}
		seg, err := segment.ParseName(o.Name, c.Size)
		if err != nil || seg.No < c.Next.No {
			if err == nil && seg.No == c.begin {
				c.again(o) // its predecessor's
			}
			continue // or a name that the cluster cannot have
		}
		if end > 0 && seg.Start(c.Size) >= end {
			return nil
		}
		if o.Type == segment.Noted {
			c.note(o, seg.No == c.Next.No)
			continue
		}
		if seg.No > c.Next.No {
			if c.Next.No < c.begin {
				c.Next.Timeline = c.parent
			}
			c.Missing, c.Beyond, c.beyond = c.Next.Name(c.Size), o.Name, o.Created
			return nil
		}
		if c.Archived = o.Created; o.Type == segment.Received {
			if len(c.pieces) > 0 && c.pieces[0].Segment != o.Name {
				c.pieces = nil // the parent's
			}
			c.pieces = append(c.pieces, o.Piece)
			continue
		}
		c.pieces = nil
		if c.Each != nil {
			c.Each(o)
		}
		c.Last, c.End, c.Archived = o.Name, seg.Next().Start(c.Size), o.Created
		c.Segments++
		c.Bytes += o.Size
		c.Next = seg.Next()
	}
	return nil
}

// note takes what was noted of a segment on the path.
func (c *RangeScan) note(o object.Object, onPath bool) {
	if !onPath {
		return
	}
	c.Notes = append(c.Notes, o)
	if c.Each != nil {
		c.Each(o)
	}
}

// again takes the copy that a timeline has of the segment in which its parent is left: it is what PostgreSQL asks for first.
func (c *RangeScan) again(o object.Object) {
	if o.Type == segment.Noted {
		c.note(o, true)
		return
	}
	if c.behind > 0 {
		c.End, c.behind = c.behind, 0
	}
	if o.Type != segment.Full {
		return
	}
	if c.Next.No == c.begin+1 {
		c.Last = o.Name
	}
	if c.Each != nil {
		c.Each(o)
	}
}

// NameOf is the segment of a number on a path. Where a timeline is left it is the new one's, which begins with a copy, but
// the WAL may end before that.
func NameOf(path timeline.Path, w WALRange, no uint64, size segment.Size) string {
	if name := path.Segment(no, size).Name(size); name[8:] != w.Last[8:] {
		return name
	}
	return w.Last
}

// WalSay is how often the user is told what is awaited.
const WalSay = 10 * time.Second
