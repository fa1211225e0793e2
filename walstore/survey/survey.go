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
)

// Run is segments of one timeline without a gap, by their numbers.
type Run struct{ First, Last uint64 }

// Survey is what the archive holds of one timeline.
type Survey struct {
	Timeline    segment.Timeline
	SegmentSize segment.Size
	Runs        []Run // in rising order, each after a gap
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
	for info, err := range s.List(ctx, object.ArchiveDir(sysid), "") {
		if err != nil {
			return nil, fmt.Errorf("list WAL: %w", err)
		}
		o, ok := object.ParseKey(info.Key)
		if !ok {
			o, ok = object.ParseNote(sysid, info.Key)
		}
		name := o.Name
		if !ok {
			if name, ok = object.LostName(sysid, info.Key); !ok {
				continue
			}
		}
		tli, err := segment.TimelineOf(name)
		if err != nil {
			continue
		}
		if len(all) == 0 || all[len(all)-1].Timeline != tli {
			all = append(all, &Survey{Timeline: tli, SegmentSize: size})
		}
		v := all[len(all)-1]
		switch o.Type {
		case segment.Invalid:
			err = v.addLost(ctx, s, info.Key)
		case segment.Full:
			v.add(o, info)
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

func (v *Survey) add(o object.Object, info storage.Info) {
	seg, err := segment.ParseName(o.Name, v.SegmentSize)
	if err != nil {
		return
	}
	v.Segments++
	v.Stored += info.Size
	if v.Oldest.IsZero() || info.Created.Before(v.Oldest) {
		v.Oldest = info.Created
	}
	if info.Created.After(v.Newest) {
		v.Newest = info.Created
	}
	if n := len(v.Runs); n > 0 && v.Runs[n-1].Last+1 == seg.No {
		v.Runs[n-1].Last = seg.No
		return
	}
	v.Runs = append(v.Runs, Run{seg.No, seg.No})
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
	seg, ok := v.lastPiece()
	if n := len(v.Runs); !ok || n > 0 && v.Runs[n-1].Last+1 != seg.No {
		return segment.Segment{}, 0
	}
	_, reach := partial.Chain(v.PiecesOf(seg.Name(v.SegmentSize)))
	return seg, reach
}

// lastPiece is the last segment of which there are pieces.
func (v *Survey) lastPiece() (segment.Segment, bool) {
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

// Gaps are the gaps of a timeline, and those on the way to it from the nearest ancestor of which there are segments, which
// tells of what lies before. A timeline needs its parent's segments up to the one before it begins, and its own from there.
// What came before the oldest segment of the whole line of descent was deleted, and is none.
func Gaps(all []*Survey, v *Survey) []Gap {
	var gaps []Gap
	runs := v.Runs
	if seg, ok := v.lastPiece(); ok && (len(runs) == 0 || seg.No > runs[len(runs)-1].Last) {
		runs = append(slices.Clone(runs), Run{seg.No, seg.No}) // it is not complete, but what lies before it is missing
	}
	for i := 1; i < len(runs); i++ {
		if first, next := runs[i-1].Last+1, runs[i].First; first < next {
			gaps = append(gaps, v.gap(first, next-1))
		}
	}
	if len(runs) > 0 {
		gaps = append(gaps, v.gapsBefore(all, runs[0].First)...)
	}
	slices.SortFunc(gaps, func(a, b Gap) int { return strings.Compare(a.First, b.First) })
	return gaps
}

// gapsBefore are those on the way to the timeline's segment no.
func (v *Survey) gapsBefore(all []*Survey, no uint64) (gaps []Gap) {
	line := make([]stretch, len(v.Lineage))
	oldest := len(line) // of which there is something
	for i := len(line) - 1; i >= 0; i-- {
		if line[i] = v.stretch(all, v.Lineage[i]); line[i].any() {
			oldest = i
		}
	}
	for i := len(line) - 1; i >= oldest; i-- {
		a := line[i]
		if a.end < no {
			gaps = append(gaps, v.gap(a.end, no-1))
		}
		v, no = a.Survey, a.end
		if a.any() {
			no = a.Runs[0].First
			if last := a.Runs[len(a.Runs)-1].Last; last+1 < a.end {
				gaps = append(gaps, a.gap(last+1, a.end-1))
			}
		}
		if len(a.Runs) > 0 && a.Lineage != nil {
			break
		}
	}
	return gaps
}

// stretch is the part of an ancestor that leads to a timeline: its segments before end.
type stretch struct {
	*Survey
	end uint64
}

// stretch is an ancestor's, also where nothing of it is in the archive.
func (v *Survey) stretch(all []*Survey, a segment.Ancestor) stretch {
	end := segment.At(a.Timeline, a.Switch, v.SegmentSize).No
	if i := slices.IndexFunc(all, func(s *Survey) bool { return s.Timeline == a.Timeline }); i >= 0 {
		return stretch{all[i], end}
	}
	return stretch{&Survey{Timeline: a.Timeline, SegmentSize: v.SegmentSize}, end}
}

// any says whether there is a segment of it.
func (s stretch) any() bool { return len(s.Runs) > 0 && s.Runs[0].First < s.end }

func (v *Survey) gap(first, last uint64) Gap {
	h := Gap{Timeline: v.Timeline, First: v.Name(first), Last: v.Name(last), Count: int64(last - first + 1)}
	for _, l := range v.Lost {
		if l.First <= h.First && h.Last <= l.Last {
			h.Acknowledged, h.Reason = true, l.Reason
		}
	}
	return h
}

// Name is a segment of the timeline by its number.
func (v *Survey) Name(no uint64) string {
	return segment.Segment{Timeline: v.Timeline, No: no}.Name(v.SegmentSize)
}

// Reach is the last segment that recovery gets to without a gap, from segment no of timeline from towards timeline
// to, which is from or a descendant of it. False when not even the first one is there, or to is no descendant.
func Reach(all []*Survey, from segment.Timeline, no uint64, to *Survey) (segment.Segment, bool) {
	stretch := append(slices.Clone(to.Lineage), segment.Ancestor{Timeline: to.Timeline, Switch: ^segment.LSN(0)})
	i := slices.IndexFunc(stretch, func(a segment.Ancestor) bool { return a.Timeline == from })
	if i < 0 {
		return segment.Segment{}, false
	}
	last, found := segment.Segment{}, false
	for ; i < len(stretch); i++ {
		end := ^uint64(0) // the last segment that is needed of this timeline
		if i < len(stretch)-1 {
			end = segment.At(0, stretch[i].Switch, to.SegmentSize).No - 1
		}
		if no > end {
			continue // recovery begins in the child's first segment
		}
		v := slices.IndexFunc(all, func(v *Survey) bool { return v.Timeline == stretch[i].Timeline })
		if v < 0 {
			return last, found
		}
		r := slices.IndexFunc(all[v].Runs, func(r Run) bool { return r.First <= no && no <= r.Last })
		if r < 0 {
			return last, found
		}
		last, found = segment.Segment{Timeline: stretch[i].Timeline, No: min(end, all[v].Runs[r].Last)}, true
		if all[v].Runs[r].Last < end {
			return last, found
		}
		no = end + 1
	}
	return last, found
}
