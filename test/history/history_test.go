// Package history runs random histories of a PostgreSQL cluster that pgobj backs up: DDL of every kind during and
// between backups, crashes, failovers, re-seeds, restores in place, retention. Then it restores every listed backup, to
// its own end and to a point after it, and compares every table of every database with what the server had there.
//
// The seed chooses a history: what happens in step N is drawn from the seed, from N, and from what the cluster has then.
// The test prints its seeds. make test runs a few fixed seeds, make torture (PGOBJ_TORTURE) 200 new ones and counts them.
//
//	PGOBJ_HISTORY_SEED=17           runs the history 17, and prints each step at once
//	PGOBJ_HISTORY_COUNT=20          runs 20 histories; with PGOBJ_HISTORY_SEED that one 20 times, as a fault may depend on timing
//	PGOBJ_HISTORY_WITHOUT=a,b       leaves out events and statements, by the names in the tables events and changes
//	PGOBJ_HISTORY_KEEP=1            keeps the files of a history that failed
package history

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// shortSeeds are the histories of make test, on PostgreSQL 10, 13 and 18.
var shortSeeds = []uint64{38, 6, 37}

func TestHistories(t *testing.T) {
	sum := &summary{events: map[string]int{}, failed: map[string]int{}}
	seeds := seedsOf(t)
	t.Logf("%d histories, seeds %v", len(seeds), seeds)
	t.Run("seed", func(t *testing.T) {
		for i, seed := range seeds {
			name := strconv.FormatUint(seed, 10)
			if i > 0 && seeds[i-1] == seed {
				name += fmt.Sprintf(" again %d", i)
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				live(t, seed, sum)
			})
		}
	})
	sum.report(t)
}

// seedsOf are the seeds of the histories of this run.
func seedsOf(t *testing.T) []uint64 {
	t.Helper()
	number := func(name string, otherwise uint64) (uint64, bool) {
		text, given := os.LookupEnv(name)
		if !given {
			return otherwise, false
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return n, true
	}
	seed, seeded := number("PGOBJ_HISTORY_SEED", 1)
	long := os.Getenv("PGOBJ_TORTURE") != ""
	count, counted := number("PGOBJ_HISTORY_COUNT", 1)
	switch {
	case seeded:
		return slices.Repeat([]uint64{seed}, int(count))
	case !counted && !long:
		return shortSeeds
	case !counted:
		count, seed = 200, uint64(time.Now().Unix())*1000
	}
	seeds := make([]uint64, count)
	for i := range seeds {
		seeds[i] = seed + uint64(i)
	}
	return seeds
}

// summary counts what all histories did together.
type summary struct {
	mu        sync.Mutex
	histories int
	faults    []uint64
	restores  int // compared with what was there
	refused   int // restores that pgobj had to refuse or was allowed to
	backups   int
	events    map[string]int // by kind of event and statement
	failed    map[string]int // how many of these PostgreSQL refused: when it refuses all of a kind, the kind tests nothing
}

func (s *summary) count(what string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events[what]++
	if !ok {
		s.failed[what]++
	}
}

func (s *summary) add(to *int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*to++
}

func (s *summary) report(t *testing.T) {
	var kinds strings.Builder
	for _, k := range slices.Sorted(maps.Keys(s.events)) {
		fmt.Fprintf(&kinds, "\n  %-28s %5d", k, s.events[k])
		if n := s.failed[k]; n > 0 {
			fmt.Fprintf(&kinds, ", %d refused by PostgreSQL", n)
		}
		if s.failed[k] == s.events[k] && s.events[k] > 4 {
			t.Errorf("none of %d times %q succeeded: it tests nothing", s.events[k], k)
		}
	}
	slices.Sort(s.faults)
	t.Logf("what happened:%s", kinds.String())
	t.Logf("%d histories, %d with a fault %v; %d backups, %d restores compared, %d rightly refused",
		s.histories, len(s.faults), s.faults, s.backups, s.restores, s.refused)
}

// live runs one history.
func live(t *testing.T, seed uint64, sum *summary) {
	h := newHistory(t, seed, sum)
	defer func() {
		sum.add(&sum.histories)
		if t.Failed() {
			t.Logf("PGOBJ_HISTORY_SEED=%d runs it again. What happened:\n%s", seed, strings.Join(h.notes, "\n"))
			sum.mu.Lock()
			sum.faults = append(sum.faults, seed)
			sum.mu.Unlock()
		}
	}()
	h.begin()
	for range h.steps {
		h.next()
		h.event()
	}
	h.next()
	h.finish()
}

// next begins a step, with random numbers of its own.
func (h *history) next() {
	h.step++
	h.Rand = rand.New(rand.NewPCG(h.seed, uint64(h.step)))
}

// finish takes a last look at all there is.
func (h *history) finish() {
	h.round(math.MaxInt)
	h.checks()
	if h.restored == 0 {
		h.Fatal("not one restore was compared")
	}
}
