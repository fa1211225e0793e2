package sweep_test

import (
	"testing"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/retention"
	"github.com/pgobj/pgobj/retention/sweep"
	"github.com/pgobj/pgobj/storage"
)

// bytesOf adds up what is below some prefixes.
func bytesOf(t *testing.T, s storage.Store, prefixes ...string) (n int64) {
	t.Helper()
	for _, p := range prefixes {
		for info, err := range s.List(t.Context(), p, "") {
			if err != nil {
				t.Fatal(err)
			}
			n += info.Size
		}
	}
	return n
}

// What Weigh says that a deletion frees, it frees.
func TestWeigh(t *testing.T) {
	s, store := seeded(t, 6)
	state := sound(t, store)
	policy, err := retention.ParsePolicy("redundancy 2")
	if err != nil {
		t.Fatal(err)
	}
	complete := state.Complete()
	shared := false
	for i, e := range complete {
		b, err := catalog.New(store, "x", s.now).Backup(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		r := s.request(store, "me", retention.Order{Kind: retention.ByPolicy, Policy: policy})
		w, err := sweep.Weigh(t.Context(), r, state, b)
		if err != nil {
			t.Fatal(err)
		}
		var refers int64
		for _, p := range b.Parts {
			refers += p.Size
		}
		if w.Refers != refers || w.Alone > refers {
			t.Errorf("backup %d: %+v, its parts have %d bytes", i, w, refers)
		}
		shared = shared || w.Alone < refers && w.Alone > 0
		if keep := i >= len(complete)-2; w.Policy == nil || w.Policy.ID != e.ID || w.Policy.Keep != keep || len(w.Policy.Reasons) == 0 {
			t.Errorf("backup %d of %d: the policy says %+v", i, len(complete), w.Policy)
		}
		if i == len(complete)-1 {
			if w.Refused == "" || w.Frees != 0 {
				t.Errorf("the newest good backup: %+v, want that its deletion is refused", w)
			}
			continue
		}
		copied := clone(t, store)
		if _, err := s.remove(t.Context(), copied, "me", retention.Order{Kind: retention.Target, Backup: e.ID}); err != nil {
			t.Fatal(err)
		}
		if got := bytesOf(t, store, "parts/") - bytesOf(t, copied, "parts/"); w.Alone != got {
			t.Errorf("backup %d alone has %d bytes, its deletion freed %d of parts", i, w.Alone, got)
		}
		if got := bytesOf(t, store, "parts/", "wal/") - bytesOf(t, copied, "parts/", "wal/"); w.Frees != got || w.Refused != "" {
			t.Errorf("backup %d: %+v, its deletion freed %d", i, w, got)
		}
	}
	if !shared {
		t.Error("no backup shares some of its parts and has others for itself: nothing was shown")
	}
}
