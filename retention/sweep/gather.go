package sweep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/retention"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// looked is how many of the newest backups have their backup.json read each time: those that policies count are
// among them. That those of the others are there, a listing tells.
const looked = 64

// gathered is what is known of a repository.
type gathered struct {
	state     *catalog.State
	described []catalog.Described // what a listing finds
	history   retention.History
	refs      map[string]map[string]catalog.Ranges // by backup: the parts that it refers to, of those that were looked at
	sizes     partSizes                            // of these parts
	unknown   []uint64                             // incarnations that there is WAL of, but no server record

	stored present         // parts that were looked for
	held   map[string]bool // backups whose parts were
}

func gather(ctx context.Context, r Request, state *catalog.State) (*gathered, error) {
	g := &gathered{state: state, refs: map[string]map[string]catalog.Ranges{}, sizes: partSizes{}}
	g.history = retention.History{State: state, Timelines: map[uint64]timeline.Tree{}, Unreadable: map[string]string{}}
	var err error
	if g.described, err = r.Catalog.Described(ctx, ""); err != nil {
		return nil, err
	}
	g.history.Damaged, g.stored, g.held = map[string]string{}, present{}, map[string]bool{}
	if err := g.missing(ctx, r); err != nil {
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

// missing finds the complete backups whose backup.json or manifest is gone. The listing only says where to look.
func (g *gathered) missing(ctx context.Context, r Request) error {
	whole := map[string]bool{}
	for _, d := range g.described {
		whole[d.ID] = d.JSON && d.Manifest
	}
	var doubtful []*catalog.Entry
	for _, e := range g.state.Complete() {
		if !whole[e.ID] {
			doubtful = append(doubtful, e)
		}
	}
	if err := g.look(ctx, r, doubtful); err != nil {
		return err
	}
	for _, e := range doubtful {
		_, err := r.Store.Stat(ctx, catalog.ManifestKey(e.ID))
		if errors.Is(err, storage.ErrNotFound) {
			g.history.Unreadable[e.ID] = catalog.ManifestKey(e.ID) + " is missing"
		} else if err != nil {
			return err
		}
	}
	return nil
}

// decide decides, and looks at the backup.json of the backups that the decision and its consequences rest on.
// When one of them cannot be read, or is not whole, the decision is another.
func (g *gathered) decide(ctx context.Context, r Request) (retention.Plan, error) {
	for {
		plan, err := retention.Decide(r.Order, g.history, r.Now())
		before := g.bad()
		if lookErr := g.look(ctx, r, g.matter(r.Order, plan)); lookErr != nil {
			return plan, lookErr
		}
		if holdErr := g.verifyParts(ctx, r, plan); holdErr != nil {
			return plan, holdErr
		}
		if g.bad() == before {
			return plan, err
		}
	}
}

// bad is how many complete backups are known to be of no use.
func (g *gathered) bad() int { return len(g.history.Unreadable) + len(g.history.Damaged) }

// matter are the backups that have to be looked at: the newest ones; those that a rule counts, unless these are very
// many; those that go; and those that stay and may refer to the same parts as these.
//
// A backup refers to parts that it has stored itself, and to such that a backup which it reuses refers to or has
// stored. So those that refer to one part hang together by what they reuse, and on the way from one that goes
// to any that stays there is a first one that stays: that refers to the part, too.
func (g *gathered) matter(o retention.Order, plan retention.Plan) []*catalog.Entry {
	complete := g.state.Complete()
	if thorough(o.Kind) {
		return complete
	}
	out := slices.Clone(complete[max(0, len(complete)-looked):])
	if e := g.state.Entry(o.Backup); e != nil && e.Status == catalog.Complete {
		out = append(out, e)
	} else if o.Kind == retention.Oldest && len(complete) > 0 {
		out = append(out, complete[0])
	}
	var counted []*catalog.Entry
	for _, d := range plan.Backups {
		if d.Counts {
			counted = append(counted, d.Entry)
		}
	}
	if len(counted) <= 2*looked {
		out = append(out, counted...)
	}
	near := map[string][]string{}
	for _, e := range g.state.Entries {
		for _, id := range e.Begin.Reuses {
			near[e.ID] = append(near[e.ID], id)
			near[id] = append(near[id], e.ID)
		}
	}
	seen, stays := map[string]bool{}, map[string]bool{}
	for _, d := range plan.Backups {
		stays[d.ID] = d.Keep && d.Entry.Status == catalog.Complete
	}
	next := plan.Dropped()
	for len(next) > 0 {
		id := next[len(next)-1]
		next = next[:len(next)-1]
		if seen[id] {
			continue
		}
		seen[id] = true
		if e := g.state.Entry(id); e != nil && e.Status == catalog.Complete {
			out = append(out, e)
		}
		if !stays[id] {
			next = append(next, near[id]...)
		}
	}
	return out
}

// look reads the backup.json of those that have not been looked at.
func (g *gathered) look(ctx context.Context, r Request, entries []*catalog.Entry) error {
	var mu sync.Mutex
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(requests)
	asked := map[string]bool{}
	for _, e := range entries {
		mu.Lock()
		_, done := g.refs[e.ID]
		mu.Unlock()
		if done || asked[e.ID] {
			continue
		}
		asked[e.ID] = true
		group.Go(func() error {
			refs, sizes, err := references(gctx, r, e)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				g.refs[e.ID] = refs
				g.sizes.merge(sizes)
			}
			if errors.Is(err, catalog.ErrDamaged) || errors.Is(err, catalog.ErrNewer) {
				g.refs[e.ID], g.history.Unreadable[e.ID] = nil, err.Error()
				return nil
			}
			return err
		})
	}
	return group.Wait()
}

// references are the parts that a backup refers to, as few numbers, and their sizes: there may be many such lists.
func references(ctx context.Context, r Request, e *catalog.Entry) (map[string]catalog.Ranges, partSizes, error) {
	refs, sizes := map[string]*catalog.Ranges{}, partSizes{}
	var bad error
	_, err := r.Catalog.Parts(ctx, e, func(p catalog.Part) {
		backup, no, err := part.ParseName(p.Name)
		if err != nil {
			bad = fmt.Errorf("%w: backup %s: %w", catalog.ErrDamaged, e.ID, err)
			return
		}
		ranges := refs[backup]
		if ranges == nil {
			ranges = &catalog.Ranges{}
			refs[backup] = ranges
		}
		ranges.Add(no)
		sizes.set(backup, no, p.Size)
	})
	out := map[string]catalog.Ranges{}
	for backup, ranges := range refs {
		out[backup] = *ranges
	}
	return out, sizes, cmp.Or(err, bad)
}

// partSizes are the sizes of parts by backup and number, 64 numbers at a time: that takes little more than the sizes.
type partSizes map[string]map[int]*[64]int64

func (s partSizes) set(backup string, no int, size int64) {
	blocks := s[backup]
	if blocks == nil {
		blocks = map[int]*[64]int64{}
		s[backup] = blocks
	}
	block := blocks[no>>6]
	if block == nil {
		block = new([64]int64)
		blocks[no>>6] = block
	}
	block[no&63] = size
}

func (s partSizes) of(p retention.Part) int64 {
	if block := s[p.Backup][p.Number>>6]; block != nil {
		return block[p.Number&63]
	}
	return 0
}

// merge adds what others are known.
func (s partSizes) merge(others partSizes) {
	for backup, blocks := range others {
		if s[backup] == nil {
			s[backup] = blocks
			continue
		}
		for at, block := range blocks {
			have := s[backup][at]
			if have == nil {
				s[backup][at] = block
				continue
			}
			for i, size := range block {
				have[i] = cmp.Or(size, have[i])
			}
		}
	}
}

// partSet is a set of parts, as bits by the backup that stored them.
type partSet map[string]map[int]uint64

func (u partSet) add(backup string, ranges catalog.Ranges) {
	if u[backup] == nil {
		u[backup] = map[int]uint64{}
	}
	words := u[backup]
	for _, x := range ranges {
		for n := x.First; n <= x.Last; n++ {
			words[n>>6] |= 1 << (n & 63)
		}
	}
}

func (u partSet) addAll(refs map[string]catalog.Ranges) {
	for backup, ranges := range refs {
		u.add(backup, ranges)
	}
}

func (u partSet) has(p retention.Part) bool {
	return u[p.Backup][p.Number>>6]&(1<<(p.Number&63)) != 0
}
