package sweep

import (
	"context"
	"errors"
	"slices"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/retention"
)

// Weight is what a complete backup costs, and what would become of it.
type Weight struct {
	Space
	// Policy is what the policy says of the backup; nil without one.
	Policy *retention.Decision
}

// Space is what the backup occupies.
type Space struct {
	Refers  int64  `json:"refers"` // stored bytes of the parts that it refers to
	Alone   int64  `json:"alone"`  // of those that no other complete backup refers to
	Frees   int64  `json:"frees"`  // what deleting it would free: parts and WAL. 0 when Refused
	Refused string `json:"refused,omitempty"`
}

// Weigh weighs a complete backup against all others, by the same means as a deletion: r.Order gives the limits, and
// when it is ByPolicy the policy. Nothing is changed.
func Weigh(ctx context.Context, r Request, state *catalog.State, b *catalog.Backup) (Weight, error) {
	var w Weight
	g, err := gather(ctx, r, state)
	if err != nil {
		return w, err
	}
	if r.Order.Kind == retention.ByPolicy {
		plan, err := g.decide(ctx, r)
		if err != nil {
			return w, err
		}
		if i := slices.IndexFunc(plan.Backups, func(d retention.Decision) bool { return d.ID == b.ID }); i >= 0 {
			w.Policy = &plan.Backups[i]
		}
	}
	r.Order.Kind, r.Order.Backup = retention.Target, b.ID
	plan, err := planFrom(ctx, r, g)
	if errors.Is(err, retention.ErrRefused) {
		w.Refused, err = err.Error(), nil
	}
	if err != nil {
		return w, err
	}
	w.Frees = plan.Bytes
	return w, w.parts(ctx, r, g, plan.Plan, b)
}

// parts weighs those that the backup refers to. Refused or not, it is taken for the only one that goes: so g looks at
// whoever may share parts with it.
func (w *Weight) parts(ctx context.Context, r Request, g *gathered, plan retention.Plan, b *catalog.Backup) error {
	plan.Backups = slices.Clone(plan.Backups)
	for i := range plan.Backups {
		plan.Backups[i].Keep = plan.Backups[i].ID != b.ID
	}
	if err := g.look(ctx, r, g.matter(r.Order, plan)); err != nil {
		return err
	}
	others := partSet{}
	for id, refs := range g.refs {
		if id != b.ID {
			others.addAll(refs)
		}
	}
	for backup, ranges := range g.refs[b.ID] {
		for _, x := range ranges {
			for no := x.First; no <= x.Last; no++ {
				p := retention.Part{Backup: backup, Number: no}
				w.Refers += g.sizes.of(p)
				if !others.has(p) {
					w.Alone += g.sizes.of(p)
				}
			}
		}
	}
	return nil
}
