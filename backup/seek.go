package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/segment"
)

// seeker looks through the WAL in the archive for a restore point or the end of a transaction: nothing else tells which
// backups are from before it. It begins with the newest WAL, and reads each segment once.
type seeker struct {
	store    storage.Store
	catalog  *catalog.Catalog
	log      *slog.Logger
	recovery Recovery
	known    map[string][]segment.Mark // of each segment that was read, by its key: where recovery could end
	begin    []byte                    // how the last one begins: the one before it may have a record that ends there
	said     time.Time
}

// seekAhead is how many segments are read at once.
const seekAhead = 4

// sought is a segment, or what was received of one.
type sought struct {
	name  string
	chain []walstore.Piece
	marks []segment.Mark
}

// seeks says whether the recovery's target is one that has to be looked for.
func (r Recovery) seeks() bool { return r.TargetXID != 0 || r.TargetName != "" }

// wants says whether PostgreSQL would end the recovery at a mark. It compares 32 bits of a transaction's number.
func (r Recovery) wants(m segment.Mark) bool {
	return m.Point && r.TargetName != "" && m.Name == r.TargetName || !m.Point && r.TargetXID != 0 && m.XID == uint32(r.TargetXID)
}

// seek is the last place behind a backup at which its recovery along legs could be told to end; nil if there is none.
func (s *seeker) seek(ctx context.Context, e *catalog.Entry, legs []Leg) (*segment.Mark, error) {
	b, err := s.catalog.Backup(ctx, e)
	if err != nil {
		return nil, err
	}
	size := segment.Size(b.SegmentSize)
	w, err := coverLive(ctx, s.store, b.SystemID, legs, size, 0)
	if err != nil {
		return nil, err
	}
	last, none := segment.ParseName(w.Last, size) // none: there is no segment
	no, low := last.No, max(1, segment.At(0, max(b.StartLSN, b.StopLSN), size).No)
	var batch []*sought
	if w.Received {
		batch = append(batch, &sought{name: w.tail[0].Segment, chain: w.tail})
	}
	for {
		for ; none == nil && no >= low && len(batch) < seekAhead; no-- {
			batch = append(batch, &sought{name: nameOf(legs, w, no, size)})
		}
		if len(batch) == 0 {
			return nil, nil
		}
		if err := s.look(ctx, b.SystemID, batch); err != nil {
			return nil, err
		}
		for _, f := range batch {
			if i := lastIndex(f.marks, func(m segment.Mark) bool { return m.At >= b.StopLSN && m.At < w.End }); i >= 0 {
				return &f.marks[i], nil
			}
		}
		batch = nil
	}
}

func lastIndex[T any](all []T, is func(T) bool) int {
	for i, x := range slices.Backward(all) {
		if is(x) {
			return i
		}
	}
	return -1
}

// look finds the marks that the recovery could end at in segments that follow each other, the newest first. What is damaged
// has none: recovery does not get past it either.
func (s *seeker) look(ctx context.Context, sysid uint64, files []*sought) error {
	if time.Since(s.said) >= walSay {
		s.log.Info("looking through the WAL for the target, the newest first", "target", s.recovery.Goal(), "segment", files[0].name, "read", len(s.known))
		s.said = time.Now()
	}
	begin := make(chan []byte, 1) // of the segment behind the one that is read
	begin <- s.begin
	g, reading := errgroup.WithContext(ctx)
	for _, f := range files {
		var ok bool
		if f.marks, ok = s.known[walstore.Key(sysid, f.name)]; ok {
			continue
		}
		r := walstore.MarksRequest{SystemID: sysid, Segment: f.name, Chain: f.chain, After: &awaited{from: begin}}
		own := make(chan []byte, 1)
		r.Begin = func(data []byte) { own <- data }
		begin = own
		g.Go(func() error { return s.read(reading, r, f) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	s.begin = <-begin
	for _, f := range files {
		s.known[walstore.Key(sysid, f.name)] = f.marks
	}
	return nil
}

func (s *seeker) read(ctx context.Context, r walstore.MarksRequest, f *sought) error {
	err := walstore.Marks(ctx, s.store, r, func(m segment.Mark) {
		if s.recovery.wants(m) {
			f.marks = append(f.marks, m)
		}
	})
	if errors.Is(err, walstore.ErrDamaged) || errors.Is(err, storage.ErrNotFound) {
		s.log.Warn("cannot look through all of the WAL for the target", "target", s.recovery.Goal(), "error", err)
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

// notFound: no backup has the target behind it.
func (c *chooser) notFound(complete []*catalog.Entry) error {
	what := "If it was made lately, archive it: SELECT pg_switch_wal()."
	if c.recovery.TargetXID != 0 {
		what = "It may be older, have written nothing, have been part of another one, or not have ended. " + what
	}
	return unreachable("%s is not in the archive's WAL behind the oldest backup, %s, on the way that recovery takes (%d segments were read)\n%s Another --target-timeline may have it. A backup that is named is taken without looking.",
		c.recovery.Goal(), complete[0].ID, len(c.seek.known), what)
}

// where says where the target is.
func where(m *segment.Mark) string { return fmt.Sprintf("which is at %s, of %s", m.At, stamp(m.Time)) }
