package sweep_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/pgobj/pgobj/backup/rebuild"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/retention"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/storagetest"
)

// rebuild mends the catalog, and looks whether that held: the log can be written to, what it lists is sound, and there
// is nothing left to mend.
func (s *fakeServer) rebuild(t *testing.T, store storage.Store) *rebuild.Plan {
	t.Helper()
	c := catalog.New(store, "rebuild", s.now)
	plan, err := rebuild.NewPlan(t.Context(), store, c)
	if err != nil {
		t.Fatal(err)
	}
	if !plan.Empty() {
		if err := plan.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	sound(t, store)
	if again, err := rebuild.NewPlan(t.Context(), store, c); err != nil || !again.Empty() {
		t.Errorf("after a rebuild there is still to do: %+v, %v", again.Found, err)
	}
	return plan
}

// goesOn takes one more backup, deletes one and all garbage: nothing may be missing then.
func (s *fakeServer) goesOn(t *testing.T, store storage.Store) {
	t.Helper()
	if err := s.push(t.Context(), store, "after", false); err != nil {
		t.Error(err)
		return
	}
	if _, err := s.remove(t.Context(), store, "after", retention.Order{Kind: retention.Oldest}); err != nil {
		t.Error(err)
	}
	tidy(t, s, store)
}

func (s *fakeServer) lose(t *testing.T, store storage.Store, prefix, suffix string) {
	t.Helper()
	for _, key := range objects(t, store, prefix) {
		if strings.HasSuffix(key, suffix) {
			if err := store.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func fates(p *rebuild.Plan) map[string]rebuild.Fate {
	out := map[string]rebuild.Fate{}
	for _, f := range p.Found {
		out[f.Backup] = f.Fate
	}
	return out
}

func TestRebuildWithoutLog(t *testing.T) {
	s, full := seeded(t, 4)
	if _, err := s.remove(t.Context(), full, "me", retention.Order{Kind: retention.Oldest}); err != nil {
		t.Fatal(err)
	}
	before := sound(t, full)
	ids := listed(before)
	for name, c := range map[string]struct {
		lose []string // prefix and suffix
		fate rebuild.Fate
	}{
		"the log":                       {[]string{"catalog/", ""}, rebuild.Back},
		"the log and every backup.json": {[]string{"catalog/", "", "backups/", "/backup.json"}, rebuild.Described},
		"every backup.json":             {[]string{"backups/", "/backup.json"}, rebuild.Described},
	} {
		t.Run(name, func(t *testing.T) {
			store := clone(t, full)
			for i := 0; i < len(c.lose); i += 2 {
				s.lose(t, store, c.lose[i], c.lose[i+1])
			}
			plan := s.rebuild(t, store)
			after := sound(t, store)
			if !slices.Equal(listed(after), ids) {
				t.Fatalf("listed are %q, want %q", listed(after), ids)
			}
			for _, id := range ids {
				if got := fates(plan)[id]; got != c.fate {
					t.Errorf("%s: %q, want %q", id, got, c.fate)
				}
				was, is := before.Entry(id).Commit.Summary, after.Entry(id).Commit.Summary
				if was.SystemID != is.SystemID || was.StartLSN != is.StartLSN || was.StopLSN != is.StopLSN || was.FirstWAL != is.FirstWAL || was.LastWAL != is.LastWAL ||
					was.Timeline != is.Timeline || was.Size != is.Size || was.Files != is.Files || is.Consistent.Before(was.Consistent) {
					t.Errorf("%s was\n%+v, is\n%+v", id, was, is)
				}
			}
			s.goesOn(t, store)
		})
	}
}

// Without anything but the parts a backup that stored all itself is whole; of one that took over the description of
// what had not changed, that is not known any more.
func TestRebuildFromParts(t *testing.T) {
	s, store := seeded(t, 3)
	if err := s.push(t.Context(), store, "full", true); err != nil {
		t.Fatal(err)
	}
	ids := listed(sound(t, store))
	s.lose(t, store, "catalog/", "")
	s.lose(t, store, "backups/", "")
	plan := s.rebuild(t, store)
	if f := fates(plan); f[ids[3]] != rebuild.Described || f[ids[0]] != rebuild.Described {
		t.Errorf("full backups %s and %s: %v", ids[0], ids[3], f)
	}
	got := listed(sound(t, store))
	for _, f := range plan.Found {
		if there := slices.Contains(got, f.Backup); there != (f.Fate == rebuild.Described) || !there && f.Fate != rebuild.Unknown {
			t.Errorf("%+v, listed are %q", f, got)
		}
	}
	s.goesOn(t, store)
}

// A record that is damaged or lost hides nothing after a rebuild, and brings nothing back that is not whole.
func TestRebuildWithDamagedRecord(t *testing.T) {
	s, full := seeded(t, 3)
	if _, err := s.remove(t.Context(), full, "me", retention.Order{Kind: retention.Oldest}); err != nil {
		t.Fatal(err)
	}
	want := listed(sound(t, full))
	s.lose(t, full, "catalog/checkpoints/", "")
	records := objects(t, full, "catalog/log/")
	for i, key := range records {
		for _, how := range []string{"damaged", "lost"} {
			t.Run(fmt.Sprint(how, " ", i+1), func(t *testing.T) {
				store := clone(t, full)
				data, err := storage.ReadAll(t.Context(), store, key, 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				if err := store.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
				if how == "damaged" {
					if err := store.Put(t.Context(), key, bytes.NewReader(data[:len(data)/2]), int64(len(data)/2)); err != nil {
						t.Fatal(err)
					}
				}
				s.rebuild(t, store)
				if got := listed(sound(t, store)); !slices.Equal(got, want) {
					t.Errorf("listed are %q, want %q", got, want)
				}
				s.goesOn(t, store)
			})
		}
	}
}

// What a backup reuses stands in its begin record. When that is lost, a later deletion must not take it for one that
// reuses nothing, however long ago it was: only the newest backups are looked at each time.
func TestRebuildKnowsWhatIsReused(t *testing.T) {
	s, full := seeded(t, 3)
	ids := listed(sound(t, full))
	r := rand.New(rand.NewPCG(9, 9))
	s.change(t, r, 2)
	for i := range 1 + looked {
		if err := s.push(t.Context(), full, fmt.Sprint("night", i), i == 0); err != nil {
			t.Fatal(err)
		}
		s.change(t, r, 0.1)
	}
	s.lose(t, full, "catalog/checkpoints/", "")
	for _, lost := range []int{1, 2} {
		t.Run(fmt.Sprint("backup ", lost), func(t *testing.T) {
			store := clone(t, full)
			for _, key := range objects(t, store, "catalog/log/") {
				data, err := storage.ReadAll(t.Context(), store, key, 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(string(data), `"begin":{"backup":"`+ids[lost]+`"`) {
					s.lose(t, store, key, "")
				}
			}
			if plan := s.rebuild(t, store); len(plan.Problems) == 0 {
				t.Fatal("no record was lost")
			}
			if _, err := s.remove(t.Context(), store, "me", retention.Order{Kind: retention.Target, Backup: ids[lost-1]}); err != nil {
				t.Fatal(err)
			}
			sound(t, store)
		})
	}
}

// Of which cluster the backups are stands in a record, too.
func TestRebuildKnowsTheCluster(t *testing.T) {
	s, store := seeded(t, 2)
	want := sound(t, store).Servers
	s.lose(t, store, "catalog/log/0000000001", ".json")
	s.lose(t, store, "catalog/checkpoints/", "")
	s.rebuild(t, store)
	if got := sound(t, store).Servers; len(want) != 1 || len(got) != 1 || got[0].SystemID != want[0].SystemID || got[0].SegmentSize != want[0].SegmentSize {
		t.Errorf("clusters are %+v, want %+v", got, want)
	}
}

// What the log still says of deletions holds: a backup whose objects are all there, because the deletion was stopped,
// does not come back, and the deletion is finished by the next one.
func TestRebuildKeepsWhatIsCondemned(t *testing.T) {
	s, store := seeded(t, 3)
	ids := listed(sound(t, store))
	stopped := storagetest.NewFaulty(store, storagetest.Fault{When: storagetest.Named("delete")})
	if _, err := s.remove(t.Context(), stopped, "me", retention.Order{Kind: retention.Oldest}); err == nil {
		t.Fatal("the deletion was not stopped")
	}
	s.lose(t, store, "catalog/log/0000000003", ".json") // the first commit
	s.lose(t, store, "catalog/checkpoints/", "")
	s.rebuild(t, store)
	state := sound(t, store)
	if !slices.Equal(listed(state), ids[1:]) || len(state.Unpurged) != 1 {
		t.Errorf("listed are %q, %d deletions not done; want %q and one", listed(state), len(state.Unpurged), ids[1:])
	}
	s.goesOn(t, store)
	if _, err := store.Stat(t.Context(), "backups/"+ids[0]+"/backup.json"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("the deletion was not finished: %v", err)
	}
}

// A log that has lost its newest records only looks shorter, but what it does not know shows.
func TestLogThatIsCutOff(t *testing.T) {
	s, store := seeded(t, 3)
	ids := listed(sound(t, store))
	c := catalog.New(store, "reader", s.now)
	if strange, err := c.Strangers(t.Context(), sound(t, store)); err != nil || len(strange) > 0 {
		t.Errorf("a whole log: %q, %v", strange, err)
	}
	records := objects(t, store, "catalog/log/")
	for _, key := range records[len(records)-2:] {
		s.lose(t, store, key, "")
	}
	if strange, err := c.Strangers(t.Context(), sound(t, store)); err != nil || !slices.Equal(strange, ids[2:]) {
		t.Errorf("without the last backup's records: %q, %v, want %q", strange, err, ids[2:])
	}
	s.rebuild(t, store)
	if got := listed(sound(t, store)); !slices.Equal(got, ids) {
		t.Errorf("listed are %q, want %q", got, ids)
	}
	s.goesOn(t, store)
}

// What a newer pgobj has written is neither mended nor in the way of the rest: a part that no backup refers to, and a
// list of a manifest, in whose place one of this version would hide what only the newer one says.
func TestRebuildLeavesWhatIsNewer(t *testing.T) {
	const stranger = "20260101T000000Z-ffff"
	s, full := seeded(t, 2)
	ids := listed(sound(t, full))
	newer := func(t *testing.T, store storage.Store, from, to string, edit func([]byte) []byte) {
		t.Helper()
		data, err := storage.ReadAll(t.Context(), store, from, 64<<20)
		if err == nil {
			err = store.Delete(t.Context(), to)
		}
		if data = edit(data); err == nil {
			err = store.Put(t.Context(), to, bytes.NewReader(data), int64(len(data)))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	version2 := func(part []byte) []byte { // in the trailer's 72 bytes: magic, length, mark, version
		part[len(part)-72+16] = 2
		return part
	}
	newer(t, full, objects(t, full, "parts/"+ids[0])[0], "parts/"+stranger+"/00001.tar.zst", version2)

	t.Run("a part that nobody refers to", func(t *testing.T) {
		for _, lost := range []string{"", "catalog/"} {
			store := clone(t, full)
			if lost != "" {
				s.lose(t, store, lost, "")
			}
			plan := s.rebuild(t, store)
			i := slices.IndexFunc(plan.Found, func(f rebuild.Found) bool { return f.Backup == stranger })
			if i < 0 || plan.Found[i].Fate != rebuild.Unknown || !strings.Contains(plan.Found[i].Why, "has format version 2") {
				t.Errorf("without %q: %+v", lost, plan.Found)
			}
			if got := listed(sound(t, store)); !slices.Equal(got, ids) {
				t.Errorf("without %q listed are %q, want %q", lost, got, ids)
			}
		}
	})
	t.Run("a manifest's list", func(t *testing.T) {
		store, c := clone(t, full), catalog.New(full, "newer", s.now)
		s.lose(t, store, "catalog/", "")
		key := catalog.ManifestKey(ids[0])
		var list []byte
		newer(t, store, key, key, func(data []byte) []byte {
			dec, _ := zstd.NewReader(nil)
			enc, _ := zstd.NewWriter(nil)
			raw, err := dec.DecodeAll(data, nil)
			if err != nil {
				t.Fatal(err)
			}
			list = enc.EncodeAll(bytes.Replace(raw, []byte(`"version":1`), []byte(`"version":2`), 1), nil)
			return list
		})
		b, _, err := c.ReadBackup(t.Context(), ids[0])
		if err != nil {
			t.Fatal(err)
		}
		b.Manifest = catalog.Object{Size: int64(len(list)), SHA256: fmt.Sprintf("%x", sha256.Sum256(list))}
		if _, err := catalog.New(store, "newer", s.now).ReplaceBackup(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if f := fates(s.rebuild(t, store)); f[ids[0]] != rebuild.Lost || f[ids[1]] != rebuild.Back {
			t.Errorf("it says %v", f)
		}
		if now, err := storage.ReadAll(t.Context(), store, key, 64<<20); err != nil || !bytes.Equal(now, list) {
			t.Errorf("the list was replaced: %v", err)
		}
	})
}

func TestRebuildAgainstAnother(t *testing.T) {
	s, store := seeded(t, 2)
	c := catalog.New(store, "rebuild", s.now)
	if plan, err := rebuild.NewPlan(t.Context(), store, c); err != nil || !plan.Empty() || plan.Same != 2 {
		t.Errorf("a catalog without faults: %+v, %v", plan, err)
	}
	s.lose(t, store, "backups/"+listed(sound(t, store))[0], "/backup.json")
	plan, err := rebuild.NewPlan(t.Context(), store, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.push(t.Context(), store, "another", false); err != nil {
		t.Fatal(err)
	}
	if err := plan.Run(t.Context()); !errors.Is(err, catalog.ErrMoved) {
		t.Errorf("somebody has written meanwhile: %v, want %v", err, catalog.ErrMoved)
	}
	s.rebuild(t, store)
	if got := listed(sound(t, store)); len(got) != 3 {
		t.Errorf("listed are %q, want three", got)
	}
}
