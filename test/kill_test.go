package test

import (
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/cluster"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/file"
	"github.com/pgobj/pgobj/storage/retry"
	"github.com/pgobj/pgobj/storage/storagetest"
	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/testenv"
)

// kindOf names a request by what it does, for people and for counting.
func kindOf(r faultproxy.Request) string {
	switch {
	case r.Method == "GET" && strings.Contains(r.Query, "list-type"):
		return "list"
	case strings.Contains(r.Path, "/catalog/log/"):
		return r.Method + " record"
	case strings.HasSuffix(r.Path, "/backup.json"):
		return r.Method + " backup.json"
	case strings.Contains(r.Path, "/manifest"):
		return r.Method + " manifest"
	case strings.Contains(r.Path, "/parts/"):
		return r.Method + " part"
	}
	return r.Method + " other"
}

// nthOfKind selects one request. By kind, because the number of all requests before it varies: the archive is
// looked at until the last segment is there.
func nthOfKind(kind string, n int) func() faultproxy.When {
	return func() faultproxy.When {
		seen := 0
		return func(r faultproxy.Request) bool { // called for each request in turn
			if kindOf(r) == kind {
				seen++
			}
			return kindOf(r) == kind && seen == n
		}
	}
}

// everyRequest runs try for the first, second, … request of each kind until a run ends without getting to it; the short
// form for the first of each kind, and for both records. when makes the selector of a rule; try says whether its run
// got there.
func everyRequest(t *testing.T, p *faultproxy.Proxy, kinds []string, try func(what string, first bool, when func() faultproxy.When) (hit bool)) {
	t.Helper()
	total, hits := 0, map[string]int{}
	for _, kind := range kinds {
		last := 100
		if !torture() {
			last = leastHits(kind)
		}
		for n := 1; n <= last; n++ {
			p.Reset()
			what, when := fmt.Sprintf("%s %d", kind, n), nthOfKind(kind, n)
			hit := func() bool {
				ended := false
				defer func() { // also when a command hung, which ends the test
					if t.Failed() || !ended {
						t.Logf("at %s, of these requests: %s", what, describeRequests(p))
					}
				}()
				hit := try(what, n == 1, when)
				ended = true
				return hit
			}()
			if t.Failed() {
				t.FailNow()
			}
			if !hit {
				break
			}
			hits[kind]++
			total++
		}
	}
	t.Logf("%d requests were hit: %v", total, hits)
	for _, kind := range kinds {
		if hits[kind] < leastHits(kind) {
			t.Errorf("%s was hit %d times", kind, hits[kind])
		}
	}
	if torture() && total < 15 {
		t.Errorf("only %d requests were hit", total)
	}
}

// leastHits is how many requests of a kind a backup makes at least: a record begins it, another one commits it.
func leastHits(kind string) int {
	if kind == "PUT record" {
		return 2
	}
	return 1
}

func describeRequests(p *faultproxy.Proxy) string {
	var b strings.Builder
	for _, r := range p.Requests() {
		fmt.Fprintf(&b, "\n%d %s %s?%s %s", r.N, r.Method, r.Path, r.Query, r.Fault)
	}
	return b.String()
}

// wasHit says whether a fault was applied.
func wasHit(p *faultproxy.Proxy) bool {
	return p.Count(func(r faultproxy.Request) bool { return r.Fault != "" }) > 0
}

// pushKinds runs a backup-push that nothing happens to, and returns the kinds of requests that it makes.
func (r *faultRig) pushKinds(t *testing.T, p *faultproxy.Proxy) []string {
	t.Helper()
	if o := execute(t, r.command(viaProxy(p), "backup-push", "-j2", "--wal-timeout=10m"), nil); o.code != 0 {
		t.Fatal(o)
	}
	var kinds []string
	for _, q := range p.Requests() {
		if k := kindOf(q); !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
	}
	for _, k := range []string{"list", "GET record", "PUT record", "PUT part", "PUT manifest", "PUT backup.json"} {
		if !slices.Contains(kinds, k) {
			t.Fatalf("a backup makes no %s; it makes %v", k, kinds)
		}
	}
	return kinds
}

// viaProxy lets the commands of a rig go through p. The server's WAL does not.
func viaProxy(p *faultproxy.Proxy) []string { return []string{"PGOBJ_S3_ENDPOINT=" + p.URL} }

// touch changes some pages, not what proof answers: so that every backup has something to store, and something
// to reuse.
func (r *faultRig) touch(t *testing.T) {
	t.Helper()
	r.cluster.Exec(t, `UPDATE proof SET sum = sum WHERE i % 500 = 7`)
}

// backup-push is killed at every single request, before it gets to the store and after its answer has
// left it. Each time: what was there before is unchanged and listed, the new backup is absent or whole, and
// the next run works, though it uses again what the killed one has left.
func TestKillAtEveryRequest(t *testing.T) {
	t.Parallel()
	rig, server := newS3Rig(t)
	want := proof(t, rig.cluster)
	old := rig.push(t)
	rig.checkRestore(t, old, want)
	base := takeSnapshot(t, rig, server)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	rig.touch(t)
	kinds := rig.pushKinds(t, proxy)
	base.rollback(t)

	for _, moment := range []string{"before", "after"} {
		t.Run(moment, func(t *testing.T) {
			whole := 0
			everyRequest(t, proxy, kinds, func(what string, first bool, when func() faultproxy.When) bool {
				rig.touch(t)
				v := newVictim()
				kill := func(faultproxy.Request) { v.kill() }
				if moment == "before" {
					proxy.On(when(), faultproxy.Hook(kill))
					proxy.On(when(), faultproxy.Reset(0))
				} else {
					proxy.On(when(), faultproxy.DropResponse(kill))
				}
				o := execute(t, rig.command(viaProxy(proxy), "backup-push", "-j2", "--wal-timeout=10m"), v.started)
				defer base.rollback(t)
				if !wasHit(proxy) {
					if o.code != 0 {
						t.Errorf("nothing was done to this run: %v", o)
					}
					return false
				}
				if o.code != -1 {
					t.Errorf("it was to be killed, and ended by itself: %v", o)
				}
				if rig.survived(t, base, old, want, first) {
					whole++
					if what != "PUT record 2" {
						t.Errorf("the backup exists after a kill at %s", what)
					}
				}
				return true
			})
			// Once the commit record is stored the backup exists, whether or not anybody heard of it.
			if must := map[string]int{"before": 0, "after": 1}[moment]; whole != must {
				t.Errorf("the backup was whole after %d kills, want %d", whole, must)
			}
		})
	}
	rig.checkRestore(t, old, want)
}

// survived checks a repository after a push that was killed, and says whether the backup is in it.
func (r *faultRig) survived(t *testing.T, base snapshot, old, want string, restore bool) (listed bool) {
	t.Helper()
	base.unchanged(t)
	ids := r.list(t)
	if len(ids) == 0 || ids[0] != old || len(ids) > 2 {
		t.Errorf("backup-list shows %v; %s was there before", ids, old)
		return false
	}
	if len(ids) == 2 {
		r.checkRestore(t, ids[1], want)
	}
	o := r.run(t, "backup-push", "-j2", "--wal-timeout=10m")
	now := r.list(t)
	if o.code != 0 || len(now) != len(ids)+1 || !slices.Equal(now[:len(ids)], ids) {
		t.Errorf("the next run: the list was %v and is %v, %v", ids, now, o)
		return len(ids) == 2
	}
	if restore {
		r.checkRestore(t, now[len(ids)], want)
	}
	base.unchanged(t)
	return len(ids) == 2
}

// One request fails, whichever it is and however: the push hides it, and makes one backup.
func TestFailEveryRequestOnce(t *testing.T) {
	t.Parallel()
	rig, server := newS3Rig(t)
	want := proof(t, rig.cluster)
	rig.push(t)
	base := takeSnapshot(t, rig, server)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	rig.touch(t)
	kinds := rig.pushKinds(t, proxy)
	base.rollback(t)

	others := []faultproxy.Fault{faultproxy.Fail(503, "SlowDown"), faultproxy.Fail(500, "InternalError"), faultproxy.Reset(100)}
	turn := 0
	for name, fault := range map[string]func() faultproxy.Fault{
		"lost answer":      func() faultproxy.Fault { return faultproxy.DropResponse() },
		"refused or reset": func() faultproxy.Fault { turn++; return others[turn%len(others)] },
	} {
		t.Run(name, func(t *testing.T) {
			everyRequest(t, proxy, kinds, func(what string, first bool, when func() faultproxy.When) bool {
				rig.touch(t)
				proxy.On(when(), fault())
				o := execute(t, rig.command(viaProxy(proxy), "backup-push", "-j2", "--wal-timeout=10m"), nil)
				defer base.rollback(t)
				if o.code != 0 {
					t.Errorf("%v", o)
					return true
				}
				base.unchanged(t)
				ids := rig.list(t)
				if len(ids) != 2 {
					t.Errorf("backup-list shows %v, want one more than before", ids)
				} else if first && strings.HasPrefix(what, "PUT") {
					rig.checkRestore(t, ids[1], want)
				}
				return wasHit(proxy)
			})
		})
	}
}

// The store fails for good, from one call on: the push says so, and the catalog has the whole backup or none.
// Through the library, because a command is patient for minutes.
func TestStoreFailsForGood(t *testing.T) {
	t.Parallel()
	for _, mode := range []struct {
		name string
		mode storagetest.Mode
	}{{"refused", storagetest.Before}, {"answers lost", storagetest.After}} {
		t.Run(mode.name, func(t *testing.T) {
			rig := newFolderRig(t)
			want := proof(t, rig.cluster)
			old := rig.push(t)
			disk, err := file.New(file.Config{Dir: rig.repo})
			if err != nil {
				t.Fatal(err)
			}
			base := snapshot{repo: rig.repo, objs: objects(t, rig.repo)}
			complete := 0
			for n := 1; ; n = laterCall(n) {
				if n > 200 {
					t.Fatal("there is no end to the calls")
				}
				base.rollback(t)
				before := rig.list(t)
				faulty := storagetest.NewFaulty(disk, storagetest.Fault{When: func(op storagetest.Op) bool { return op.N >= n }, Mode: mode.mode})
				err := rig.pushInProcess(t, faulty)
				if err := testenv.ChownPostgres(rig.repo); err != nil { // we may be root
					t.Fatal(err)
				}
				after := rig.list(t)
				calls := len(faulty.Ops())
				switch {
				case len(after) == len(before) && err == nil:
					t.Fatalf("from call %d on: success, and no backup", n)
				case len(after) > len(before)+1 || !slices.Equal(after[:len(before)], before):
					t.Fatalf("from call %d on: the list was %v and is %v", n, before, after)
				case len(after) > len(before):
					complete++
					rig.checkRestore(t, after[len(before)], want)
				}
				if calls < n {
					if err != nil {
						t.Errorf("nothing failed, and yet: %v", err)
					}
					t.Logf("%d calls, backups in the catalog after %d of the runs", calls, complete)
					break
				}
				if err == nil {
					t.Errorf("from call %d on the store failed, and the push did not", n)
				}
			}
			// How often a run looks for WAL depends on the machine's load, so the calls above may miss the commit.
			base.rollback(t)
			before, described, failing := rig.list(t), false, false
			faulty := storagetest.NewFaulty(disk, storagetest.Fault{Mode: mode.mode, When: func(op storagetest.Op) bool {
				put := op.Name == "put"
				failing = failing || described && put
				described = described || put && path.Base(op.Key) == "backup.json"
				return failing
			}})
			if err := rig.pushInProcess(t, faulty); err == nil {
				t.Error("the commit failed, and the push did not")
			}
			if err := testenv.ChownPostgres(rig.repo); err != nil {
				t.Fatal(err)
			}
			after := rig.list(t)
			switch {
			case mode.mode == storagetest.Before && len(after) != len(before):
				t.Errorf("a commit that was refused: the list was %v and is %v", before, after)
			case mode.mode == storagetest.After && len(after) != len(before)+1:
				t.Errorf("a commit whose answer was lost: the list was %v and is %v", before, after)
			case mode.mode == storagetest.After:
				rig.checkRestore(t, after[len(before)], want)
			}
			if complete < 1 {
				t.Error("no run left a backup")
			}
			base.unchanged(t)
			rig.checkRestore(t, old, want)
			rig.checkRestore(t, rig.push(t), want)
		})
	}
}

// laterCall is the call after n from which on a store fails next; in the short form the steps grow.
func laterCall(n int) int {
	if torture() {
		return n + 1
	}
	return n + max(1, n/3)
}

// pushInProcess takes a backup of the rig's cluster into a store, with little patience.
func (r *faultRig) pushInProcess(t *testing.T, s storage.Store) error {
	t.Helper()
	return r.pushInto(t, retry.New(s, retry.Policy{Budget: 20 * time.Millisecond, FirstWait: 5 * time.Millisecond}, slog.New(slog.DiscardHandler)))
}

// pushInto takes a backup of the rig's cluster into a store that has retries already.
func (r *faultRig) pushInto(t *testing.T, s storage.Store) error {
	t.Helper()
	s = storage.Sub(s, "main")
	session, err := cluster.Connect(t.Context(), r.cluster.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close(t.Context())
	_, err = backup.Push(t.Context(), backup.PushRequest{
		Store: s, Catalog: catalog.New(s, "test", time.Now), Session: session, Codec: part.Default, Workers: 2,
		WALTimeout: time.Minute, Tool: "test", Now: time.Now, Progress: &backup.Progress{}, Log: slog.New(slog.DiscardHandler),
	})
	return err
}
