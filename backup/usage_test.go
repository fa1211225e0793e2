package backup

import (
	"slices"
	"testing"

	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/catalog"
)

// A backup.json that was lost comes back with the same parts as before: what a backup keeps alive of each decides on what
// later ones reuse.
func TestLiveIsTheSameAfterARebuild(t *testing.T) {
	x := newMemSite(t)
	same := random(7, 2*part.ChunkSize)
	for _, db := range []string{"1", "4", "5"} { // as template databases are
		x.write("base/"+db+"/2600", same)
	}
	x.write("base/5/16384", random(1, 40*part.ChunkSize))
	before := []*catalog.Backup{x.mustPush(nil)}
	for night := range 2 {
		x.rewritePages("base/5/16384", 40, uint64(night+1)<<40)
		before = append(before, x.mustPush(nil))
	}
	capped := 0
	for _, b := range before {
		for _, p := range b.Parts {
			if p.Live == p.Raw {
				capped++
			}
		}
		if err := x.store.Delete(t.Context(), catalog.BackupKey(b.ID)); err != nil {
			t.Fatal(err)
		}
	}
	if capped == 0 {
		t.Fatal("no part is referred to more than once: this shows nothing")
	}
	plan, err := PlanRebuild(t.Context(), x.store, x.catalog())
	if err == nil {
		err = plan.Run(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	state, err := x.catalog().Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range before {
		after, err := x.catalog().Backup(t.Context(), state.Entry(b.ID))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(after.Parts, b.Parts) {
			t.Errorf("backup %s refers to\n%+v, before the rebuild it was\n%+v", b.ID, after.Parts, b.Parts)
		}
	}
}
