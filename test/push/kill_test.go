package push

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/storage/file"
	"github.com/pgobj/pgobj/storage/storagetest"
	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// nthOfKind selects one request. By kind, because the number of all requests before it varies: the archive is
// looked at until the last segment is there.
func nthOfKind(kind string, n int) func() faultproxy.When {
	return func() faultproxy.When {
		seen := 0
		return func(r faultproxy.Request) bool { // called for each request in turn
			if site.KindOf(r) == kind {
				seen++
			}
			return site.KindOf(r) == kind && seen == n
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
		if !site.Torture() {
			last = leastHits(kind)
		}
		for n := 1; n <= last; n++ {
			p.Reset()
			what, when := fmt.Sprintf("%s %d", kind, n), nthOfKind(kind, n)
			hit := func() bool {
				ended := false
				defer func() { // also when a command hung, which ends the test
					if t.Failed() || !ended {
						t.Logf("at %s, of these requests: %s", what, site.DescribeRequests(p))
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
	if site.Torture() && total < 15 {
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

// backup-push is killed at every single request, before it gets to the store and after its answer has
// left it. Each time: what was there before is unchanged and listed, the new backup is absent or whole, and
// the next run works, though it uses again what the killed one has left.
func TestKillAtEveryRequest(t *testing.T) {
	t.Parallel()
	rig, server := site.NewS3Rig(t)
	want := site.Proof(t, rig.Cluster)
	old := rig.Push(t)
	rig.CheckRestore(t, old, want)
	base := site.TakeSnapshot(t, rig, server)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	rig.Touch(t)
	kinds := rig.PushKinds(t, proxy)
	base.Rollback(t)

	for _, moment := range []string{"before", "after"} {
		t.Run(moment, func(t *testing.T) {
			whole := 0
			everyRequest(t, proxy, kinds, func(what string, first bool, when func() faultproxy.When) bool {
				rig.Touch(t)
				v := site.NewVictim()
				kill := func(faultproxy.Request) { v.Kill() }
				if moment == "before" {
					proxy.On(when(), faultproxy.Hook(kill))
					proxy.On(when(), faultproxy.Reset(0))
				} else {
					proxy.On(when(), faultproxy.DropResponse(kill))
				}
				o := site.Execute(t, rig.Command(site.ViaProxy(proxy), "backup-push", "-j2", "--wal-timeout=10m"), v.Started)
				defer base.Rollback(t)
				if !site.WasHit(proxy) {
					if o.Code != 0 {
						t.Errorf("nothing was done to this run: %v", o)
					}
					return false
				}
				if o.Code != -1 {
					t.Errorf("it was to be killed, and ended by itself: %v", o)
				}
				if rig.Survived(t, base, old, want, first) {
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
	rig.CheckRestore(t, old, want)
}

// One request fails, whichever it is and however: the push hides it, and makes one backup.
func TestFailEveryRequestOnce(t *testing.T) {
	t.Parallel()
	rig, server := site.NewS3Rig(t)
	want := site.Proof(t, rig.Cluster)
	rig.Push(t)
	base := site.TakeSnapshot(t, rig, server)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	rig.Touch(t)
	kinds := rig.PushKinds(t, proxy)
	base.Rollback(t)

	others := []faultproxy.Fault{faultproxy.Fail(503, "SlowDown"), faultproxy.Fail(500, "InternalError"), faultproxy.Reset(100)}
	turn := 0
	for name, fault := range map[string]func() faultproxy.Fault{
		"lost answer":      func() faultproxy.Fault { return faultproxy.DropResponse() },
		"refused or reset": func() faultproxy.Fault { turn++; return others[turn%len(others)] },
	} {
		t.Run(name, func(t *testing.T) {
			everyRequest(t, proxy, kinds, func(what string, first bool, when func() faultproxy.When) bool {
				rig.Touch(t)
				proxy.On(when(), fault())
				o := site.Execute(t, rig.Command(site.ViaProxy(proxy), "backup-push", "-j2", "--wal-timeout=10m"), nil)
				defer base.Rollback(t)
				if o.Code != 0 {
					t.Errorf("%v", o)
					return true
				}
				base.Unchanged(t)
				ids := rig.List(t)
				if len(ids) != 2 {
					t.Errorf("backup-list shows %v, want one more than before", ids)
				} else if first && strings.HasPrefix(what, "PUT") {
					rig.CheckRestore(t, ids[1], want)
				}
				return site.WasHit(proxy)
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
			rig := site.NewDirectoryRig(t)
			want := site.Proof(t, rig.Cluster)
			old := rig.Push(t)
			disk, err := file.New(file.Config{Dir: rig.Repo})
			if err != nil {
				t.Fatal(err)
			}
			base := site.Snapshot{Repo: rig.Repo, Objs: site.Objects(t, rig.Repo)}
			complete := 0
			for n := 1; ; n = laterCall(n) {
				if n > 200 {
					t.Fatal("there is no end to the calls")
				}
				base.Rollback(t)
				before := rig.List(t)
				faulty := storagetest.NewFaulty(disk, storagetest.Fault{When: func(op storagetest.Op) bool { return op.N >= n }, Mode: mode.mode})
				err := rig.PushInProcess(t, faulty)
				if err := testenv.ChownPostgres(rig.Repo); err != nil { // we may be root
					t.Fatal(err)
				}
				after := rig.List(t)
				calls := len(faulty.Ops())
				switch {
				case len(after) == len(before) && err == nil:
					t.Fatalf("from call %d on: success, and no backup", n)
				case len(after) > len(before)+1 || !slices.Equal(after[:len(before)], before):
					t.Fatalf("from call %d on: the list was %v and is %v", n, before, after)
				case len(after) > len(before):
					complete++
					rig.CheckRestore(t, after[len(before)], want)
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
			base.Rollback(t)
			before, described, failing := rig.List(t), false, false
			faulty := storagetest.NewFaulty(disk, storagetest.Fault{Mode: mode.mode, When: func(op storagetest.Op) bool {
				put := op.Name == "put"
				failing = failing || described && put
				described = described || put && path.Base(op.Key) == "backup.json"
				return failing
			}})
			if err := rig.PushInProcess(t, faulty); err == nil {
				t.Error("the commit failed, and the push did not")
			}
			if err := testenv.ChownPostgres(rig.Repo); err != nil {
				t.Fatal(err)
			}
			after := rig.List(t)
			switch {
			case mode.mode == storagetest.Before && len(after) != len(before):
				t.Errorf("a commit that was refused: the list was %v and is %v", before, after)
			case mode.mode == storagetest.After && len(after) != len(before)+1:
				t.Errorf("a commit whose answer was lost: the list was %v and is %v", before, after)
			case mode.mode == storagetest.After:
				rig.CheckRestore(t, after[len(before)], want)
			}
			if complete < 1 {
				t.Error("no run left a backup")
			}
			base.Unchanged(t)
			rig.CheckRestore(t, old, want)
			rig.CheckRestore(t, rig.Push(t), want)
		})
	}
}

// laterCall is the call after n from which on a store fails next; in the short form the steps grow.
func laterCall(n int) int {
	if site.Torture() {
		return n + 1
	}
	return n + max(1, n/3)
}
