// Package sweep gathers what a retention decision is made from, makes a plan of it, and carries the plan out:
// the log condemns first, objects are removed after, and what was left undone by a run that was stopped is
// finished by the next one. It refuses to decide: that is package retention's.
package sweep

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/retention"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// requests is how many run at the same time.
const requests = 16

// Request says what is to be deleted where.
type Request struct {
	Store   storage.Store // rooted at the server's directory
	Catalog *catalog.Catalog
	Order   retention.Order
	// Hold is how long WAL stays in any case, by the store's clock: a standby may be catching up from the archive.
	Hold time.Duration
	Now  func() time.Time
	Log  *slog.Logger
}

// Plan is what Execute will do.
type Plan struct {
	retention.Plan
	Order    retention.Order
	N        int64            // of the last record of the log that it was made from
	Delete   catalog.Delete   // the record that the log gets; empty when there is nothing to do
	WAL      []WAL            // every range of WAL, with what is in those that go
	Frees    map[string]int64 // bytes of parts by the backup that is the last to refer to them, or has stored them
	Parts    int
	Bytes    int64              // of parts and WAL
	Unpurged []catalog.Unpurged // earlier deletions that have to be finished
	Unknown  []string           // backups whose parts are stored, although the log does not speak of them
	state    *catalog.State
	doubt    bool // something could not be read
}

// WAL is a range with what was found in it.
type WAL struct {
	retention.WAL
	First string `json:"first"`          // names
	Last  string `json:"last,omitempty"` // "" when a range that stays has no end
	Files int    `json:"files,omitempty"`
	Bytes int64  `json:"bytes,omitempty"`
	Held  int    `json:"held,omitempty"` // files that would go, but are younger than Request.Hold
}

// Empty says that there is nothing to delete.
func (p *Plan) Empty() bool {
	return len(p.Delete.Backups) == 0 && len(p.Delete.Parts) == 0 && len(p.Delete.WAL) == 0
}

// ID names what the plan deletes: another plan with the same name deletes the same.
func (p *Plan) ID() string {
	data, err := json.Marshal(p.Delete) // maps are written in the order of their keys
	if err != nil {
		panic(err) // numbers and strings can always be encoded
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:6])
}

// Make makes the plan. Nothing is changed. When retention refuses the order, the plan tells the reasons all the
// same, and deletes nothing.
func Make(ctx context.Context, r Request) (*Plan, error) {
	for {
		p, err := planOnce(ctx, r)
		if err == nil && !p.doubt || p == nil {
			return p, err
		}
		// What cannot be read may have been deleted meanwhile: then the log has gone on, and tells.
		state, loadErr := r.Catalog.Load(ctx)
		if loadErr != nil {
			return nil, loadErr
		}
		if state.N == p.N {
			return p, err
		}
	}
}

func planOnce(ctx context.Context, r Request) (*Plan, error) {
	state, err := r.Catalog.Load(ctx)
	if err != nil {
		return nil, err
	}
	if err := state.Writable(); err != nil {
		return nil, err
	}
	g, err := gather(ctx, r, state)
	if err != nil {
		return newPlan(r, state), err
	}
	return planFrom(ctx, r, g)
}

func newPlan(r Request, state *catalog.State) *Plan {
	return &Plan{Order: r.Order, N: state.N, Frees: map[string]int64{}, Unpurged: slices.Clone(state.Unpurged), state: state}
}

// planFrom makes the plan from what has been gathered.
func planFrom(ctx context.Context, r Request, g *gathered) (_ *Plan, err error) {
	p := newPlan(r, g.state)
	p.Plan, err = g.decide(ctx, r)
	p.doubt = g.bad() > 0
	if err != nil {
		return p, err
	}
	p.Delete.Backups = p.Dropped()
	p.leftovers(g)
	if err := p.parts(ctx, r, g); err != nil {
		return p, err
	}
	return p, p.wal(ctx, r, g)
}

// timelines of an incarnation. One whose history is not there, or damaged, is an orphan: then what it may descend from
// stays.
func timelines(ctx context.Context, s storage.Store, sysid uint64) (timeline.Tree, error) {
	return walstore.ReadTree(ctx, s, sysid, func(err error) bool {
		return errors.Is(err, storage.ErrUnreadable) || errors.Is(err, object.ErrDamaged) || storage.KindOf(err) == storage.KindOther
	})
}

// thorough says whether the whole repository is listed for what a run that was stopped may have left.
func thorough(k retention.Kind) bool { return k == retention.Garbage || k == retention.Everything }

// candidate is a part that may go.
type candidate struct {
	retention.Part
	size  int64
	owner string // whom the freed bytes are counted for
}

// parts condemns those that no backup refers to any more. Those of complete backups are known from backup.json,
// as far as gathered has had to look; a listing only tells which parts runs without a commit have left.
func (p *Plan) parts(ctx context.Context, r Request, g *gathered) error {
	doomed := map[string]bool{}
	for _, id := range p.Delete.Backups {
		doomed[id] = true
	}
	known := partSet{} // what the backups that stay refer to, and what has been found
	for id, refs := range g.refs {
		if !doomed[id] {
			known.addAll(refs)
		}
	}
	var found []candidate
	add := func(c candidate) {
		if !known.has(c.Part) {
			known.add(c.Backup, catalog.Ranges{{First: c.Number, Last: c.Number}})
			found = append(found, c)
		}
	}
	for _, d := range slices.Backward(p.Backups) {
		if !doomed[d.ID] {
			continue
		}
		if err := p.stored(ctx, r, g, d.Entry, add); err != nil {
			return err
		}
	}
	if thorough(p.Order.Kind) {
		if err := p.listed(ctx, r, "", add); err != nil {
			return err
		}
	}
	parts := make([]retention.Part, len(found))
	for i, c := range found {
		parts[i] = c.Part
	}
	p.Delete.Parts = retention.Condemn(parts, retention.Protected(&p.Plan, g.history))
	p.count(found)
	return nil
}

// leftovers finds descriptions of backups that are deleted in the log: a run that was taken for dead, and was not,
// has written them after its deletion.
func (p *Plan) leftovers(g *gathered) {
	if !thorough(p.Order.Kind) {
		return
	}
	for _, d := range g.described {
		switch e := p.state.Entry(d.ID); {
		case e == nil:
			p.Unknown = append(p.Unknown, d.ID)
		case e.Status == catalog.Deleted:
			p.Delete.Backups = append(p.Delete.Backups, d.ID)
		}
	}
}

// stored adds the parts that a backup which goes refers to, or, when it cannot tell, has stored.
func (p *Plan) stored(ctx context.Context, r Request, g *gathered, e *catalog.Entry, add func(candidate)) error {
	if e.Status != catalog.Complete || g.history.Unreadable[e.ID] != "" {
		return p.listed(ctx, r, e.ID, add)
	}
	for backup, ranges := range g.refs[e.ID] {
		for _, x := range ranges {
			for no := x.First; no <= x.Last; no++ {
				p := retention.Part{Backup: backup, Number: no}
				add(candidate{p, g.sizes.of(p), e.ID})
			}
		}
	}
	return nil
}

// listed adds the parts that a listing finds, of one backup or of all that the log knows.
func (p *Plan) listed(ctx context.Context, r Request, backup string, add func(candidate)) error {
	for x, err := range part.List(ctx, r.Store, backup) {
		if err != nil {
			return err
		}
		if p.state.Entry(x.Backup) == nil && p.Order.Kind != retention.Everything {
			if !slices.Contains(p.Unknown, x.Backup) {
				p.Unknown = append(p.Unknown, x.Backup)
			}
			continue
		}
		add(candidate{retention.Part{Backup: x.Backup, Number: x.Number}, x.Size, x.Backup})
	}
	return nil
}

// count adds up what the condemned parts free: each for the newest backup that goes with it, which found it first.
func (p *Plan) count(found []candidate) {
	for _, c := range found {
		if p.Delete.Parts[c.Backup].Contains(c.Number) {
			p.Parts++
			p.Bytes += c.size
			p.Frees[c.owner] += c.size
		}
	}
}

// wal looks at what there is in the ranges that go. A listing finds what can be removed; what may be removed was
// decided before.
func (p *Plan) wal(ctx context.Context, r Request, g *gathered) error {
	ranges := slices.Clone(p.Plan.WAL)
	if p.Order.Kind == retention.Everything {
		for _, sysid := range g.unknown {
			all, err := walstore.Timelines(ctx, r.Store, sysid)
			if err != nil {
				return err
			}
			for _, tli := range all {
				ranges = append(ranges, retention.WAL{SystemID: sysid, Timeline: tli, To: retention.End, Reason: "everything goes"})
			}
		}
	}
	for _, w := range ranges {
		out, condemn, err := p.rangeOf(ctx, r, w)
		if err != nil {
			return err
		}
		p.WAL = append(p.WAL, out)
		p.Bytes += out.Bytes
		p.Delete.WAL = append(p.Delete.WAL, condemn...)
	}
	return nil
}

// name of segment no of a timeline. Size is 0 only for what no server record tells, of which all goes.
func name(w retention.WAL, no uint64) string {
	if w.Size == 0 {
		return w.Timeline.Hex() + "0000000000000000"
	}
	return segment.Segment{Timeline: w.Timeline, No: no}.Name(w.Size)
}

// condemned says whether earlier deletions have taken the whole range. What came later, delete garbage finds.
func (p *Plan) condemned(w retention.WAL, x WAL) bool {
	return x.Last != "" && slices.ContainsFunc(p.state.WAL, func(c catalog.WALRange) bool {
		return c.SystemID == w.SystemID && c.First <= x.First && x.Last <= c.Last && c.First[:8] == x.First[:8]
	})
}

// rangeOf finds what is in a range that goes, and what of it is to be condemned.
func (p *Plan) rangeOf(ctx context.Context, r Request, w retention.WAL) (out WAL, condemn []catalog.WALRange, err error) {
	out = WAL{WAL: w, First: name(w, w.From)}
	if w.To != retention.End {
		out.Last = name(w, w.To)
	}
	if w.Keep || !thorough(p.Order.Kind) && p.condemned(w, out) {
		return out, nil, nil
	}
	after := ""
	if w.From > 0 {
		after = name(w, w.From-1)
	}
	all := p.Order.Kind == retention.Everything
	last, before := "", "" // of the segments that are found, and the one before it
	for o, err := range walstore.ListAll(ctx, r.Store, w.SystemID, w.Timeline, after) {
		if err != nil {
			return out, nil, err
		}
		if o.Type == segment.Invalid { // of what is lost
			continue
		}
		if o.Type == segment.History {
			if all {
				condemn = append(condemn, catalog.WALRange{SystemID: w.SystemID, First: o.Name, Last: o.Name})
				out.Files, out.Bytes = out.Files+1, out.Bytes+o.Size
			}
			continue
		}
		seg := o.Name[:24]
		if out.Last != "" && seg > out.Last {
			break
		}
		if out.Held > 0 || !all && r.Hold > 0 && r.Now().Sub(o.Created) < r.Hold {
			if out.Held++; seg == last {
				last = before // its .backup or .partial alone is older
			}
			continue
		}
		if seg != last {
			last, before = seg, last
		}
		out.Files, out.Bytes = out.Files+1, out.Bytes+o.Size
	}
	if out.Held > 0 || out.Last == "" {
		out.Last = last
	}
	if last != "" {
		condemn = append(condemn, catalog.WALRange{SystemID: w.SystemID, First: out.First, Last: out.Last})
	}
	slices.SortFunc(condemn, func(a, b catalog.WALRange) int { return cmp.Compare(a.First, b.First) })
	return out, condemn, nil
}
