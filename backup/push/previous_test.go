package push

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/mem"
	"github.com/pgobj/pgobj/storage/storagetest"
)

// What was in a part that is lost, or is cut off, the next backup stores again: it must not refer to it.
func TestLostPartsAreNotReused(t *testing.T) {
	for name, damage := range map[string]func(s storage.Store, key string) error{
		"missing": func(s storage.Store, key string) error { return s.Delete(t.Context(), key) },
		"cut off": func(s storage.Store, key string) error {
			data, err := storage.ReadAll(t.Context(), s, key, 1<<30)
			if err == nil {
				err = s.Delete(t.Context(), key)
			}
			if err == nil {
				err = s.Put(t.Context(), key, bytes.NewReader(data[:len(data)/2]), int64(len(data)/2))
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			x := newMemSite(t)
			for i := range 40 {
				x.write(fmt.Sprintf("base/5/%d", 16384+i), random(uint64(i), 1<<20))
			}
			first := x.mustPush(nil)
			if len(first.Parts) < 3 {
				t.Fatalf("%d parts are too few for this test", len(first.Parts))
			}
			// Every part in turn, so also that with lines of the manifest.
			for _, p := range first.Parts {
				if err := damage(x.store, part.Key(p.Name)); err != nil {
					t.Fatal(err)
				}
				b := x.mustPush(nil)
				if slices.ContainsFunc(b.Parts, func(u catalog.Part) bool { return u.Name == p.Name }) {
					t.Errorf("it refers to %s", p.Name)
				}
				if _, err := x.verify(b.ID); err != nil {
					t.Errorf("without %s: %v", p.Name, err)
				}
				if len(b.Warnings) > 0 && !strings.Contains(b.Warnings[0], p.Name) {
					t.Errorf("warnings %q, want one that names %s", b.Warnings, p.Name)
				}
				dir := x.fetch(b.ID)
				for i := range 40 {
					if got, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("base/5/%d", 16384+i))); err != nil || !bytes.Equal(got, random(uint64(i), 1<<20)) {
						t.Errorf("file %d came back changed: %v", i, err)
					}
				}
			}
		})
	}
}

// Looking for the parts takes one listing for each backup that has stored some of them.
func TestPartsAreLookedForInFewRequests(t *testing.T) {
	faulty := storagetest.NewFaulty(mem.New())
	x := newSite(t, faulty)
	for i := range 3 {
		for k := range 10 {
			x.write(fmt.Sprintf("base/5/%d%d", 16384+i, k), random(uint64(10*i+k), 1<<20))
		}
		x.mustPush(nil)
	}
	before := len(faulty.Ops())
	b := x.mustPush(nil)
	from, lists := map[string]bool{}, 0
	for _, p := range b.Parts {
		id, _, _ := strings.Cut(p.Name, "/")
		from[id] = true
	}
	for _, op := range faulty.Ops()[before:] {
		if op.Name == "list" && strings.HasPrefix(op.Key, part.Key("")) {
			lists++
		}
	}
	if lists != 3 || len(from) < 3 {
		t.Errorf("%d listings of parts for those of %d backups", lists, len(from))
	}
}
