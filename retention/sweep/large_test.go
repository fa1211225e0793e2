package sweep_test

import (
	"testing"
	"time"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/retention"
	"github.com/pgobj/pgobj/retention/sweep"
	"github.com/pgobj/pgobj/test/largerepo"
)

// looked is how many of the newest backups a plan always reads.
const looked = 64

// TestRequestsOfLargeRepositories: what a list and a nightly policy run ask the storage must not grow with the age of
// the repository.
func TestRequestsOfLargeRepositories(t *testing.T) {
	const backups, segments = 10_000, 2_000_000
	large, err := largerepo.New(t.Context(), backups, segments)
	if err != nil {
		t.Fatal(err)
	}
	requests := func(f func() error) largerepo.Requests {
		t.Helper()
		n, err := large.Store.Count(f)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	request := func(p retention.Policy) sweep.Request {
		return sweep.Request{Store: large.Store, Catalog: large.Catalog, Order: retention.Order{Kind: retention.ByPolicy, Policy: p, Minimum: 1, Running: time.Hour}, Now: large.Now, Log: discard}
	}
	var state *catalog.State
	n := requests(func() (err error) {
		state, err = large.Catalog.Load(t.Context())
		return err
	})
	t.Logf("list: %+v", n)
	if n.Sum() > 15 || len(state.Complete()) != backups {
		t.Errorf("a list of %d backups, of which %d are found, takes %+v", backups, len(state.Complete()), n)
	}
	n = requests(func() error {
		b, err := large.Catalog.Backup(t.Context(), state.Entries[backups/2])
		if err != nil {
			return err
		}
		w, err := sweep.Weigh(t.Context(), request(retention.Policy{Redundancy: backups}), state, b)
		if err == nil && (w.Refers == 0 || w.Policy == nil || !w.Policy.Keep) {
			t.Errorf("%+v", w)
		}
		return err
	})
	t.Logf("weigh one: %+v", n)
	if n.Gets > looked+10 || n.Sum()-n.Gets > 20+10 {
		t.Errorf("to weigh one of %d backups takes %+v", backups, n)
	}
	for _, c := range []struct {
		policy       string
		drops        int
		gets, others int64 // to make the plan
		execute      int64
	}{
		// To carry it out, the description of each that goes is asked for locks, too.
		// A day's worth goes: those, their nearest neighbours, and the newest ones are read.
		{"REDUNDANCY 9976", 24, 24 + 64 + 10, 20 + 10 + 10, 24 + 24 + 30},
		// All but a few go at once: then what they refer to has to be read.
		{"keep daily 14 weekly 8 monthly 12", 9946, backups + 100, 20 + segments/1000, 2*backups + 2*segments/1000},
	} {
		p, err := retention.ParsePolicy(c.policy)
		if err != nil {
			t.Fatal(err)
		}
		var plan *sweep.Plan
		n := requests(func() error {
			plan, err = sweep.Make(t.Context(), request(p))
			return err
		})
		t.Logf("%s: %d backups and %d parts go, %+v", c.policy, len(plan.Delete.Backups), plan.Parts, n)
		if len(plan.Delete.Backups) != c.drops || plan.Parts == 0 || n.Gets > c.gets || n.Sum()-n.Gets > c.others {
			t.Errorf("%s: %d backups and %d parts go, want %d backups; it takes %+v, want at most %d gets and %d others", c.policy, len(plan.Delete.Backups), plan.Parts, c.drops, n, c.gets, c.others)
		}
		want := int64(2*c.drops + plan.Parts)
		for _, w := range plan.WAL {
			want += int64(w.Files)
		}
		var result sweep.Result
		n = requests(func() error {
			result, err = sweep.Execute(t.Context(), request(p), plan)
			return err
		})
		t.Logf("%s, carried out: %d objects go, %+v", c.policy, result.Removed, n)
		if result.Removed != want || n.Sum() > c.execute {
			t.Errorf("%s, carried out: %d objects go, want %d; it takes %+v, want at most %d", c.policy, result.Removed, want, n, c.execute)
		}
	}
}
