package sweep_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/retention"
	"github.com/pgobj/pgobj/retention/sweep"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/file"
	"github.com/pgobj/pgobj/storage/storagetest"
)

// TestKilledAtEveryRequest ends a deletion at each of its requests, before it took effect and after, as kill -9
// does. No backup that is listed may then lack anything, and the next run has to finish the job.
func TestKilledAtEveryRequest(t *testing.T) {
	s, full := seeded(t, 4)
	ids := listed(sound(t, full))
	o := retention.Order{Kind: retention.Retain, N: 2}
	whole := clone(t, full)
	counted := storagetest.NewFaulty(whole)
	if _, err := s.remove(t.Context(), counted, "me", o); err != nil {
		t.Fatal(err)
	}
	want := objects(t, whole, "parts/", "backups/", "wal/")
	n := len(counted.Ops())
	t.Logf("a deletion has %d requests", n)
	for at := 1; at <= n; at++ {
		for _, mode := range []storagetest.Mode{storagetest.Before, storagetest.Cut, storagetest.After} {
			store := clone(t, full)
			_, err := s.remove(t.Context(), killed(store, at, mode), "me", o)
			if err == nil {
				t.Errorf("killed at request %d, and no error", at) // the last one may be the listing of a checkpoint
			}
			state := sound(t, store)
			if got := listed(state); !slices.Equal(got, ids) && !slices.Equal(got, ids[2:]) {
				t.Errorf("killed at request %d: %q are listed", at, got)
			}
			if _, err := s.remove(t.Context(), store, "next", o); err != nil {
				t.Errorf("killed at request %d, the next run: %v", at, err)
			}
			if got := objects(t, store, "parts/", "backups/", "wal/"); !slices.Equal(got, want) {
				t.Errorf("killed at request %d, after the next run: %q, want %q", at, got, want)
			}
			if state := sound(t, store); len(state.Unpurged) > 0 || t.Failed() {
				t.Fatalf("killed at request %d: %+v are not done", at, state.Unpurged)
			}
		}
	}
}

// killed is a store for a process that ends with its request number at.
func killed(s storage.Store, at int, mode storagetest.Mode) storage.Store {
	return storagetest.NewFaulty(s,
		storagetest.Fault{When: storagetest.Nth(at), Mode: mode, At: 3},
		storagetest.Fault{When: func(op storagetest.Op) bool { return op.N > at }})
}

// TestRaces lets backups and deletions of all kinds run into each other, stopped (as by SIGSTOP) and killed at
// requests that a seed chooses. With PGOBJ_TORTURE=1 it goes through 5,000 schedules.
func TestRaces(t *testing.T) {
	schedules := 150
	if os.Getenv("PGOBJ_TORTURE") != "" {
		schedules = 5000
	}
	s, full := seeded(t, 3)
	var told outcomes
	for seed := range uint64(schedules) {
		store := clone(t, full)
		if seed%20 == 0 {
			f, err := file.New(file.Config{Dir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			copyAll(t, store, f)
			store = f
		}
		race(t, s, store, seed, &told)
		if t.Failed() {
			t.Fatalf("schedule %d", seed)
		}
	}
	t.Logf("%+v", told.count)
	for _, what := range []string{"push done", "push refused", "delete done", "delete refused"} {
		if told.count[what] == 0 {
			t.Errorf("%q never happened: the schedules are too tame", what)
		}
	}
}

// TestTakenForDead: a deletion that takes a running backup for dead removes what it has stored, in the moment in which that is
// asked for again: to be read back, and the first part to see whether the storage refuses to replace it.
func TestTakenForDead(t *testing.T) {
	s, full := seeded(t, 2)
	for what, asked := range map[string]string{"/backup.json": "get", "/manifest": "get", "/00001.": "put"} {
		store := clone(t, full)
		own := "" // of the backup that runs
		slow := storagetest.NewFaulty(store, storagetest.Fault{Mode: storagetest.Pass, Hook: func(op storagetest.Op) {
			switch {
			case op.Name == asked && op.Key == own:
				if _, err := s.remove(t.Context(), store, "other", retention.Order{Kind: retention.Garbage}); err != nil {
					t.Error(err)
				}
			case op.Name == "put" && strings.Contains(op.Key, what):
				own = op.Key
			}
		}})
		err := s.push(t.Context(), slow, "me", true)
		if own == "" || err == nil || !strings.Contains(err.Error(), "not running") {
			t.Errorf("%s is deleted: %v", own, err)
		}
		sound(t, store)
	}
}

// outcomes counts how the processes of all races ended.
type outcomes struct {
	mu    sync.Mutex
	count map[string]int
}

func (o *outcomes) add(what string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.count == nil {
		o.count = map[string]int{}
	}
	o.count[what]++
}

// process is one pgobj in a race.
type process struct {
	name    string
	patient bool         // the deletions in this race take what runs for running
	stop    map[int]bool // requests at which it is stopped until all others are stopped or have ended
	kill    int          // request with which it ends; 0: never
	run     func(ctx context.Context, store storage.Store) error
}

// race runs some processes on a store and looks at what they leave.
func race(t testing.TB, s *fakeServer, store storage.Store, seed uint64, told *outcomes) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 3))
	s.change(t, r, 0.4)
	state := sound(t, store)
	running := []time.Duration{0, 72 * time.Hour}[r.IntN(2)] // 0: what runs is taken for dead
	var all []*process
	push := func(name string) {
		all = append(all, &process{name: "push", patient: running > 0, run: func(ctx context.Context, store storage.Store) error { return s.push(ctx, store, name, false) }})
	}
	remove := func(name string, o retention.Order) {
		o.Running = running
		all = append(all, &process{name: "delete", run: func(ctx context.Context, store storage.Store) error {
			_, err := s.remove(ctx, store, name, o)
			return err
		}})
	}
	push("push1")
	switch r.IntN(3) {
	case 0:
		push("push2")
	case 1: // one that reuses nothing, after which all that others reuse can go
		all = append(all, &process{name: "push and delete", run: func(ctx context.Context, store storage.Store) error {
			err := s.push(ctx, store, "full", true)
			if err == nil {
				_, err = s.remove(ctx, store, "full", retention.Order{Kind: retention.Retain, N: 1, Running: running})
			}
			return err
		}})
	}
	ids := listed(state)
	remove("delete1", []retention.Order{{Kind: retention.Retain, N: 1}, {Kind: retention.Target, Backup: ids[r.IntN(len(ids))]}, {Kind: retention.Oldest}, {Kind: retention.Before, Backup: ids[len(ids)-1]}}[r.IntN(4)])
	if r.IntN(2) == 0 {
		remove("garbage", retention.Order{Kind: retention.Garbage})
	}
	if r.IntN(3) == 0 {
		remove("delete2", retention.Order{Kind: retention.Retain, N: 1})
	}
	for _, p := range all {
		p.stop = map[int]bool{}
		for range r.IntN(4) {
			p.stop[1+r.IntN(60)] = true
		}
		if r.IntN(4) == 0 {
			p.kill = 1 + r.IntN(70)
		}
	}
	schedule(t, store, all, r, told)
	sound(t, store)
	tidy(t, s, store)
}

// schedule runs the processes. One that comes to a request where it is to be stopped waits until all others have
// ended or wait too; then one of those that wait goes on.
func schedule(t testing.TB, store storage.Store, all []*process, r *rand.Rand, told *outcomes) {
	t.Helper()
	var mu sync.Mutex
	active := len(all)
	var waiting []chan struct{}
	idle := func() { // somebody waits or has ended
		active--
		if active == 0 && len(waiting) > 0 {
			i := r.IntN(len(waiting))
			close(waiting[i])
			waiting = slices.Delete(waiting, i, i+1)
			active++
		}
	}
	var wg sync.WaitGroup
	for _, p := range all {
		wg.Go(func() {
			err := p.run(t.Context(), p.under(store, func() {
				mu.Lock()
				c := make(chan struct{})
				waiting = append(waiting, c)
				idle()
				mu.Unlock()
				<-c
			}))
			mu.Lock()
			idle()
			mu.Unlock()
			told.add(p.name + " " + verdict(t, p, err))
		})
	}
	wg.Wait()
}

// under is the store as the process sees it.
func (p *process) under(store storage.Store, wait func()) storage.Store {
	var once sync.Mutex // a process that is stopped does nothing else
	stop := func(op storagetest.Op) {
		once.Lock()
		defer once.Unlock()
		if p.stop[op.N] {
			wait()
		}
	}
	faults := []storagetest.Fault{{Mode: storagetest.Pass, Hook: stop}}
	if p.kill > 0 {
		faults = []storagetest.Fault{
			{When: func(op storagetest.Op) bool { return op.N == p.kill }, Mode: []storagetest.Mode{storagetest.Before, storagetest.After}[p.kill%2], Hook: stop},
			{When: func(op storagetest.Op) bool { return op.N > p.kill }},
			faults[0],
		}
	}
	return storagetest.NewFaulty(store, faults...)
}

// verdict puts an outcome into a word; one that nobody has planned fails the test.
func verdict(t testing.TB, p *process, err error) string {
	switch {
	case err == nil:
		return "done"
	case errors.Is(err, storagetest.ErrFault):
		return "killed"
	case p.name != "push" && (errors.Is(err, sweep.ErrChanged) || errors.Is(err, retention.ErrRefused) || errors.Is(err, catalog.ErrNoBackup)):
		return "refused"
	case p.name == "push" && p.patient: // deletions leave what runs alone, so this one has no excuse
	case p.name != "delete" && (errors.Is(err, backup.ErrWALMissing) || errors.Is(err, catalog.ErrWALDeleted) || strings.Contains(err.Error(), "has been deleted") || strings.Contains(err.Error(), "not running")):
		return "refused"
	case errors.Is(err, storage.ErrNotFound):
		return "lost what it read"
	}
	t.Errorf("%s: %v", p.name, err)
	return fmt.Sprint(err)
}
