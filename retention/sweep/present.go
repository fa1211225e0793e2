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
)

// present is what a listing has found, by the backup that stored it and in the order of the numbers: an empty list where
// nothing was.
type present map[string][]sized

// sized is a part by its number.
type sized struct {
	number int
	size   int64
}

func (s sized) compare(number int) int { return cmp.Compare(s.number, number) }

// list finds the parts of those backups that have not been listed.
func (p present) list(ctx context.Context, s storage.Store, backups []string) error {
	backups = slices.DeleteFunc(backups, func(id string) bool { return p[id] != nil })
	if len(backups) == 0 {
		return nil
	}
	for _, id := range backups {
		p[id] = []sized{}
	}
	for x, err := range part.ListOf(ctx, s, backups) {
		if err != nil {
			return err
		}
		p[x.Backup] = append(p[x.Backup], sized{x.Number, x.Size})
	}
	for _, id := range backups { // keys come in another order from number 100,000 on
		slices.SortFunc(p[id], func(a, b sized) int { return a.compare(b.number) })
	}
	return nil
}

// has says whether a part was found with its size.
func (p present) has(x retention.Part, size int64) bool {
	all := p[x.Backup]
	i, ok := slices.BinarySearchFunc(all, x.Number, sized.compare)
	return ok && all[i].size == size
}

// verifyParts holds the backups for which others may go against what there is: one that lacks a part cannot be restored, and must
// not push out others. Of those that have not been looked at it says nothing.
func (g *gathered) verifyParts(ctx context.Context, r Request, plan retention.Plan) error {
	var entries []*catalog.Entry
	var owners []string
	for _, d := range plan.Backups {
		if refs := g.refs[d.ID]; d.Counts && refs != nil && !g.held[d.ID] {
			g.held[d.ID] = true
			entries = append(entries, d.Entry)
			for owner := range refs {
				owners = append(owners, owner)
			}
		}
	}
	if err := g.stored.list(ctx, r.Store, owners); err != nil {
		return err
	}
	var mu sync.Mutex
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(requests)
	for _, e := range entries {
		if g.whole(e.ID) {
			continue
		}
		group.Go(func() error {
			what, err := g.lacks(gctx, r, e)
			if what != "" {
				mu.Lock()
				defer mu.Unlock()
				g.history.Damaged[e.ID] = what
			}
			return err
		})
	}
	return group.Wait()
}

// whole says whether all parts that a backup refers to were found.
func (g *gathered) whole(id string) bool {
	for owner, ranges := range g.refs[id] {
		for _, x := range ranges {
			for no := x.First; no <= x.Last; no++ {
				if p := (retention.Part{Backup: owner, Number: no}); !g.stored.has(p, g.sizes.of(p)) {
					return false
				}
			}
		}
	}
	return true
}

// lacks says which part of a backup is not there as it should be. The listing only says where to look.
func (g *gathered) lacks(ctx context.Context, r Request, e *catalog.Entry) (string, error) {
	var doubtful []catalog.Part
	var bad error
	_, err := r.Catalog.Parts(ctx, e, func(x catalog.Part) {
		owner, no, err := part.ParseName(x.Name)
		if err != nil {
			bad = fmt.Errorf("%w: backup %s: %w", catalog.ErrDamaged, e.ID, err)
		} else if !g.stored.has(retention.Part{Backup: owner, Number: no}, x.Size) {
			doubtful = append(doubtful, x)
		}
	})
	if err = cmp.Or(err, bad); err != nil {
		return "", err
	}
	for _, x := range doubtful {
		switch info, err := r.Store.Stat(ctx, part.Key(x.Name)); {
		case errors.Is(err, storage.ErrNotFound):
			return part.Key(x.Name) + " is missing", nil
		case err != nil:
			return "", err
		case info.Size != x.Size:
			return fmt.Sprintf("%s has %d bytes instead of %d", part.Key(x.Name), info.Size, x.Size), nil
		}
	}
	return "", nil
}
