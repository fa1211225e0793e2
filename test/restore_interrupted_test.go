package test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/testenv"
)

// bulky adds to a rig's data directory what makes a backup of some parts: bytes that cannot be compressed.
func (r *faultRig) bulky(t *testing.T, megabytes int) {
	t.Helper()
	dir := filepath.Join(r.cluster.Data, "bulk")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	rnd := rand.NewChaCha8([32]byte{byte(megabytes)})
	for i := range megabytes {
		putFile(t, filepath.Join(dir, fmt.Sprintf("%03d", i)), randomBytes(rnd, 1<<20))
	}
	if err := testenv.ChownPostgres(dir); err != nil {
		t.Fatal(err)
	}
}

var partGets = faultproxy.And(faultproxy.Method("GET"), faultproxy.Path("/parts/"))

// TestRestoreKilledEvery5Percent: killed when every twentieth of the bytes has come (in the short form every fifth),
// PostgreSQL does not start on what is there, and the next run goes on to the same files as if nothing had been.
func TestRestoreKilledEvery5Percent(t *testing.T) {
	t.Parallel()
	rig, server := newS3Rig(t)
	rig.bulky(t, 20)
	rig.push(t)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	good := filepath.Join(testenv.Dir(t), "data")
	o := execute(t, rig.command(viaProxy(proxy), "backup-fetch", "-j1", good), nil)
	if o.code != 0 {
		t.Fatal(o)
	}
	want := restoredTree(t, good)
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
	if torture() {
		step, least = 5, 40
	}
	for percent := int64(0); percent < 100; percent += step {
		for _, delta := range []bool{false, true} {
			if delta && percent%40 != 20 && !torture() {
				continue
			}
			t.Run(fmt.Sprintf("%d %%, delta %v", percent, delta), func(t *testing.T) {
				target := filepath.Join(testenv.Dir(t), "data")
				args := []string{"backup-fetch", "-j1", target}
				if delta { // of a data directory of which nothing fits, and whose pg_control is whole
					rig.stale(t, good, target)
					args = append(args, "--delta", "--discard-wal")
				}
				n, at := 0, total*percent/100
				for at >= sizes[n] {
					at -= sizes[n]
					n++
				}
				proxy.Reset()
				v, seen := newVictim(), -1
				proxy.On(func(r faultproxy.Request) bool {
					if partGets(r) {
						seen++
						return seen == n
					}
					return false
				}, faultproxy.CutBody(at, faultproxy.CutHang, func(faultproxy.Request) { v.kill() }))
				if o := execute(t, rig.command(viaProxy(proxy), args...), v.started); o.code != -1 {
					t.Fatalf("it was to be killed: %v", o)
				}
				kills++
				checkNoStart(t, target)
				if o := rig.run(t, "backup-fetch", target, "--delta", "--discard-wal"); o.code != 0 {
					t.Fatalf("the next run: %v", o)
				}
				if d := differences(want, restoredTree(t, target)); d != nil {
					t.Errorf("the next run gives something else: %v", d)
				}
			})
		}
	}
	if t.Logf("%d restores of %d MB were killed", kills, total>>20); kills < least && !t.Failed() {
		t.Errorf("only %d restores were killed", kills)
	}
}

// stale makes a copy of a restored folder in which every file has other bytes, but for those that PostgreSQL and
// pgobj know a data directory by.
func (r *faultRig) stale(t *testing.T, from, to string) {
	t.Helper()
	if o := execute(t, r.program(nil, "cp", "-a", from, to), nil); o.code != 0 {
		t.Fatal(o)
	}
	script := `find "$0" -type f -size +0 ! -name PG_VERSION ! -name pg_control -exec sh -c 'for f; do printf "stale" | dd of="$f" conv=notrunc status=none; done' sh {} +`
	if o := execute(t, r.program(nil, "sh", "-c", script, to), nil); o.code != 0 {
		t.Fatal(o)
	}
}

var renameCall = regexp.MustCompile(`^renameat2?\(.*, "([^"]*)", .*, "([^"]*)".* = 0$`)

// TestRestoreKilledAtEveryRename: a file gets its name, or loses it, in one step. Before each of these a restore is
// killed, a fresh one and a delta one: PostgreSQL does not start on what is there, and the next run completes it. The short
// form kills before the first two, of which one takes pg_control away, and the last.
func TestRestoreKilledAtEveryRename(t *testing.T) {
	t.Parallel()
	rig := newFolderRig(t)
	rig.push(t)
	whole := filepath.Join(testenv.Dir(t), "data")
	rig.mustRun(t, "backup-fetch", whole)
	want := restoredTree(t, whole)
	kills := 0
	for _, mode := range []string{"fresh", "delta"} {
		prepare := func(t *testing.T) (target string, args []string) {
			target = filepath.Join(testenv.Dir(t), "data")
			args = []string{"backup-fetch", "-j2", target}
			if mode == "delta" {
				rig.stale(t, whole, target)
				args = append(args, "--delta", "--discard-wal")
			}
			return target, args
		}
		_, args := prepare(t)
		var names []string // in the order in which they are renamed; each has a name of its own
		for _, c := range rig.traced(t, renames, args...) {
			if m := renameCall.FindStringSubmatch(c.text); m != nil && !slices.Contains(names, m[1]) {
				names = append(names, m[1])
			}
		}
		if least := map[string]int{"fresh": 4, "delta": 5}[mode]; len(names) < least {
			t.Fatalf("%s: renames of %v, there should be %d at least", mode, names, least)
		}
		t.Logf("%s: renames of %v", mode, names)
		if !torture() {
			names = []string{names[0], names[1], names[len(names)-1]}
		}
		for _, name := range names {
			t.Run(mode+" "+name, func(t *testing.T) {
				target, args := prepare(t)
				before := map[string]string{}
				if mode == "delta" {
					before = tree(t, target)
				}
				options := append(inject(renames, "signal=SIGKILL:when=1"), "-P", name)
				if o := rig.straced(t, options, args...); o.code == 0 {
					t.Fatalf("it was to be killed: %v", o)
				}
				kills++
				// Until a delta restore has taken pg_control away it has touched nothing else.
				if mode == "delta" && exists(filepath.Join(target, "global/pg_control")) {
					now := tree(t, target)
					maps.DeleteFunc(now, func(path, _ string) bool { return strings.HasPrefix(path, "pgobj-restore-incomplete") })
					if d := differences(before, now); d != nil {
						t.Errorf("pg_control is there, and %v", d)
					}
				} else {
					checkNoStart(t, target)
				}
				rig.mustRun(t, "backup-fetch", target, "--delta", "--discard-wal")
				if d := differences(want, restoredTree(t, target)); d != nil {
					t.Errorf("the next run gives something else: %v", d)
				}
			})
		}
	}
	t.Logf("%d restores were killed", kills)
}

// TestTwoRestoresAtOnce: while one restore writes to a folder, another is told so and changes nothing; and one that
// made its plan before the other began does not write over its result.
func TestTwoRestoresAtOnce(t *testing.T) {
	t.Parallel()
	rig, server := newS3Rig(t)
	want := proof(t, rig.cluster)
	rig.push(t)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	place := testenv.Dir(t)
	target, waldir := filepath.Join(place, "data"), filepath.Join(place, "wal")
	later := filepath.Join(place, "later")
	second := func(t *testing.T, text string, args ...string) {
		t.Helper()
		o := rig.run(t, append([]string{"backup-fetch"}, args...)...)
		if o.code != exitTarget || !strings.Contains(o.err, text) || strings.Contains(o.err, "to go on") && strings.Contains(text, "another pgobj") {
			t.Errorf("backup-fetch %v: want exit code %d and %q: %v", args, exitTarget, text, o)
		}
	}
	o := rig.during(t, proxy, content(target), func(*os.Process) {
		before := tree(t, place)
		second(t, "another pgobj is restoring to "+target, target, "--delta")
		second(t, "holds a restore that did not end", target)
		second(t, "wal", later, "--waldir", waldir)
		if d := differences(before, tree(t, place)); d != nil && !slices.Equal(d, []string{"later is new"}) {
			t.Errorf("the second restore has changed something: %v", d)
		}
	}, "backup-fetch", "-j2", target, "--waldir", waldir)
	if o.code != 0 {
		t.Fatalf("the first restore: %v", o)
	}
	// The second one's plan is made, but for the configuration that it looks at last; meanwhile another comes, and is
	// through.
	fresh, gets := filepath.Join(place, "fresh"), 0
	var before map[string]string
	o = rig.during(t, proxy, func(r faultproxy.Request) bool {
		if partGets(r) {
			gets++
		}
		return gets > 1 // the first is for the manifest
	}, func(*os.Process) {
		rig.mustRun(t, "backup-fetch", fresh)
		before = tree(t, fresh)
	}, "backup-fetch", "-j2", fresh)
	if o.code != exitTarget || !strings.Contains(o.err, "is not empty") {
		t.Errorf("want exit code %d and a refusal: %v", exitTarget, o)
	}
	if d := differences(before, tree(t, fresh)); d != nil {
		t.Errorf("the late restore has changed something: %v", d)
	}
	for _, dir := range []string{target, fresh} {
		rig.verify(t, dir)
		c := rig.open(t, dir)
		if got := proof(t, c); got != want {
			t.Errorf("the restored server answers %q, want %q", got, want)
		}
		c.Stop(t, "immediate")
	}
}

// content selects requests for what is written to the target: before its marker is there a restore is being planned.
func content(target string) faultproxy.When {
	return func(r faultproxy.Request) bool {
		return partGets(r) && exists(filepath.Join(target, "pgobj-restore-incomplete"))
	}
}

// TestRestoreInBlackHole: downloads hang, some before their answer and some in the middle of it. SIGTERM ends the
// restore all the same.
func TestRestoreInBlackHole(t *testing.T) {
	t.Parallel()
	rig, server := newS3Rig(t)
	rig.bulky(t, 24)
	rig.push(t)
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
				o := execute(t, rig.command(viaProxy(proxy), args...), func(p *os.Process) {
					for range 2 { // both workers
						select {
						case <-hung:
						case <-time.After(patience):
							t.Error("no download hangs")
						}
					}
					if err := p.Signal(syscall.SIGTERM); err != nil {
						t.Error(err)
					}
				})
				if o.code != exitInterrupted || !strings.Contains(o.err, "Run the same command with --delta to go on") {
					t.Errorf("want exit code %d and what to do: %v", exitInterrupted, o)
				}
				checkNoStart(t, target)
				rig.mustRun(t, "backup-fetch", target, "--delta")
			})
		}
	}
}
