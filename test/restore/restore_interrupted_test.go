package restore

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

var partGets = faultproxy.And(faultproxy.Method("GET"), faultproxy.Path("/parts/"))

// TestRestoreKilledEvery5Percent: killed when every twentieth of the bytes has come (in the short form every fifth),
// PostgreSQL does not start on what is there, and the next run goes on to the same files as if nothing had been.
func TestRestoreKilledEvery5Percent(t *testing.T) {
	t.Parallel()
	rig, server := site.NewS3Rig(t)
	rig.Bulky(t, 20)
	rig.Push(t)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	good := filepath.Join(testenv.Dir(t), "data")
	o := site.Execute(t, rig.Command(site.ViaProxy(proxy), "backup-fetch", "-j1", good), nil)
	if o.Code != 0 {
		t.Fatal(o)
	}
	want := site.RestoredTree(t, good)
	var sizes []int64 // of the ranges, in the order in which one worker asks for them
	total := int64(0)
	for _, r := range proxy.Requests() {
		if partGets(r) {
			var first, last int64
			if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last); err != nil {
				t.Fatalf("%q: %v", r.Header.Get("Range"), err)
			}
			sizes = append(sizes, last-first+1)
			total += last - first + 1
		}
	}
	if total < 20<<20 {
		t.Fatalf("the restore fetches only %d bytes", total)
	}
	kills, step, least := 0, int64(20), 7
	if site.Torture() {
		step, least = 5, 40
	}
	for percent := int64(0); percent < 100; percent += step {
		for _, delta := range []bool{false, true} {
			if delta && percent%40 != 20 && !site.Torture() {
				continue
			}
			t.Run(fmt.Sprintf("%d %%, delta %v", percent, delta), func(t *testing.T) {
				target := filepath.Join(testenv.Dir(t), "data")
				args := []string{"backup-fetch", "-j1", target}
				if delta { // of a data directory of which nothing fits, and whose pg_control is whole
					rig.Stale(t, good, target)
					args = append(args, "--delta", "--discard-wal")
				}
				n, at := 0, total*percent/100
				for at >= sizes[n] {
					at -= sizes[n]
					n++
				}
				proxy.Reset()
				v, seen := site.NewVictim(), -1
				proxy.On(func(r faultproxy.Request) bool {
					if partGets(r) {
						seen++
						return seen == n
					}
					return false
				}, faultproxy.CutBody(at, faultproxy.CutHang, func(faultproxy.Request) { v.Kill() }))
				if o := site.Execute(t, rig.Command(site.ViaProxy(proxy), args...), v.Started); o.Code != -1 {
					t.Fatalf("it was to be killed: %v", o)
				}
				kills++
				site.CheckNoStart(t, target)
				if o := rig.Run(t, "backup-fetch", target, "--delta", "--discard-wal"); o.Code != 0 {
					t.Fatalf("the next run: %v", o)
				}
				if d := site.Differences(want, site.RestoredTree(t, target)); d != nil {
					t.Errorf("the next run gives something else: %v", d)
				}
			})
		}
	}
	if t.Logf("%d restores of %d MB were killed", kills, total>>20); kills < least && !t.Failed() {
		t.Errorf("only %d restores were killed", kills)
	}
}

var renameCall = regexp.MustCompile(`^renameat2?\(.*, "([^"]*)", .*, "([^"]*)".* = 0$`)

// TestRestoreKilledAtEveryRename: a file gets its name, or loses it, in one step. Before each of these a restore is
// killed, a fresh one and a delta one: PostgreSQL does not start on what is there, and the next run completes it. The short
// form kills before the first two, of which one takes pg_control away, and the last.
func TestRestoreKilledAtEveryRename(t *testing.T) {
	t.Parallel()
	rig := site.NewDirectoryRig(t)
	rig.Push(t)
	whole := filepath.Join(testenv.Dir(t), "data")
	rig.MustRun(t, "backup-fetch", whole)
	want := site.RestoredTree(t, whole)
	kills := 0
	for _, mode := range []string{"fresh", "delta"} {
		prepare := func(t *testing.T) (target string, args []string) {
			target = filepath.Join(testenv.Dir(t), "data")
			args = []string{"backup-fetch", "-j2", target}
			if mode == "delta" {
				rig.Stale(t, whole, target)
				args = append(args, "--delta", "--discard-wal")
			}
			return target, args
		}
		_, args := prepare(t)
		var names []string // in the order in which they are renamed; each has a name of its own
		for _, c := range rig.Traced(t, site.Renames, args...) {
			if m := renameCall.FindStringSubmatch(c.Text); m != nil && !slices.Contains(names, m[1]) {
				names = append(names, m[1])
			}
		}
		if least := map[string]int{"fresh": 4, "delta": 5}[mode]; len(names) < least {
			t.Fatalf("%s: renames of %v, there should be %d at least", mode, names, least)
		}
		t.Logf("%s: renames of %v", mode, names)
		if !site.Torture() {
			names = []string{names[0], names[1], names[len(names)-1]}
		}
		for _, name := range names {
			t.Run(mode+" "+name, func(t *testing.T) {
				target, args := prepare(t)
				before := map[string]string{}
				if mode == "delta" {
					before = site.Tree(t, target)
				}
				options := append(site.Inject(site.Renames, "signal=SIGKILL:when=1"), "-P", name)
				if o := rig.Straced(t, options, args...); o.Code == 0 {
					t.Fatalf("it was to be killed: %v", o)
				}
				kills++
				// Until a delta restore has taken pg_control away it has touched nothing else.
				if mode == "delta" && site.Exists(filepath.Join(target, "global/pg_control")) {
					now := site.Tree(t, target)
					maps.DeleteFunc(now, func(path, _ string) bool { return strings.HasPrefix(path, "pgobj-restore-incomplete") })
					if d := site.Differences(before, now); d != nil {
						t.Errorf("pg_control is there, and %v", d)
					}
				} else {
					site.CheckNoStart(t, target)
				}
				rig.MustRun(t, "backup-fetch", target, "--delta", "--discard-wal")
				if d := site.Differences(want, site.RestoredTree(t, target)); d != nil {
					t.Errorf("the next run gives something else: %v", d)
				}
			})
		}
	}
	t.Logf("%d restores were killed", kills)
}

// TestTwoRestoresAtOnce: while one restore writes to a directory, another is told so and changes nothing; and one that
// made its plan before the other began does not write over its result.
func TestTwoRestoresAtOnce(t *testing.T) {
	t.Parallel()
	rig, server := site.NewS3Rig(t)
	want := site.Proof(t, rig.Cluster)
	rig.Push(t)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	place := testenv.Dir(t)
	target, waldir := filepath.Join(place, "data"), filepath.Join(place, "wal")
	later := filepath.Join(place, "later")
	second := func(t *testing.T, text string, args ...string) {
		t.Helper()
		f := rig.FailsWith(t, site.ExitTarget, "restore-directory", append([]string{"backup-fetch"}, args...)...)
		if !f.Names(text) || f.Names("to continue") && strings.Contains(text, "another pgobj") {
			t.Errorf("backup-fetch %v: want %q: %+v", args, text, f)
		}
	}
	o := rig.During(t, proxy, content(target), func(*os.Process) {
		before := site.Tree(t, place)
		second(t, "another pgobj", target, "--delta")
		second(t, "has an unfinished restore", target)
		second(t, "wal", later, "--waldir", waldir)
		if d := site.Differences(before, site.Tree(t, place)); d != nil && !slices.Equal(d, []string{"later is new"}) {
			t.Errorf("the second restore has changed something: %v", d)
		}
	}, "backup-fetch", "-j2", target, "--waldir", waldir)
	if o.Code != 0 {
		t.Fatalf("the first restore: %v", o)
	}
	// The second one's plan is made, but for the configuration that it looks at last; meanwhile another comes, and is
	// through.
	fresh, gets := filepath.Join(place, "fresh"), 0
	var before map[string]string
	o = rig.During(t, proxy, func(r faultproxy.Request) bool {
		if partGets(r) {
			gets++
		}
		return gets > 1 // the first is for the manifest
	}, func(*os.Process) {
		rig.MustRun(t, "backup-fetch", fresh)
		before = site.Tree(t, fresh)
	}, "backup-fetch", "-j2", fresh)
	if o.Code != site.ExitTarget || !strings.Contains(o.Err, "is not empty") {
		t.Errorf("want exit code %d and a refusal: %v", site.ExitTarget, o)
	}
	if d := site.Differences(before, site.Tree(t, fresh)); d != nil {
		t.Errorf("the late restore has changed something: %v", d)
	}
	for _, dir := range []string{target, fresh} {
		rig.Verify(t, dir)
		c := rig.Open(t, dir)
		if got := site.Proof(t, c); got != want {
			t.Errorf("the restored server answers %q, want %q", got, want)
		}
		c.Stop(t, "immediate")
	}
}

// content selects requests for what is written to the target: before its marker is there a restore is being planned.
func content(target string) faultproxy.When {
	return func(r faultproxy.Request) bool {
		return partGets(r) && site.Exists(filepath.Join(target, "pgobj-restore-incomplete"))
	}
}

// TestRestoreInBlackHole: downloads hang, some before their answer and some in the middle of it. SIGTERM ends the
// restore all the same.
func TestRestoreInBlackHole(t *testing.T) {
	t.Parallel()
	rig, server := site.NewS3Rig(t)
	rig.Bulky(t, 24)
	rig.Push(t)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	for name, fault := range map[string]faultproxy.Fault{"no answer": faultproxy.BlackHole(), "half an answer": faultproxy.CutBody(300_000, faultproxy.CutHang)} {
		for _, flag := range []string{"", "--delta"} {
			t.Run(name+flag, func(t *testing.T) {
				proxy.Reset()
				target, hung := filepath.Join(testenv.Dir(t), "data"), make(chan struct{}, 100)
				proxy.On(content(target), faultproxy.Hook(func(faultproxy.Request) { hung <- struct{}{} }))
				proxy.On(content(target), fault)
				args := []string{"backup-fetch", "-j2", target}
				if flag != "" {
					args = append(args, flag)
				}
				o := site.Execute(t, rig.Command(site.ViaProxy(proxy), args...), func(p *os.Process) {
					for range 2 { // both workers
						select {
						case <-hung:
						case <-time.After(site.Patience):
							t.Error("no download hangs")
						}
					}
					if err := p.Signal(syscall.SIGTERM); err != nil {
						t.Error(err)
					}
				})
				if o.Code != site.ExitInterrupted || !strings.Contains(o.Err, "--delta to continue") {
					t.Errorf("want exit code %d and what to do: %v", site.ExitInterrupted, o)
				}
				site.CheckNoStart(t, target)
				rig.MustRun(t, "backup-fetch", target, "--delta")
			})
		}
	}
}
