package sweep_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/retention"
	"github.com/pgobj/pgobj/retention/sweep"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/storagetest"
)

func TestRetain(t *testing.T) {
	s, store := seeded(t, 5)
	before := len(objects(t, store, "parts/"))
	ids := listed(sound(t, store))
	r := s.request(store, "me", retention.Order{Kind: retention.Retain, N: 2})
	plan, err := sweep.Make(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(objects(t, store, "parts/")); got != before || len(listed(sound(t, store))) != 5 {
		t.Fatal("a plan alone has changed something")
	}
	if want := ids[:3]; !slices.Equal(plan.Delete.Backups, want) || plan.Parts == 0 || plan.Bytes == 0 {
		t.Errorf("plan: %+v, want %q to go", plan.Delete, want)
	}
	result, err := sweep.Execute(t.Context(), r, plan)
	if err != nil || len(result.Kept) > 0 {
		t.Fatal(result, err)
	}
	state := sound(t, store)
	if got := listed(state); !slices.Equal(got, ids[3:]) {
		t.Errorf("left are %q, want %q", got, ids[3:])
	}
	if got := len(objects(t, store, "parts/")); got != before-plan.Parts {
		t.Errorf("%d parts are left of %d, %d should have gone", got, before, plan.Parts)
	}
	// WAL from the start of the oldest backup on, and nothing else.
	first := state.Complete()[0].Commit.Summary.FirstWAL
	for i, key := range objects(t, store, "wal/") {
		if i == 0 && !strings.HasSuffix(key, first+".zst") {
			t.Errorf("the oldest WAL is %s, want %s", key, first)
		}
	}
	again, err := sweep.Make(t.Context(), r)
	if err != nil || !again.Empty() {
		t.Errorf("when all is done there is more to do: %+v, %v", again.Delete, err)
	}
	tidy(t, s, store)
}

// Objects with names that pgobj never gives a part are left alone: a record that condemned them could not be read.
func TestForeignPartsStay(t *testing.T) {
	s, store := seeded(t, 1)
	const id = "20261121T000000Z-0000" // of a run that failed
	for _, r := range []catalog.Record{{Type: "begin", Begin: &catalog.Begin{Backup: id}}, {Type: "abort", Abort: &catalog.Abort{Backup: id}}} {
		c := catalog.New(store, "x", s.now)
		state, err := c.Load(t.Context())
		if err == nil {
			_, err = c.Append(t.Context(), state, func(*catalog.State) (catalog.Record, error) { return r, nil })
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	before := len(objects(t, store, "parts/"))
	for _, of := range []string{id, listed(sound(t, store))[0]} {
		for _, name := range []string{"-0001.tar.zst", "00000.tar.zst", "900000000000000000.tar.zst", "00001.tar"} {
			if err := store.Put(t.Context(), "parts/"+of+"/"+name, strings.NewReader("x"), 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := s.remove(t.Context(), store, "me", retention.Order{Kind: retention.Garbage}); err != nil {
		t.Error(err)
	}
	sound(t, store)
	if got := len(objects(t, store, "parts/")); got != before+8 {
		t.Errorf("there are %d parts, want %d and the 8 foreign ones", got, before)
	}
}

// A part goes when the last backup that refers to it goes, also when others that were older went first.
func TestPartsGoWithTheLastThatNeedsThem(t *testing.T) {
	s, store := seeded(t, 4)
	for {
		state := sound(t, store)
		if len(listed(state)) == 1 {
			break
		}
		if _, err := s.remove(t.Context(), store, "me", retention.Order{Kind: retention.Oldest}); err != nil {
			t.Fatal(err)
		}
		before := objects(t, store, "parts/", "backups/", "wal/")
		tidy(t, s, store)
		if after := objects(t, store, "parts/", "backups/", "wal/"); !slices.Equal(before, after) {
			t.Errorf("deletion left garbage: %q, of which %q is needed", before, after)
		}
	}
	if _, err := s.remove(t.Context(), store, "me", retention.Order{Kind: retention.Oldest}); !errors.Is(err, retention.ErrRefused) {
		t.Errorf("the last good backup: %v, want %v", err, retention.ErrRefused)
	}
}

func TestEverything(t *testing.T) {
	s, store := seeded(t, 3)
	lost := fmt.Sprintf("wal/%d/00000001/000000010000000000000001-000000010000000000000003.lost", s.control.SystemID)
	for _, key := range []string{"wal/1/00000001/000000010000000000000001.zst", "wal/1/00000002/00000002.history.zst", "parts/20200101T000000Z-aaaa/00001.tar.zst",
		"backups/20200101T000000Z-aaaa/manifest.jsonl.zst", "backups/20200101T000000Z-bbbb/backup.json", lost} {
		if err := store.Put(t.Context(), key, strings.NewReader("x"), 1); err != nil {
			t.Fatal(err)
		}
	}
	state := sound(t, store)
	id := state.Committed[0]
	c := catalog.New(store, "me", s.now)
	pin := func(r catalog.Record) {
		if _, err := c.Append(t.Context(), state, func(*catalog.State) (catalog.Record, error) { return r, nil }); err != nil {
			t.Fatal(err)
		}
	}
	pin(catalog.Record{Type: "pin", Pin: &catalog.Pin{Backup: id}})
	if _, err := s.remove(t.Context(), store, "me", retention.Order{Kind: retention.Everything}); !errors.Is(err, retention.ErrRefused) || !strings.Contains(err.Error(), id) {
		t.Errorf("with a pin: %v", err)
	}
	pin(catalog.Record{Type: "unpin", Unpin: &catalog.Pin{Backup: id}})
	if _, err := s.remove(t.Context(), store, "me", retention.Order{Kind: retention.Everything}); err != nil {
		t.Fatal(err)
	}
	if left := objects(t, store, "parts/", "backups/", "wal/"); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
	if err := s.push(t.Context(), store, "again", false); err != nil {
		t.Errorf("the next backup: %v", err)
	}
	sound(t, store)
}

// A server that was set back to a snapshot goes through names of WAL that were deleted: its backups are refused before
// anything is copied, until it is past them.
func TestBackupOfAServerThatWasSetBack(t *testing.T) {
	s, store := seeded(t, 3)
	if _, err := s.remove(t.Context(), store, "me", retention.Order{Kind: retention.Everything}); err != nil {
		t.Fatal(err)
	}
	end := s.at.Load()
	s.at.Store(end - 3)
	if err := s.push(t.Context(), store, "back", false); !errors.Is(err, catalog.ErrWALDeleted) {
		t.Errorf("a backup that begins in deleted WAL: %v, want %v", err, catalog.ErrWALDeleted)
	}
	if stored := objects(t, store, "parts/"); len(stored) > 0 {
		t.Errorf("it has stored %q", stored)
	}
	s.at.Store(end)
	if err := s.push(t.Context(), store, "again", false); err != nil {
		t.Errorf("past the end of what was deleted: %v", err)
	}
	sound(t, store)
}

// What the catalog does not know is no garbage.
func TestUnknownStays(t *testing.T) {
	s, store := seeded(t, 2)
	keys := []string{"wal/77/00000001/000000010000000000000001.zst", "parts/20200101T000000Z-aaaa/00001.tar.zst", "parts/notes.txt"}
	for _, key := range keys {
		if err := store.Put(t.Context(), key, strings.NewReader("x"), 1); err != nil {
			t.Fatal(err)
		}
	}
	r := s.request(store, "me", retention.Order{Kind: retention.Garbage})
	plan, err := sweep.Make(t.Context(), r)
	if err != nil || !slices.Equal(plan.Unknown, []string{"20200101T000000Z-aaaa"}) {
		t.Errorf("unknown: %q, %v", plan.Unknown, err)
	}
	if _, err := sweep.Execute(t.Context(), r, plan); err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if _, err := store.Stat(t.Context(), key); err != nil {
			t.Error(err)
		}
	}
}

func TestPlanThatIsNotTrueAnyMore(t *testing.T) {
	s, store := seeded(t, 4)
	r := s.request(store, "me", retention.Order{Kind: retention.Retain, N: 2})
	plan, err := sweep.Make(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	c := catalog.New(store, "other", s.now)
	state := sound(t, store)
	id := plan.Delete.Backups[1]
	if _, err := c.Append(t.Context(), state, func(*catalog.State) (catalog.Record, error) {
		return catalog.Record{Type: "pin", Pin: &catalog.Pin{Backup: id}}, nil
	}); err != nil {
		t.Fatal(err)
	}
	before := objects(t, store, "")
	if _, err := sweep.Execute(t.Context(), r, plan); !errors.Is(err, sweep.ErrChanged) {
		t.Errorf("after a pin: %v, want %v", err, sweep.ErrChanged)
	}
	if after := objects(t, store, ""); !slices.Equal(before, after) {
		t.Error("something has changed")
	}
	// What makes no difference to the plan does not stop it.
	if plan, err = sweep.Make(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Append(t.Context(), sound(t, store), func(*catalog.State) (catalog.Record, error) {
		return catalog.Record{Type: "pin", Pin: &catalog.Pin{Backup: listed(sound(t, store))[3]}}, nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := sweep.Execute(t.Context(), r, plan); err != nil {
		t.Error(err)
	}
	if _, err := c.Load(t.Context()); err != nil || sound(t, store).Entry(id).Status != catalog.Complete {
		t.Errorf("the pinned backup is gone (%v)", err)
	}
}

// guarded is a store that does not let some objects go.
type guarded struct{ storage.Store }

func (g guarded) Delete(ctx context.Context, keys ...string) error {
	return storage.DeleteEach(keys, func(key string) error {
		if strings.HasSuffix(key, "manifest.jsonl.zst") || strings.HasPrefix(key, "wal/") {
			return &storage.Error{Op: "delete", Key: key, Store: g.String(), Kind: storage.KindDenied}
		}
		return g.Store.Delete(ctx, key)
	})
}

// An object that the storage does not let go holds up no other, and the next run tries it again.
func TestLockedObjects(t *testing.T) {
	s, store := seeded(t, 4)
	result, err := s.remove(t.Context(), guarded{store}, "me", retention.Order{Kind: retention.Retain, N: 1})
	if err != nil || len(result.Kept) < 4 || result.Removed == 0 {
		t.Fatalf("%+v, %v: want three manifests and some WAL to be kept, and parts to be gone", result, err)
	}
	state := sound(t, store)
	if len(state.Complete()) != 1 || len(state.Unpurged) != 1 {
		t.Errorf("%d backups are listed, %d deletions not done; want one each", len(state.Complete()), len(state.Unpurged))
	}
	if result, err = s.remove(t.Context(), store, "me", retention.Order{Kind: retention.Retain, N: 1}); err != nil || len(result.Kept) > 0 {
		t.Errorf("the next run: %+v, %v", result, err)
	}
	tidy(t, s, store)
}

// locking is a store that tells of locks, and hides what has one when it is told to delete it.
type locking struct {
	storage.Store
	until map[string]time.Time
	held  string
}

func (l locking) Stat(ctx context.Context, key string) (storage.Info, error) {
	info, err := l.Store.Stat(ctx, key)
	info.LockedUntil, info.LegalHold = l.until[key], key == l.held
	return info, err
}

// A bucket may begin to lock objects between two backups, and end it again; and a hold may be on any object of a
// backup, such as its description.
func TestLocksOfSome(t *testing.T) {
	until := time.Date(2036, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, locks := range map[string]func(l *locking, ids []string) []string{
		"since the second backup": func(l *locking, ids []string) (keys []string) {
			return objects(t, l.Store, "parts/"+ids[1], "parts/"+ids[2], "backups/"+ids[1], "backups/"+ids[2])
		},
		"only during the second": func(l *locking, ids []string) []string {
			return objects(t, l.Store, "parts/"+ids[1], "backups/"+ids[1])
		},
		"a legal hold": func(l *locking, ids []string) []string {
			l.held = catalog.BackupKey(ids[1])
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, store := seeded(t, 4)
			ids := listed(sound(t, store))
			l := locking{Store: store, until: map[string]time.Time{}}
			for _, key := range locks(&l, ids) {
				l.until[key] = until
			}
			result, err := s.remove(t.Context(), l, "me", retention.Order{Kind: retention.Retain, N: 1})
			if err != nil || len(result.Kept) == 0 || result.Removed == 0 {
				t.Fatalf("%+v, %v", result, err)
			}
			for _, key := range append(slices.Collect(maps.Keys(l.until)), l.held) {
				if _, err := store.Stat(t.Context(), key); key != "" && err != nil {
					t.Errorf("a locked object was removed: %v", err)
				}
			}
			for _, k := range result.Kept {
				if k.Key != l.held && !k.Until.Equal(until) || k.Key == l.held && !k.Until.IsZero() {
					t.Errorf("%+v", k)
				}
			}
		})
	}
}

// outage is a store that does not answer deletions.
type outage struct{ storage.Store }

func (o outage) Delete(_ context.Context, keys ...string) error {
	return &storage.Error{Op: "delete", Key: keys[0], Store: o.String(), Kind: storage.KindTransient}
}

// What was stopped after the log had it is told apart, for the same order again would take more; garbage finishes it.
func TestUnfinishedDeletion(t *testing.T) {
	s, store := seeded(t, 4)
	if _, err := s.remove(t.Context(), outage{store}, "me", retention.Order{Kind: retention.Oldest}); !errors.Is(err, sweep.ErrUnfinished) {
		t.Fatalf("in an outage: %v, want %v", err, sweep.ErrUnfinished)
	}
	if left := listed(sound(t, store)); len(left) != 3 {
		t.Errorf("listed are %q", left)
	}
	tidy(t, s, store)
	if left := listed(sound(t, store)); len(left) != 3 {
		t.Errorf("after delete garbage listed are %q", left)
	}
}

// WAL that was archived a moment ago stays for a standby that may be catching up.
func TestHold(t *testing.T) {
	s, store := seeded(t, 3)
	r := s.request(store, "me", retention.Order{Kind: retention.Retain, N: 1})
	r.Hold, r.Now = time.Hour, time.Now // the store's clock is the real one
	before := objects(t, store, "wal/")
	plan, err := sweep.Make(t.Context(), r)
	if err != nil || len(plan.Delete.WAL) > 0 {
		t.Fatalf("WAL that is held: %+v, %v", plan.Delete.WAL, err)
	}
	held := 0
	for _, w := range plan.WAL {
		held += w.Held
	}
	if _, err := sweep.Execute(t.Context(), r, plan); err != nil || held == 0 || len(objects(t, store, "wal/")) != len(before) {
		t.Errorf("%d are held of %d, %d are left (%v)", held, len(before), len(objects(t, store, "wal/")), err)
	}
	r.Now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	if plan, err = sweep.Make(t.Context(), r); err != nil || len(plan.Delete.WAL) != 1 {
		t.Errorf("two hours later: %+v, %v", plan.Delete.WAL, err)
	}
}

// A backup that lacks a part cannot be restored: no other goes for it, not even the newest for a part that it has from
// an older one.
func TestPartLost(t *testing.T) {
	for name, c := range map[string]struct {
		body func(old []byte) []byte // nil: none is left
		says string
	}{
		"missing": {nil, " is missing"},
		"cut":     {func(old []byte) []byte { return old[:len(old)-1] }, " has "},
	} {
		t.Run(name, func(t *testing.T) {
			s, store := seeded(t, 3)
			if err := s.push(t.Context(), store, "newest", true); err != nil {
				t.Fatal(err)
			}
			ids := listed(sound(t, store))
			newest := ids[3]
			key := objects(t, store, "parts/"+newest+"/")[0]
			old, err := storage.ReadAll(t.Context(), store, key, 1<<30)
			if err == nil {
				err = store.Delete(t.Context(), key)
			}
			if err == nil && c.body != nil {
				now := c.body(old)
				err = store.Put(t.Context(), key, bytes.NewReader(now), int64(len(now)))
			}
			if err != nil {
				t.Fatal(err)
			}
			plan, err := sweep.Make(t.Context(), s.request(store, "me", retention.Order{Kind: retention.Retain, N: 1}))
			if err != nil || !slices.Equal(plan.Delete.Backups, ids[:2]) {
				t.Fatalf("%q go (%v), want %q: the newest is no good backup", plan.Delete.Backups, err, ids[:2])
			}
			if d := plan.Backups[3]; !d.Keep || len(d.Reasons) != 1 || !strings.Contains(d.Reasons[0], key+c.says) {
				t.Errorf("the newest: %+v, want that %s%s", d, key, c.says)
			}
			for _, target := range []string{ids[2], newest} {
				_, err := s.remove(t.Context(), store, "me", retention.Order{Kind: retention.Target, Backup: target})
				if refused := errors.Is(err, retention.ErrRefused); refused != (target == ids[2]) || err != nil && !refused {
					t.Errorf("delete target %s: %v; the newest good one is %s", target, err, ids[2])
				}
			}
			if got := listed(sound(t, store)); !slices.Equal(got, ids[:3]) {
				t.Errorf("left are %q, want %q", got, ids[:3])
			}
			tidy(t, s, store)
		})
	}
}

// What all newer backups have from one part, they lack together: the newest that has another stays.
func TestSharedPartLost(t *testing.T) {
	s, store := seeded(t, 2)
	r := rand.New(rand.NewPCG(6, 6))
	for i := range 3 {
		if err := s.push(t.Context(), store, fmt.Sprint("newer", i), i == 0); err != nil {
			t.Fatal(err)
		}
		s.change(t, r, 0.3)
	}
	ids := listed(sound(t, store))
	if err := store.Delete(t.Context(), objects(t, store, "parts/"+ids[2]+"/")[0]); err != nil {
		t.Fatal(err)
	}
	plan, err := sweep.Make(t.Context(), s.request(store, "me", retention.Order{Kind: retention.ByPolicy, Policy: retention.Policy{Redundancy: 1}}))
	if err != nil || !slices.Equal(plan.Delete.Backups, ids[:1]) {
		t.Errorf("%q go (%v), want %q", plan.Delete.Backups, err, ids[:1])
	}
}

// So it is with the oldest that a policy counts, far older than the newest and without anything in common with those that go.
func TestOldPartLost(t *testing.T) {
	s, store := seeded(t, 0)
	for i := range 70 {
		if err := s.push(t.Context(), store, fmt.Sprint("full", i), true); err != nil {
			t.Fatal(err)
		}
	}
	ids := listed(sound(t, store))
	if err := store.Delete(t.Context(), objects(t, store, "parts/"+ids[4]+"/")[0]); err != nil {
		t.Fatal(err)
	}
	plan, err := sweep.Make(t.Context(), s.request(store, "me", retention.Order{Kind: retention.Retain, N: 66}))
	if err != nil || !slices.Equal(plan.Delete.Backups, ids[:3]) {
		t.Errorf("%q go (%v), want %q", plan.Delete.Backups, err, ids[:3])
	}
}

// A backup whose backup.json is damaged cannot tell which parts it refers to: all that it may refer to stay.
func TestUnreadableBackup(t *testing.T) {
	s, store := seeded(t, 4)
	ids := listed(sound(t, store))
	key := "backups/" + ids[2] + "/backup.json"
	if err := store.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	parts := objects(t, store, "parts/")
	if _, err := s.remove(t.Context(), store, "me", retention.Order{Kind: retention.Retain, N: 1}); err != nil {
		t.Fatal(err)
	}
	state, err := catalog.New(store, "check", time.Now).Load(t.Context())
	if err != nil || !slices.Equal(listed(state), ids[2:]) {
		t.Fatalf("listed are %q (%v), want %q", listed(state), err, ids[2:])
	}
	if left := objects(t, store, "parts/"); !slices.Equal(left, parts) {
		t.Errorf("parts are gone: %q are left of %q", left, parts)
	}
	if _, err := s.remove(t.Context(), store, "me", retention.Order{Kind: retention.Target, Backup: ids[2]}); err != nil {
		t.Fatal(err)
	}
	tidy(t, s, store)
}

// A plan for a repository with many backups reads the backup.json of some only. It must neither take a part that
// another backup refers to, nor leave one that none does.
func TestDeletionAmongManyBackups(t *testing.T) {
	s, store := seeded(t, 1)
	r := rand.New(rand.NewPCG(7, 7))
	for n := 1; n < 80; {
		s.change(t, r, 0.2)
		if r.IntN(4) > 0 {
			if err := s.push(t.Context(), store, "push", r.IntN(30) == 0); err != nil {
				t.Fatal(err)
			}
			n++
		} else if err := s.push(t.Context(), killed(store, 15+r.IntN(20), storagetest.Before), "killed", false); err == nil {
			n++
		}
	}
	for round := range 14 {
		ids := listed(sound(t, store))
		o := retention.Order{Kind: retention.Target, Backup: ids[r.IntN(len(ids)-66)]}
		if round == 10 {
			o = retention.Order{Kind: retention.Before, Backup: ids[3]}
		}
		if _, err := s.remove(t.Context(), store, "me", o); err != nil {
			t.Fatal(err)
		}
		if len(ids) <= 68 {
			break
		}
	}
	state, before := sound(t, store), objects(t, store, "parts/")
	tidy(t, s, store)            // which reads all of them
	for _, key := range before { // garbage are the parts of runs that were killed, and of no others
		id, _, _ := strings.Cut(strings.TrimPrefix(key, "parts/"), "/")
		status := state.Entry(id).Status
		if _, err := store.Stat(t.Context(), key); err != nil && status != catalog.Running && status != catalog.Aborted {
			t.Errorf("deletions left %s, which no backup needed", key)
		}
	}
}
