package app

import (
	"context"
	"slices"
	"time"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/survey"
)

// ListedWAL is a timeline as --json prints it.
type ListedWAL struct {
	SystemID    uint64       `json:"system_id,string"`
	Timeline    uint32       `json:"timeline"`
	First       string       `json:"first"`
	Last        string       `json:"last"`
	Segments    int64        `json:"segments"`
	SegmentSize int64        `json:"segment_size"`
	Size        int64        `json:"size"`
	Stored      int64        `json:"stored"`
	Oldest      time.Time    `json:"oldest,omitzero"` // archived, by the store's clock; none where no segment is
	Newest      time.Time    `json:"newest,omitzero"`
	PerDay      int64        `json:"bytes_per_day"`
	History     bool         `json:"history"`
	Partial     bool         `json:"partial"`
	Receiving   string       `json:"receiving,omitempty"` // the segment that is not complete, of which so many bytes are stored
	Received    int64        `json:"received,omitempty"`
	Gaps        []survey.Gap `json:"gaps"`
}

// Archive is the WAL of one incarnation, with what the catalog knows of it.
type Archive struct {
	Sysid   uint64
	Surveys []*survey.Survey
	State   *catalog.State
}

// Archives opens the store, reads the catalog and lists all WAL. An incarnation that has backups is there without WAL, too.
func (a *App) Archives(ctx context.Context) (store storage.Store, all []Archive, err error) {
	r, err := a.LoadKnown(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range r.State.Problems {
		a.Log.Warn("the catalog is damaged; backups may be missing", "problem", p)
	}
	ids, err := walstore.Incarnations(ctx, r.Store)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range r.State.Complete() {
		if id := e.Commit.Summary.SystemID; !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	for _, id := range ids {
		surveys, err := survey.Examine(ctx, r.Store, id, 0)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, Archive{id, surveys, r.State})
	}
	return r.Store, all, nil
}

// Gaps of a timeline, without those that a deletion made on purpose.
func (r Archive) Gaps(v *survey.Survey) []survey.Gap {
	gaps := []survey.Gap{}
	for _, h := range survey.Gaps(r.Surveys, v) {
		meant := false
		for _, w := range r.State.WAL {
			meant = meant || w.SystemID == r.Sysid && w.First <= h.First && h.Last <= w.Last
		}
		if !meant {
			gaps = append(gaps, h)
		}
	}
	return gaps
}

func (r Archive) Listed(v *survey.Survey) ListedWAL {
	l := ListedWAL{SystemID: r.Sysid, Timeline: uint32(v.Timeline), Segments: v.Segments, SegmentSize: int64(v.SegmentSize),
		Size: v.Segments * int64(v.SegmentSize), Stored: v.Stored, Oldest: v.Oldest, Newest: v.Newest,
		History: v.History, Partial: v.Partial, Gaps: r.Gaps(v)}
	if n := len(v.Runs); n > 0 {
		l.First, l.Last = v.Name(v.Runs[0].First), v.Name(v.Runs[n-1].Last)
	}
	if seg, reach := v.Received(); reach > 0 {
		l.Receiving, l.Received = seg.Name(v.SegmentSize), reach
	}
	if took := v.Newest.Sub(v.Oldest); took >= time.Minute {
		l.PerDay = int64(float64(l.Size) * float64(24*time.Hour) / float64(took))
	}
	return l
}
