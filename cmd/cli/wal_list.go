package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/survey"
)

type walList struct {
	JSON bool `name:"json" help:"Print JSON: an array of objects, one for each timeline."`
}

// listedWAL is a timeline as --json prints it.
type listedWAL struct {
	SystemID    uint64        `json:"system_id,string"`
	Timeline    uint32        `json:"timeline"`
	First       string        `json:"first"`
	Last        string        `json:"last"`
	Segments    int64         `json:"segments"`
	SegmentSize int64         `json:"segment_size"`
	Size        int64         `json:"size"`
	Stored      int64         `json:"stored"`
	Oldest      time.Time     `json:"oldest,omitzero"` // archived, by the store's clock; none where no segment is
	Newest      time.Time     `json:"newest,omitzero"`
	PerDay      int64         `json:"bytes_per_day"`
	History     bool          `json:"history"`
	Partial     bool          `json:"partial"`
	Receiving   string        `json:"receiving,omitempty"` // the segment that is not complete, of which so many bytes are stored
	Received    int64         `json:"received,omitempty"`
	Holes       []survey.Hole `json:"holes"`
}

// archive is the WAL of one incarnation, with what the catalog knows of it.
type archive struct {
	sysid   uint64
	surveys []*survey.Survey
	state   *catalog.State
}

// archives opens the store, reads the catalog and lists all WAL. An incarnation that has backups is there without WAL, too.
func (a *app) archives(ctx context.Context) (store storage.Store, all []archive, err error) {
	r, err := a.loadKnown(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range r.state.Problems {
		a.log.Warn("the catalog is damaged; backups may be missing", "problem", p)
	}
	ids, err := walstore.Incarnations(ctx, r.store)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range r.state.Complete() {
		if id := e.Commit.Summary.SystemID; !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	for _, id := range ids {
		surveys, err := survey.Examine(ctx, r.store, id, 0)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, archive{id, surveys, r.state})
	}
	return r.store, all, nil
}

// holes of a timeline, without those that a deletion made on purpose.
func (r archive) holes(v *survey.Survey) []survey.Hole {
	holes := []survey.Hole{}
	for _, h := range survey.Holes(r.surveys, v) {
		meant := false
		for _, w := range r.state.WAL {
			meant = meant || w.SystemID == r.sysid && w.First <= h.First && h.Last <= w.Last
		}
		if !meant {
			holes = append(holes, h)
		}
	}
	return holes
}

func (c *walList) Run(ctx context.Context, a *app) error {
	store, all, err := a.archives(ctx)
	if err != nil {
		return err
	}
	list := []listedWAL{}
	alarm := false
	for _, r := range all {
		for _, v := range r.surveys {
			l := r.listed(v)
			list = append(list, l)
			for _, h := range l.Holes {
				alarm = alarm || !h.Acknowledged
			}
		}
	}
	switch {
	case c.JSON:
		err = show.JSON(a.Out, list)
	case len(list) == 0:
		fmt.Fprintf(a.Err, "server %s has no WAL in %s\n", a.Server, store)
	default:
		err = walTable(a, list)
	}
	if err == nil && alarm {
		return &coded{exitWAL, nil}
	}
	return err
}

func (r archive) listed(v *survey.Survey) listedWAL {
	l := listedWAL{SystemID: r.sysid, Timeline: uint32(v.Timeline), Segments: v.Segments, SegmentSize: int64(v.SegmentSize),
		Size: v.Segments * int64(v.SegmentSize), Stored: v.Stored, Oldest: v.Oldest, Newest: v.Newest,
		History: v.History, Partial: v.Partial, Holes: r.holes(v)}
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

func walTable(a *app, list []listedWAL) error {
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SYSTEM ID\tTLI\tFIRST\tLAST\tSEGMENTS\tSIZE\tSTORED\tRATIO\tOLDEST (UTC)\tNEWEST (UTC)\tA DAY\tHOLES\tNOTE")
	for _, l := range list {
		var notes []string
		if l.Timeline > 1 && !l.History {
			notes = append(notes, "NO HISTORY FILE")
		}
		if l.Partial {
			notes = append(notes, "ends with a .partial")
		}
		if l.Received > 0 {
			notes = append(notes, fmt.Sprintf("and %s of %s", show.Size(l.Received), l.Receiving))
		}
		var ratio, perDay, oldest, newest string
		if l.Stored > 0 {
			ratio = fmt.Sprintf("%.1f", float64(l.Size)/float64(l.Stored))
		}
		if l.PerDay > 0 {
			perDay = show.Size(l.PerDay)
		}
		if l.Segments > 0 {
			oldest, newest = l.Oldest.UTC().Format(time.DateTime), l.Newest.UTC().Format(time.DateTime)
		}
		fmt.Fprintf(w, "%d\t%d\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", l.SystemID, l.Timeline, l.First, l.Last, l.Segments, show.Size(l.Size), show.Size(l.Stored), ratio,
			oldest, newest, perDay, len(l.Holes), strings.Join(notes, ", "))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	told := map[survey.Hole]bool{} // several timelines may begin behind the same hole
	for _, l := range list {
		for _, h := range l.Holes {
			if !told[h] {
				fmt.Fprintln(a.Out, describeHole(h))
			}
			told[h] = true
		}
	}
	return nil
}

func describeHole(h survey.Hole) string {
	text := fmt.Sprintf("hole on timeline %d: %s", h.Timeline, h.First)
	if h.Last != h.First {
		text += fmt.Sprintf(" to %s (%s)", h.Last, show.Number(h.Count, "segment"))
	}
	if h.Acknowledged {
		text += ", acknowledged: " + h.Reason
	}
	return text
}
