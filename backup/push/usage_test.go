package push

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/backup/rebuild"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/storagetest"
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
	plan, err := rebuild.NewPlan(t.Context(), x.store, x.catalog())
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

// What a backup says of where its content came from: from earlier backups, from itself, or from a run that is not complete.
func TestWhatWasThereIsCountedApart(t *testing.T) {
	x := newMemSite(t)
	same := random(7, 2*part.ChunkSize)
	for _, db := range []string{"1", "4", "5"} {
		x.write("base/"+db+"/2600", same)
	}
	first := x.mustPush(func(r *Request) { r.Workers = 1 }) // two may store the same at the same time
	if first.Reused != 0 || first.Repeated < int64(2*len(same)) {
		t.Errorf("the first backup of all reused %d bytes and repeated %d", first.Reused, first.Repeated)
	}
	if next := x.mustPush(nil); next.Reused < int64(3*len(same)) || next.Repeated >= int64(len(same)) {
		t.Errorf("the second reused %d bytes and repeated %d", next.Reused, next.Repeated)
	}
	for _, running := range []bool{false, true} {
		x := newMemSite(t)
		x.write("base/5/16384", random(1, 3*part.ChunkSize))
		real, manifests := x.store, 0
		x.store = storagetest.NewFaulty(real, storagetest.Fault{Mode: storagetest.Before, Kind: storage.KindDenied, When: func(op storagetest.Op) bool {
			if op.Name == "put" && strings.HasPrefix(op.Key, "backups/") {
				manifests++
			}
			return op.Name == "put" && manifests > 0 && (running || strings.HasPrefix(op.Key, "backups/")) // a running one is not entered as aborted
		}})
		if _, err := x.push(nil); err == nil {
			t.Fatal("the run that should fail did not")
		}
		x.store = real
		var log bytes.Buffer
		b := x.mustPush(func(r *Request) { r.Log = slog.New(slog.NewJSONHandler(&log, nil)) })
		want := `"status":"` + map[bool]string{true: "running", false: "aborted"}[running] + `"`
		if b.Adopted < 3*part.ChunkSize || !strings.Contains(log.String(), want) || strings.Contains(log.String(), "earlier run") == running {
			t.Errorf("%s: %d bytes were adopted: %s", want, b.Adopted, &log)
		}
	}
}
