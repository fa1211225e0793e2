// Package survey tells what the archive has: timelines, gaps, commits, restore points.
package survey

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/partial"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// Survey is what the archive holds of one timeline.
type Survey struct {
	Timeline    segment.Timeline
	SegmentSize segment.Size
	Runs        []timeline.Run // in rising order, each after a gap
	Segments    int64
	Stored      int64     // bytes of the segments' objects
	Oldest      time.Time // when the first and the last of them were archived, by the store's clock
	Newest      time.Time
	Lineage     segment.Lineage // nil for timeline 1, and where the history file is missing
	History     bool            // the history file is there, sound or not
	Partial     bool            // there is a .partial
	Lost        []Lost          // acknowledged
	Notes       []object.Object // of parameters; see ReadNotes
	Pieces      []object.Piece  // of segments that are not complete, in the order of their keys
	Obsolete    []object.Piece  // of segments that are
}

// Lost says that somebody knows that these segments are lost, so that it need not alarm any more. It is an
// object of its own beside the segments, named FIRST-LAST.lost, which changes nothing for recovery.
type Lost struct {
	First  string    `json:"first"`
	Last   string    `json:"last"`
	Reason string    `json:"reason"`
	Time   time.Time `json:"time"`
}

// Gap is a gap in the archive, by the names of its ends.
type Gap struct {
	Timeline     segment.Timeline `json:"timeline"`
	First        string           `json:"first"`
	Last         string           `json:"last"`
	Count        int64            `json:"segments"`
	Acknowledged bool             `json:"acknowledged"`
	Reason       string           `json:"reason,omitempty"`
}

// Examine lists all WAL of a system identifier, and returns a survey of each timeline in rising order. It says nothing
// about damage. size is the segment size; 0: as the archive has it. Memory grows with the gaps, not with the segments.
func Examine(ctx context.Context, s storage.Store, sysid uint64, size segment.Size) ([]*Survey, error) {
	if size == 0 {
		var err error
		if size, err = archivedSize(ctx, s, sysid); err != nil {
			return nil, err
		}
	}
	var all []*Survey
	for o, err := range walstore.ListAll(ctx, s, sysid, 0, "") {
		if err != nil {
			return nil, err
		}
		first, _, _ := strings.Cut(o.Name, "-") // of what is lost
		tli, err := segment.TimelineOf(first)
		if err != nil {
			continue
		}
		if len(all) == 0 || all[len(all)-1].Timeline != tli {
			all = append(all, &Survey{Timeline: tli, SegmentSize: size})
		}
		v := all[len(all)-1]
		switch o.Type {
		case segment.Invalid:
			err = v.addLost(ctx, s, o.Key)
		case segment.Full:
			v.add(o)
			v.settle(o.Name)
		case segment.Received:
			v.Pieces = append(v.Pieces, o.Piece)
		case segment.Noted:
			if o.Note == object.NoteOfParameters {
				v.Notes = append(v.Notes, o)
			}
		case segment.Partial:
			v.Partial = true
		case segment.History:
			v.History = true
			if v.Lineage, err = walstore.ReadHistory(ctx, s, sysid, tli); errors.Is(err, object.ErrDamaged) {
				err = nil // wal-verify says so
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// archivedSize is the segment size as the first object has it whose beginning can be read; PostgreSQL's default when there
// is none. All numbers come from it, so it is known before the first segment is counted.
func archivedSize(ctx context.Context, s storage.Store, sysid uint64) (segment.Size, error) {
	for o, err := range walstore.List(ctx, s, sysid, 0, "") {
		if err != nil {
			return 0, err
		}
		if o.Type != segment.Full && (o.Type != segment.Received || o.Piece.From != 0) {
			continue
		}
		size, err := walstore.SizeOf(ctx, s, o)
		if err == nil && size != 0 {
			return size, nil
		}
		if err != nil && !errors.Is(err, object.ErrDamaged) && !errors.Is(err, storage.ErrNotFound) { // it may have gone since it was listed
			return 0, err
		}
	}
	return 16 << 20, nil
}

func (v *Survey) add(o object.Object) {
	seg, err := segment.ParseName(o.Name, v.SegmentSize)
	if err != nil {
		return
	}
	v.Segments++
	v.Stored += o.Size
	if v.Oldest.IsZero() || o.Created.Before(v.Oldest) {
		v.Oldest = o.Created
	}
	if o.Created.After(v.Newest) {
		v.Newest = o.Created
	}
	v.Runs = timeline.Extend(v.Runs, seg.No)
}

// settle moves the pieces of a segment that is there: its key comes after theirs.
func (v *Survey) settle(name string) {
	i := len(v.Pieces)
	for i > 0 && v.Pieces[i-1].Segment == name {
		i--
	}
	v.Obsolete = append(v.Obsolete, v.Pieces[i:]...)
	v.Pieces = v.Pieces[:i]
}

// Orphan says that the history file is missing, so that no recovery gets to the timeline. The first one has none.
func (v *Survey) Orphan() bool { return v.Timeline > 1 && !v.History }

// Received is the segment that the timeline ends with when it is not complete, and how much of it was received; 0 when
// none was, or not what follows the last segment.
func (v *Survey) Received() (segment.Segment, int64) {
	seg, ok := v.LastPiece()
	if n := len(v.Runs); !ok || n > 0 && v.Runs[n-1].Last+1 != seg.No {
		return segment.Segment{}, 0
	}
	_, reach := partial.Chain(v.PiecesOf(seg.Name(v.SegmentSize)))
	return seg, reach
}

// LastPiece is the last segment of which there are pieces.
func (v *Survey) LastPiece() (segment.Segment, bool) {
	if len(v.Pieces) == 0 {
		return segment.Segment{}, false
	}
	seg, err := segment.ParseName(v.Pieces[len(v.Pieces)-1].Segment, v.SegmentSize)
	return seg, err == nil
}

// PiecesOf are those of one segment, as Pieces lists them.
func (v *Survey) PiecesOf(name string) []object.Piece {
	return partial.SortPieces(slices.DeleteFunc(slices.Clone(v.Pieces), func(p object.Piece) bool { return p.Segment != name }))
}

// Unread says that nobody reads a piece: its segment is archived, or other pieces stand in for it, as after a receiver that
// found damage and asked the server again.
func (v *Survey) Unread(p object.Piece) bool {
	chain, reach := partial.Chain(v.PiecesOf(p.Segment))
	return slices.Contains(v.Obsolete, p) || p.To <= reach && !slices.Contains(chain, p)
}

func (v *Survey) addLost(ctx context.Context, s storage.Store, key string) error {
	data, err := storage.ReadAll(ctx, s, key, object.NoteLimit)
	if err != nil {
		return err
	}
	var l Lost
	if err := json.Unmarshal(data, &l); err == nil {
		v.Lost = append(v.Lost, l)
	}
	return nil
}

// Acknowledge records that segments first..last (of one timeline) are known to be lost.
func Acknowledge(ctx context.Context, s storage.Store, sysid uint64, l Lost) error {
	if segment.Classify(l.First) != segment.Full || segment.Classify(l.Last) != segment.Full || l.First[:8] != l.Last[:8] || l.Last < l.First {
		return fmt.Errorf("acknowledge %s to %s: %w", l.First, l.Last, object.ErrName)
	}
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	err = s.Put(ctx, object.LostKey(sysid, l.First, l.Last), bytes.NewReader(data), int64(len(data)))
	if err != nil && !errors.Is(err, storage.ErrExists) {
		return fmt.Errorf("acknowledge %s to %s: %w", l.First, l.Last, err)
	}
	return nil
}

// Path is the path to the timeline.
func (v *Survey) Path() timeline.Path { return timeline.To(v.Timeline, v.Lineage) }

// Tree is the timelines that are surveyed.
func Tree(all []*Survey) timeline.Tree {
	tree := timeline.Tree{}
	for _, v := range all {
		tree[v.Timeline] = v.Lineage
	}
	return tree
}

func held(all []*Survey) timeline.Held {
	held := timeline.Held{}
	for _, v := range all {
		held[v.Timeline] = v.Runs
	}
	return held
}

// Gaps are the gaps on the path to a timeline that none of its ancestors tells of. What came before the oldest segment
// of the whole path was deleted, and is none.
func Gaps(all []*Survey, v *Survey) (gaps []Gap) {
	have, path := held(all), v.Path()
	if seg, ok := v.LastPiece(); ok && (len(v.Runs) == 0 || seg.No > v.Runs[len(v.Runs)-1].Last) {
		have[v.Timeline] = timeline.Extend(slices.Clone(v.Runs), seg.No) // it is not complete, but what lies before it is missing
	}
	if len(have[v.Timeline]) == 0 {
		return nil
	}
	for _, g := range path.Gaps(have, v.SegmentSize) {
		told := slices.ContainsFunc(all, func(a *Survey) bool { return a != v && a.tells(g) && path.Passes(a.Timeline, 0) })
		if !told {
			gaps = append(gaps, gap(all, g, v.SegmentSize))
		}
	}
	return gaps
}

// tells says whether a gap on the path to the timeline is one of its Gaps: it lies before its last segment, and where it
// lies between its own, or its path is known.
func (v *Survey) tells(g timeline.Range) bool {
	n := len(v.Runs)
	if n == 0 || g.Timeline > v.Timeline || g.Timeline == v.Timeline && g.First > v.Runs[n-1].Last {
		return false
	}
	return v.Lineage != nil || g.Timeline == v.Timeline && g.First > v.Runs[0].First
}

// gap is a Range, by names, and whether it is acknowledged.
func gap(all []*Survey, r timeline.Range, size segment.Size) Gap {
	of := Survey{Timeline: r.Timeline, SegmentSize: size}
	g := Gap{Timeline: r.Timeline, First: of.Name(r.First), Last: of.Name(r.Last), Count: int64(r.Last - r.First + 1)}
	for _, v := range all {
		for _, l := range v.Lost {
			if l.First <= g.First && g.Last <= l.Last {
				g.Acknowledged, g.Reason = true, l.Reason
			}
		}
	}
	return g
}

// Name is a segment of the timeline by its number.
func (v *Survey) Name(no uint64) string {
	return segment.Segment{Timeline: v.Timeline, No: no}.Name(v.SegmentSize)
}

// Reach is the last segment that recovery gets to without a gap, from segment no of timeline from towards timeline
// to, which is from or a descendant of it. False when not even the first one is there, or to is no descendant.
func Reach(all []*Survey, from segment.Timeline, no uint64, to *Survey) (segment.Segment, bool) {
	first := segment.Segment{Timeline: from, No: no}
	return to.Path().From(from, first.Start(to.SegmentSize)).Reach(held(all), to.SegmentSize)
}
