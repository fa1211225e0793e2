package recovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// search is what was found in the WAL in the archive, of a restore point or the end of a transaction: nothing else tells which
// backups are from before it. It begins with the newest WAL, and reads each segment once.
type search struct {
	known map[string][]segment.Mark // of each segment that was read, by its key: where recovery could end
	begin []byte                    // how the last one begins: the one before it may have a record that ends there
	said  time.Time
}

// seekAhead is how many segments are read at once.
const seekAhead = 4

// searchedSegment is a segment, or what was received of one.
type searchedSegment struct {
	name  string
	chain []object.Piece
	marks []segment.Mark
}

// Seeks says whether the recovery's target is one that has to be looked for.
func (r Recovery) Seeks() bool { return r.TargetXID != 0 || r.TargetName != "" }

// wants says whether PostgreSQL would end the recovery at a mark. It compares 32 bits of a transaction's number.
func (r Recovery) wants(m segment.Mark) bool {
	return m.Point && r.TargetName != "" && m.Name == r.TargetName || !m.Point && r.TargetXID != 0 && m.XID == uint32(r.TargetXID)
}

// seek is the last place after a backup at which its recovery along path could be told to end; nil if there is none.
func (c *Selector) seek(ctx context.Context, e *catalog.Entry, path timeline.Path) (*segment.Mark, error) {
	b, err := c.Catalog.Backup(ctx, e)
	if err != nil {
		return nil, err
	}
	w, err := WaitForRange(ctx, c.Store, b.SystemID, path, segment.Size(b.SegmentSize), 0)
	if err != nil {
		return nil, err
	}
	return c.Find(ctx, b, path, w)
}

// Find is seek in a range of WAL.
func (c *Selector) Find(ctx context.Context, b *catalog.Backup, path timeline.Path, w WALRange) (*segment.Mark, error) {
	size := segment.Size(b.SegmentSize)
	last, none := segment.ParseName(w.Last, size) // none: there is no segment
	no, low := last.No, max(1, segment.At(0, max(b.StartLSN, b.StopLSN), size).No)
	var batch []*searchedSegment
	if w.Received {
		batch = append(batch, &searchedSegment{name: w.Tail[0].Segment, chain: w.Tail})
	}
	for {
		for ; none == nil && no >= low && len(batch) < seekAhead; no-- {
			batch = append(batch, &searchedSegment{name: NameOf(path, w, no, size)})
		}
		if len(batch) == 0 {
			return nil, nil
		}
		if err := c.look(ctx, b.SystemID, batch); err != nil {
			return nil, err
		}
		for _, f := range batch {
			for _, m := range slices.Backward(f.marks) {
				if m.At >= b.StopLSN && m.At < w.End {
					return &m, nil
				}
			}
		}
		batch = nil
	}
}

// look finds the marks that the recovery could end at in segments that follow each other, the newest first. What is damaged
// has none: recovery does not get past it either.
func (c *Selector) look(ctx context.Context, sysid uint64, files []*searchedSegment) error {
	if time.Since(c.search.said) >= WalSay {
		c.Log.Info("reading the WAL for the target, the newest segments first", "target", c.Recovery.Goal(), "segment", files[0].name, "read", len(c.search.known))
		c.search.said = time.Now()
	}
	begin := make(chan []byte, 1) // of the segment after the one that is read
	begin <- c.search.begin
	g, reading := errgroup.WithContext(ctx)
	for _, f := range files {
		var ok bool
		if f.marks, ok = c.search.known[object.Key(sysid, f.name)]; ok {
			continue
		}
		after, own := &awaited{from: begin}, make(chan []byte, 1)
		begin = own
		g.Go(func() error { return c.read(reading, sysid, f, after, own) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	c.search.begin = <-begin
	for _, f := range files {
		c.search.known[object.Key(sysid, f.name)] = f.marks
	}
	return nil
}

func (c *Selector) read(ctx context.Context, sysid uint64, f *searchedSegment, after io.Reader, begin chan<- []byte) error {
	err := walstore.Source{SystemID: sysid, Segment: f.name, Chain: f.chain}.Read(ctx, c.Store, func(own []byte, in io.Reader) error {
		begin <- own
		return segment.Marks(in, after, func(m segment.Mark) {
			if c.Recovery.wants(m) {
				f.marks = append(f.marks, m)
			}
		})
	})
	if errors.Is(err, object.ErrDamaged) || errors.Is(err, storage.ErrNotFound) {
		c.Log.Warn("cannot read all WAL for the target", "target", c.Recovery.Goal(), "error", err)
		f.marks, err = nil, nil
	}
	return err
}

// awaited reads what comes as one piece, as soon as that is there.
type awaited struct {
	from <-chan []byte
	data *bytes.Reader
}

func (a *awaited) Read(b []byte) (int, error) {
	if a.data == nil {
		a.data = bytes.NewReader(<-a.from)
	}
	return a.data.Read(b)
}

// notFound: the target is after no backup.
func (c *Selector) notFound(complete []*catalog.Entry) error {
	what := "If it was created recently, archive it: SELECT pg_switch_wal()."
	if c.Recovery.TargetXID != 0 {
		what = "The transaction may be older, have written nothing, have been a subtransaction, or not have ended. " + what
	}
	return Unreachable("%s is not in the WAL after the oldest backup, %s, along the timelines that recovery follows (%d segments were read)\n%s Another --target-timeline may have it. If you name a backup, pgobj does not search for the target.",
		c.Recovery.Goal(), complete[0].ID, len(c.search.known), what)
}

// Where says where the target is.
func Where(m *segment.Mark) string {
	return fmt.Sprintf("which is at %s, of %s", m.At, backup.Stamp(m.Time))
}
