package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"time"

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
	key      string                    // of the last one that was read
	begin    []byte                    // and how it begins
	said     time.Time
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
	var marks []segment.Mark
	next := "" // the key of the segment behind the one that is looked at
	if w.Received {
		name := w.tail[0].Segment
		marks, err = s.look(walstore.Key(b.SystemID, name), func(each func(segment.Mark)) ([]byte, error) {
			return walstore.MarksOf(ctx, s.store, b.SystemID, w.tail, each)
		})
		if err != nil {
			return nil, err
		}
		next = walstore.Key(b.SystemID, name)
	}
	last, none := segment.ParseName(w.Last, size) // none: there is no segment
	for no := last.No; ; no-- {
		if i := lastIndex(marks, func(m segment.Mark) bool { return m.At >= b.StopLSN && m.At < w.End }); i >= 0 {
			return &marks[i], nil
		}
		if none != nil || no < segment.At(0, b.StopLSN, size).No {
			return nil, nil
		}
		name := nameOf(legs, w, no, size)
		key := walstore.Key(b.SystemID, name)
		marks, err = s.look(key, func(each func(segment.Mark)) ([]byte, error) {
			var after []byte
			if s.key == next {
				after = s.begin
			}
			return walstore.Marks(ctx, s.store, b.SystemID, name, after, each)
		})
		if err != nil {
			return nil, err
		}
		next = key
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

// look finds the marks of a segment that the recovery could end at. What is damaged has none: recovery does not get past it
// either.
func (s *seeker) look(key string, read func(each func(segment.Mark)) (begin []byte, err error)) (found []segment.Mark, err error) {
	if found, ok := s.known[key]; ok {
		return found, nil
	}
	if time.Since(s.said) >= walSay {
		s.log.Info("looking through the WAL for the target, the newest first", "target", s.recovery.Goal(), "segment", path.Base(key), "read", len(s.known))
		s.said = time.Now()
	}
	begin, err := read(func(m segment.Mark) {
		if s.recovery.wants(m) {
			found = append(found, m)
		}
	})
	if errors.Is(err, walstore.ErrDamaged) || errors.Is(err, storage.ErrNotFound) {
		s.log.Warn("cannot look through all of the WAL for the target", "target", s.recovery.Goal(), "error", err)
		found, err = nil, nil
	}
	s.known[key], s.key, s.begin = found, key, begin
	return found, err
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
