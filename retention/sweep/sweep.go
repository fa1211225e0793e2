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
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/retention"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/segment"
)

// requests is how many run at the same time.
const requests = 16

// Request says what is to be deleted where.
type Request struct {
	Store   storage.Store // rooted at the server's folder
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
	First, Last string // names; Last is "" when a range that stays has no end
	Files       int
	Bytes       int64
	Held        int // files that would go, but are younger than Request.Hold
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
		p, err := make1(ctx, r)
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

func make1(ctx context.Context, r Request) (*Plan, error) {
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
	return decide(ctx, r, state, g)
}

func newPlan(r Request, state *catalog.State) *Plan {
	return &Plan{Order: r.Order, N: state.N, Frees: map[string]int64{}, Unpurged: slices.Clone(state.Unpurged), state: state}
}

// decide makes the plan from what has been gathered.
func decide(ctx context.Context, r Request, state *catalog.State, g *gathered) (_ *Plan, err error) {
	p := newPlan(r, state)
	p.doubt = len(g.history.Unreadable) > 0
	if p.Plan, err = retention.Decide(r.Order, g.history, r.Now()); err != nil {
		return p, err
	}
	p.Delete.Backups = p.Dropped()
	if err := p.leftovers(ctx, r); err != nil {
		return p, err
	}
	if err := p.parts(ctx, r, g); err != nil {
		return p, err
	}
	return p, p.wal(ctx, r, g)
}

// gathered is what is known of a repository.
type gathered struct {
	history retention.History
	refs    map[string]map[string]catalog.Ranges // by backup: the parts that it refers to
	unknown []uint64                             // incarnations that there is WAL of, but no server record
}

func gather(ctx context.Context, r Request, state *catalog.State) (*gathered, error) {
	g := &gathered{refs: map[string]map[string]catalog.Ranges{}}
	g.history = retention.History{State: state, Timelines: map[uint64]map[segment.Timeline]segment.Lineage{}, Unreadable: map[string]string{}}
	var mu sync.Mutex
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(requests)
	for _, e := range state.Complete() {
		group.Go(func() error {
			refs, err := references(gctx, r, e)
			mu.Lock()
			defer mu.Unlock()
			g.refs[e.ID] = refs
			if errors.Is(err, catalog.ErrDamaged) || errors.Is(err, catalog.ErrNewer) {
				g.history.Unreadable[e.ID] = err.Error()
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	ids, err := walstore.Incarnations(ctx, r.Store)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if !slices.ContainsFunc(state.Servers, func(s catalog.Server) bool { return s.SystemID == id }) {
			g.unknown = append(g.unknown, id)
			continue
		}
		if g.history.Timelines[id], err = timelines(ctx, r.Store, id); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// references are the parts that a backup refers to, as few numbers: there may be many such lists.
func references(ctx context.Context, r Request, e *catalog.Entry) (map[string]catalog.Ranges, error) {
	b, err := r.Catalog.Backup(ctx, e)
	if err != nil {
		return nil, err
	}
	numbers := map[string][]int{}
	for _, p := range b.Parts {
		backup, no, err := part.ParseName(p.Name)
		if err != nil {
			return nil, fmt.Errorf("%w: backup %s: %w", catalog.ErrDamaged, e.ID, err)
		}
		numbers[backup] = append(numbers[backup], no)
	}
	refs := map[string]catalog.Ranges{}
	for backup, n := range numbers {
		refs[backup] = catalog.NewRanges(n)
	}
	return refs, nil
}

// timelines of an incarnation with their lines of descent. One whose history is not there, or damaged, is
// unknown: then what it may descend from stays.
func timelines(ctx context.Context, s storage.Store, sysid uint64) (map[segment.Timeline]segment.Lineage, error) {
	all, err := walstore.Timelines(ctx, s, sysid)
	if err != nil {
		return nil, err
	}
	out := map[segment.Timeline]segment.Lineage{}
	for _, tli := range all {
		out[tli] = nil
		if tli == 1 {
			continue
		}
		lineage, err := walstore.ReadHistory(ctx, s, sysid, tli)
		switch kind := storage.KindOf(err); {
		case err == nil:
			out[tli] = lineage
		case errors.Is(err, storage.ErrNotFound), errors.Is(err, walstore.ErrDamaged):
		case kind != storage.KindOther:
			return nil, err
		}
	}
	return out, nil
}

// thorough says whether the whole repository is listed for what a run that was stopped may have left.
func thorough(k retention.Kind) bool { return k == retention.Garbage || k == retention.Everything }

// candidate is a part that may go.
type candidate struct {
	retention.Part
	size  int64
	owner string // whom the freed bytes are counted for
}

// parts condemns those that no backup refers to any more. Those of complete backups are known from backup.json;
// a listing only tells which parts runs without a commit have left.
func (p *Plan) parts(ctx context.Context, r Request, g *gathered) error {
	doomed := map[string]bool{}
	for _, id := range p.Delete.Backups {
		doomed[id] = true
	}
	var found []candidate
	for _, d := range slices.Backward(p.Backups) {
		if !doomed[d.ID] {
			continue
		}
		more, err := p.stored(ctx, r, g, d.Entry)
		if err != nil {
			return err
		}
		found = append(found, more...)
	}
	if thorough(p.Order.Kind) {
		more, err := p.listed(ctx, r, "")
		if err != nil {
			return err
		}
		found = append(found, more...)
	}
	var union partSet
	for id, refs := range g.refs {
		if !doomed[id] {
			union.add(refs)
		}
	}
	parts := make([]retention.Part, len(found))
	for i, c := range found {
		parts[i] = c.Part
	}
	p.Delete.Parts = retention.Condemn(parts, union.has, retention.Protected(&p.Plan, g.history))
	p.count(found)
	return nil
}

// leftovers finds descriptions of backups that are deleted in the log: a run that was taken for dead, and was not,
// has written them after its deletion.
func (p *Plan) leftovers(ctx context.Context, r Request) error {
	if !thorough(p.Order.Kind) {
		return nil
	}
	ids, err := r.Catalog.Described(ctx)
	if err != nil {
		return err
	}
	status := map[string]catalog.Status{}
	for _, e := range p.state.Entries {
		status[e.ID] = e.Status
	}
	for _, id := range ids {
		switch status[id] {
		case catalog.Deleted:
			p.Delete.Backups = append(p.Delete.Backups, id)
		case "":
			p.Unknown = append(p.Unknown, id)
		}
	}
	return nil
}

// stored are the parts that a backup which goes refers to, or, when it cannot tell, has stored.
func (p *Plan) stored(ctx context.Context, r Request, g *gathered, e *catalog.Entry) ([]candidate, error) {
	if e.Status != catalog.Complete || g.history.Unreadable[e.ID] != "" {
		return p.listed(ctx, r, e.ID)
	}
	b, err := r.Catalog.Backup(ctx, e)
	if err != nil {
		return nil, err
	}
	var out []candidate
	for _, x := range b.Parts {
		backup, no, err := part.ParseName(x.Name)
		if err != nil {
			return nil, err
		}
		out = append(out, candidate{retention.Part{Backup: backup, Number: no}, x.Size, e.ID})
	}
	return out, nil
}

// listed are the parts that a listing finds, of one backup or of all that the log knows.
func (p *Plan) listed(ctx context.Context, r Request, backup string) ([]candidate, error) {
	known := map[string]bool{}
	for _, e := range p.state.Entries {
		known[e.ID] = true
	}
	var out []candidate
	for x, err := range part.List(ctx, r.Store, backup) {
		if err != nil {
			return nil, err
		}
		if !known[x.Backup] && p.Order.Kind != retention.Everything {
			if !slices.Contains(p.Unknown, x.Backup) {
				p.Unknown = append(p.Unknown, x.Backup)
			}
			continue
		}
		out = append(out, candidate{retention.Part{Backup: x.Backup, Number: x.Number}, x.Size, x.Backup})
	}
	return out, nil
}

// count adds up what the condemned parts free: each once, for the newest backup that goes with it.
func (p *Plan) count(found []candidate) {
	seen := map[retention.Part]bool{}
	for _, c := range found {
		if !seen[c.Part] && p.Delete.Parts[c.Backup].Contains(c.Number) {
			seen[c.Part] = true
			p.Parts++
			p.Bytes += c.size
			p.Frees[c.owner] += c.size
		}
	}
}

// partSet is a set of parts.
type partSet map[string][]uint64 // bits by the backup that stored them

func (u *partSet) add(refs map[string]catalog.Ranges) {
	if *u == nil {
		*u = partSet{}
	}
	for _, backup := range slices.Sorted(maps.Keys(refs)) {
		bits := (*u)[backup]
		for _, x := range refs[backup] {
			bits = append(bits, make([]uint64, max(0, x.Last/64+1-len(bits)))...)
			for n := x.First; n <= x.Last; n++ {
				bits[n/64] |= 1 << (n % 64)
			}
		}
		(*u)[backup] = bits
	}
}

func (u partSet) has(p retention.Part) bool {
	bits := u[p.Backup]
	return p.Number/64 < len(bits) && bits[p.Number/64]&(1<<(p.Number%64)) != 0
}

// wal looks at what there is in the ranges that go. A listing finds what can be removed; what may be removed was
// decided before.
func (p *Plan) wal(ctx context.Context, r Request, g *gathered) error {
	for _, w := range p.Plan.WAL {
		out, condemn, err := p.rangeOf(ctx, r, w)
		if err != nil {
			return err
		}
		p.WAL = append(p.WAL, out)
		p.Bytes += out.Bytes
		p.Delete.WAL = append(p.Delete.WAL, condemn...)
	}
	if p.Order.Kind != retention.Everything {
		return nil
	}
	for _, sysid := range g.unknown {
		all, err := walstore.Timelines(ctx, r.Store, sysid)
		if err != nil {
			return err
		}
		for _, tli := range all {
			out, condemn, err := p.rangeOf(ctx, r, retention.WAL{SystemID: sysid, Timeline: tli, To: retention.End, Reason: "everything goes"})
			if err != nil {
				return err
			}
			p.WAL = append(p.WAL, out)
			p.Bytes += out.Bytes
			p.Delete.WAL = append(p.Delete.WAL, condemn...)
		}
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

// rangeOf finds what is in a range that goes, and what of it is to be condemned.
func (p *Plan) rangeOf(ctx context.Context, r Request, w retention.WAL) (out WAL, condemn []catalog.WALRange, err error) {
	out = WAL{WAL: w, First: name(w, w.From)}
	if w.To != retention.End {
		out.Last = name(w, w.To)
	}
	if w.Keep {
		return out, nil, nil
	}
	after := ""
	if w.From > 0 {
		after = name(w, w.From-1)
	}
	all := p.Order.Kind == retention.Everything
	last, before := "", "" // of the segments that are found, and the one before it
	for o, err := range walstore.List(ctx, r.Store, w.SystemID, w.Timeline, after) {
		if err != nil {
			return out, nil, err
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
