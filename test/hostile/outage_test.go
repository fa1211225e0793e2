package hostile

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/retry"
	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// A storage that is in trouble, but not gone: backup and restore through it are as through a calm one.
func TestStorms(t *testing.T) {
	t.Parallel()
	rig, server := site.NewS3Rig(t)
	// Some MB that do not compress, so that bodies are long enough to break in the middle.
	rig.Cluster.Exec(t, `CREATE TABLE bulk AS SELECT md5(i::text || 'a') || md5(i::text || 'b') AS t FROM generate_series(1, 100000) i`)
	want := site.Proof(t, rig.Cluster)
	base := site.TakeSnapshot(t, rig, server)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	get, put := faultproxy.Method("GET"), faultproxy.Method("PUT")
	parts := faultproxy.Path("/parts/")
	chance := func(seed uint64) faultproxy.When { return faultproxy.Chance(seed, 0.3) }
	for _, storm := range []struct {
		name string
		set  func()
	}{
		{"503", func() { proxy.On(chance(1), faultproxy.Fail(503, "SlowDown")) }},
		{"503 of a web server", func() { proxy.On(chance(2), faultproxy.Fail(503, "")) }},
		{"resets of uploads", func() {
			proxy.Times(6, put, faultproxy.CutUpload(1000))
			proxy.On(faultproxy.And(put, chance(3)), faultproxy.CutUpload(100_000))
		}},
		{"resets of downloads", func() {
			proxy.Times(4, faultproxy.And(get, parts), faultproxy.CutBody(50_000, faultproxy.CutReset))
			proxy.On(faultproxy.And(get, chance(4)), faultproxy.CutBody(100, faultproxy.CutReset))
		}},
		{"short bodies", func() {
			proxy.Times(4, faultproxy.And(get, parts), faultproxy.CutBody(50_000, faultproxy.CutClose))
			proxy.On(faultproxy.And(get, chance(5)), faultproxy.CutBody(100, faultproxy.CutClose))
		}},
		{"short bodies of parts that look whole", func() {
			proxy.Times(3, faultproxy.And(get, parts), faultproxy.CutBody(50_000, faultproxy.CutLength))
			proxy.Times(6, faultproxy.And(get, parts), faultproxy.CutBody(50_000, faultproxy.CutChunked))
		}},
		{"200 with an error inside", func() {
			proxy.Times(5, put, faultproxy.Replace200Error("InternalError"))
			proxy.On(faultproxy.And(put, chance(6)), faultproxy.Replace200Error("SlowDown"))
		}},
		{"200 with an error inside, on reading", func() { proxy.On(faultproxy.And(get, chance(7)), faultproxy.Replace200Error("InternalError")) }},
		{"slow", func() { proxy.On(faultproxy.Always, faultproxy.Delay(50*time.Millisecond)) }},
	} {
		t.Run(storm.name, func(t *testing.T) {
			defer base.Rollback(t)
			proxy.Reset()
			storm.set()
			o := site.Execute(t, rig.Command(site.ViaProxy(proxy), "backup-push", "-j2", "--wal-timeout=10m"), nil)
			if o.Code != 0 {
				t.Fatalf("backup-push: %v", o)
			}
			target := filepath.Join(testenv.Dir(t), "data")
			if o := site.Execute(t, rig.Command(site.ViaProxy(proxy), "backup-fetch", "-j2", target), nil); o.Code != 0 {
				t.Fatalf("backup-fetch: %v", o)
			}
			if hits := proxy.Count(func(r faultproxy.Request) bool { return r.Fault != "" }); hits < 4 {
				t.Errorf("only %d requests were hit:%s", hits, site.DescribeRequests(proxy))
			}
			rig.Verify(t, target)
			c := rig.Open(t, target)
			if got := site.Proof(t, c); got != want {
				t.Errorf("the restored server answers %q, want %q", got, want)
			}
			c.Stop(t, "immediate")
		})
	}
}

// A load balancer may send a request again when it misses the answer. That an object exists then, because the same request has
// made it, is no other writer's doing: nothing fails, nothing is done twice.
func TestRequestsThatComeTwice(t *testing.T) {
	t.Parallel()
	rig, server := site.NewS3Rig(t)
	want := site.Proof(t, rig.Cluster)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	proxy.On(faultproxy.Method("PUT"), faultproxy.Twice())
	must := func(args ...string) {
		t.Helper()
		if o := site.Execute(t, rig.Command(site.ViaProxy(proxy), args...), nil); o.Code != 0 {
			t.Fatalf("pgobj %v: %v", args, o)
		}
	}
	for range 3 {
		must("backup-push", "--wal-timeout=10m")
		rig.Touch(t)
	}
	segment := filepath.Join(rig.Cluster.Data, "pg_wal", rig.Cluster.SQL(t, `SELECT pg_walfile_name(pg_switch_wal())`))
	must("wal-push", segment)
	ids := rig.List(t)
	must("backup-mark", ids[0], "--pin")
	must("backup-mark", ids[0], "--unpin")
	must("delete", "oldest", "--confirm")
	if got := rig.List(t); len(ids) != 3 || !slices.Equal(got, ids[1:]) {
		t.Errorf("listed were %v, and are %v", ids, got)
	}
	records := []string{"server", "begin", "commit", "begin", "commit", "begin", "commit", "pin", "unpin", "delete", "purged"}
	if got := rig.Records(t); !slices.Equal(got, records) {
		t.Errorf("the log has %q, want %q", got, records)
	}
	if n := proxy.Count(faultproxy.Method("PUT")); n < 20 {
		t.Errorf("only %d requests came twice", n)
	}
	rig.MustRun(t, "backup-verify", "all")
	rig.CheckRestore(t, ids[2], want)
}

// Servers that do not know the condition under which pgobj stores an object replace what they have. The first backup says so.
func TestStorageThatReplaces(t *testing.T) {
	t.Parallel()
	rig, server := site.NewS3Rig(t)
	behind := site.OpenS3(t, server, server.Endpoint, retry.Policy{})
	proxy := faultproxy.ForTest(t, server.Endpoint)
	proxy.On(faultproxy.Method("PUT"), faultproxy.Hook(func(r faultproxy.Request) {
		key := strings.TrimPrefix(r.Path, "/"+server.Bucket+"/")
		if err := behind.Delete(t.Context(), key); err != nil {
			t.Error(err)
		}
	}))
	o := site.Execute(t, rig.Command(site.ViaProxy(proxy), "--log-format=json", "backup-push", "--wal-timeout=10m"), nil)
	o.MustFail(t, site.ExitNoStore, "storage-replaces")
	if ids := rig.List(t); len(ids) != 0 {
		t.Errorf("backup-list shows %v", ids)
	}
}

// A storage that takes requests and never answers: an error that says so, when patience ends.
func TestBlackHole(t *testing.T) {
	t.Parallel()
	rig, server := site.NewS3Rig(t)
	old := rig.Push(t)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	s := site.OpenS3(t, server, proxy.URL, retry.Policy{Budget: 2 * time.Second, Stall: 500 * time.Millisecond})
	for _, c := range []struct {
		name string
		when faultproxy.When
	}{
		{"from the beginning", faultproxy.Always},
		{"parts", faultproxy.And(faultproxy.Method("PUT"), faultproxy.Path("/parts/"))},
		{"commit", func(r faultproxy.Request) bool { return site.KindOf(r) == "PUT backup.json" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			proxy.Reset()
			proxy.On(c.when, faultproxy.BlackHole())
			err := rig.PushInto(t, s)
			if !errors.Is(err, storage.ErrTransient) || !strings.Contains(err.Error(), "no data moved for 500ms") {
				t.Errorf("the error is %v", err)
			}
			if ids := rig.List(t); len(ids) != 1 || ids[0] != old {
				t.Errorf("backup-list shows %v", ids)
			}
		})
	}
}

// The session that holds the backup open is lost: the backup is not valid, and the server is as if nothing had been.
func TestSessionLost(t *testing.T) {
	t.Parallel()
	rig, server := site.NewS3Rig(t)
	want := site.Proof(t, rig.Cluster)
	old := rig.Push(t)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	for _, c := range []struct {
		name string
		do   func(t *testing.T)
	}{
		{"terminated", func(t *testing.T) {
			if n := rig.Cluster.SQL(t, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'pgobj'`); n != "1" {
				t.Errorf("%s sessions of pgobj were terminated, want 1", n)
			}
		}},
		{"server stopped", func(t *testing.T) { rig.Cluster.Stop(t, "fast") }},
		{"server crashed", func(t *testing.T) { rig.Cluster.Kill(t) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			rig.Touch(t)
			o := rig.During(t, proxy, site.WhileCopying(), func(*os.Process) { c.do(t) }, "--log-format=json", "backup-push", "-j2")
			o.MustFail(t, site.ExitPostgres, "session-lost")
			if ids := rig.List(t); len(ids) != 1 || ids[0] != old {
				t.Errorf("backup-list shows %v", ids)
			}
			for _, name := range []string{"backup_label", "tablespace_map", "recovery.signal"} {
				if _, err := os.Stat(filepath.Join(rig.Cluster.Data, name)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s is in PGDATA: %v", name, err)
				}
			}
			if rig.Cluster.Running() {
				rig.Cluster.Stop(t, "fast")
			}
			rig.Cluster.Start(t)
			if got := site.Proof(t, rig.Cluster); got != want {
				t.Errorf("the server answers %q, want %q", got, want)
			}
		})
	}
	rig.CheckRestore(t, rig.Push(t), want)
}

// SIGTERM ends a command at once, whatever it waits for, with a code of its own; a push says so in the catalog.
func TestTerminate(t *testing.T) {
	t.Parallel()
	rig, server := site.NewS3Rig(t)
	old := rig.Push(t)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	// The command has to end while the store still keeps it waiting.
	terminate := func(t *testing.T) func(*os.Process) {
		return func(p *os.Process) {
			if err := p.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
			ended := func() bool {
				stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid))
				return err != nil || bytes.Contains(stat, []byte(") Z "))
			}
			ctx, cancel := context.WithTimeout(t.Context(), site.Patience/2) // before execute ends it in another way
			defer cancel()
			if err := testenv.Until(ctx, "it ends after SIGTERM", ended); err != nil {
				t.Error(err)
			}
		}
	}
	aborted := func(t *testing.T, o site.Outcome, before []string) {
		t.Helper()
		if o.Code != site.ExitInterrupted {
			t.Errorf("want exit code %d: %v", site.ExitInterrupted, o)
		}
		if now := rig.Records(t); !slices.Equal(now, append(before, "begin", "abort")) {
			t.Errorf("the log was %v and is %v", before, now)
		}
		if ids := rig.List(t); len(ids) != 1 || ids[0] != old {
			t.Errorf("backup-list shows %v", ids)
		}
	}
	t.Run("push, storing a part", func(t *testing.T) {
		before := rig.Records(t)
		aborted(t, rig.During(t, proxy, site.PartPuts, terminate(t), "backup-push", "-j2"), before)
	})
	t.Run("push, waiting for a checkpoint", func(t *testing.T) {
		before := rig.Records(t)
		rig.Cluster.Exec(t, `INSERT INTO proof SELECT 0, 'more to write at the checkpoint' FROM generate_series(1, 30000)`)
		aborted(t, site.Execute(t, rig.Command(nil, "backup-push", "--checkpoint=spread"), func(p *os.Process) {
			go func() { // ends the command, for which execute waits
				testenv.Until(t.Context(), "it waits for the checkpoint", func() bool {
					n, err := rig.Cluster.Query(t.Context(), "postgres", `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgobj' AND wait_event LIKE 'Checkpoint%'`)
					return err == nil && n == "1"
				})
				terminate(t)(p)
			}()
		}), before)
	})
	t.Run("push, waiting for WAL", func(t *testing.T) {
		before := rig.Records(t)
		rig.SetArchiveCommand(t, "false")
		walLists := func(r faultproxy.Request) bool { return site.KindOf(r) == "list" && strings.Contains(r.Query, "wal") }
		aborted(t, rig.During(t, proxy, walLists, terminate(t), "backup-push", "-j2"), before)
		rig.SetArchiveCommand(t, "")
	})
	t.Run("fetch", func(t *testing.T) {
		target := filepath.Join(testenv.Dir(t), "data")
		partGets := faultproxy.And(faultproxy.Method("GET"), faultproxy.Path("/parts/"))
		first := true
		afterManifest := func(r faultproxy.Request) bool { // the first is for the manifest's lines
			if !partGets(r) || first {
				first = first && !partGets(r)
				return false
			}
			return true
		}
		o := rig.During(t, proxy, afterManifest, terminate(t), "backup-fetch", "-j2", target)
		if o.Code != site.ExitInterrupted {
			t.Errorf("want exit code %d: %v", site.ExitInterrupted, o)
		}
		site.CheckNoStart(t, target)
	})
}

// Archiving does not work: the backup waits no longer than it may, and says for which segment.
func TestArchivingBroken(t *testing.T) {
	t.Parallel()
	rig := site.NewDirectoryRig(t)
	want := site.Proof(t, rig.Cluster)
	old := rig.Push(t)
	before := rig.Records(t)
	rig.SetArchiveCommand(t, "false")
	segment := rig.Cluster.SQL(t, `SELECT pg_walfile_name(pg_current_wal_lsn())`)
	f := rig.FailsWith(t, site.ExitWAL, "backup-wal-missing", "backup-push", "--wal-timeout=2s")
	if named := regexp.MustCompile(`segment ([0-9A-F]{24}) `).FindStringSubmatch(f.Text); named == nil || named[1] < segment || !f.Names("archive_command") {
		t.Errorf("want the name of a segment from %s on: %+v", segment, f)
	}
	if now := rig.Records(t); !slices.Equal(now, append(before, "begin", "abort")) {
		t.Errorf("the log was %v and is %v", before, now)
	}
	if ids := rig.List(t); len(ids) != 1 || ids[0] != old {
		t.Errorf("backup-list shows %v", ids)
	}
	rig.SetArchiveCommand(t, "")
	rig.CheckRestore(t, rig.Push(t), want)
}

func TestDiskFullOnRestore(t *testing.T) {
	t.Parallel()
	rig := site.NewDirectoryRig(t)
	rig.Push(t)
	var backups []struct{ Size int64 }
	if err := json.Unmarshal([]byte(rig.MustRun(t, "backup-list", "--json").Out), &backups); err != nil {
		t.Fatal(err)
	}
	t.Run("seen before", func(t *testing.T) {
		dir, _ := site.Tmpfs(t, backups[0].Size/2)
		if f := rig.FailsWith(t, site.ExitTarget, "restore-directory", "backup-fetch", filepath.Join(dir, "data")); !f.Names("free") {
			t.Errorf("want a word about space: %+v", f)
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
			t.Errorf("something was written: %v %v", names, err)
		}
	})
	t.Run("in the middle", func(t *testing.T) {
		// Enough for the bytes, not for the files, which take whole pages of memory.
		dir, _ := site.Tmpfs(t, backups[0].Size)
		target := filepath.Join(dir, "data")
		o := rig.Run(t, "backup-fetch", target)
		if o.Code == 0 || !strings.Contains(o.Err, "no space left") {
			t.Errorf("want an error about space: %v", o)
		}
		site.CheckNoControl(t, target)
	})
}

func TestDiskFullInRepository(t *testing.T) {
	t.Parallel()
	repo, resize := site.Tmpfs(t, 12<<20)
	rig := site.NewFaultRig(t, repo, []string{"PGOBJ_STORAGE=file://" + repo})
	old := rig.Push(t)
	base := site.Snapshot{Repo: repo, Objs: site.Objects(t, repo)}
	rig.Cluster.Exec(t, `CREATE TABLE bulk AS SELECT md5(i::text || 'a') || md5(i::text || 'b') AS t FROM generate_series(1, 200000) i`)
	want := site.Proof(t, rig.Cluster)
	o := rig.Run(t, "backup-push", "--wal-timeout=5s")
	if o.Code == 0 || !strings.Contains(o.Err, "no space left") {
		t.Errorf("want an error about space: %v", o)
	}
	base.Unchanged(t)
	if ids := rig.List(t); len(ids) != 1 || ids[0] != old {
		t.Errorf("backup-list shows %v", ids)
	}
	resize(128 << 20)
	rig.Cluster.Exec(t, `SELECT pg_switch_wal()`) // wakes the archiver, which waits a minute after three failures
	rig.CheckRestore(t, rig.Push(t), want)
	base.Unchanged(t)
	rig.CheckRestore(t, old, want)
}

// backup-fetch is killed at every request: PostgreSQL does not start on what it leaves, and it can be run again.
func TestRestoreKilledAtEveryRequest(t *testing.T) {
	t.Parallel()
	rig, server := site.NewS3Rig(t)
	rig.Push(t)
	proxy := faultproxy.ForTest(t, server.Endpoint)
	kills := 0
	for n := 1; ; n++ {
		proxy.Reset()
		v := site.NewVictim()
		target := filepath.Join(testenv.Dir(t), "data")
		proxy.On(faultproxy.Nth(n), faultproxy.DropResponse(func(faultproxy.Request) { v.Kill() }))
		o := site.Execute(t, rig.Command(site.ViaProxy(proxy), "backup-fetch", "-j2", target), v.Started)
		if !v.Dead {
			if o.Code != 0 {
				t.Errorf("nothing was done to this run: %v", o)
			}
			break
		}
		kills++
		site.CheckNoStart(t, target)
	}
	if requests := len(proxy.Requests()); kills < requests || kills < 8 {
		t.Errorf("%d kills, %d requests", kills, requests)
	}
}

// The same at points between requests: a kill in the middle of syncing and at each rename.
func TestRestoreKilledAtSyscalls(t *testing.T) {
	t.Parallel()
	rig := site.NewDirectoryRig(t)
	want := site.Proof(t, rig.Cluster)
	rig.Push(t)
	for syscalls, numbers := range map[string][]int{"fsync": {1, 10, 40, 100}, "fchmodat,fchmod": {1, 30}, site.Renames: {1, 2, 3}} {
		for _, n := range numbers {
			t.Run(fmt.Sprintf("%s %d", syscalls, n), func(t *testing.T) {
				target := filepath.Join(testenv.Dir(t), "data")
				o := rig.Straced(t, site.Inject(syscalls, fmt.Sprintf("signal=SIGKILL:when=%d", n)), "backup-fetch", "-j2", target)
				if _, err := os.Lstat(filepath.Join(target, "global/pg_control")); err == nil {
					// It came as far as that: then all has to be there. The strict order is TestFsyncAudit's.
					rig.Verify(t, target)
					c := rig.Open(t, target)
					if got := site.Proof(t, c); got != want {
						t.Errorf("the restored server answers %q, want %q", got, want)
					}
					return
				}
				if o.Code == 0 {
					t.Errorf("success without pg_control: %v", o)
				}
				site.CheckNoStart(t, target)
			})
		}
	}
}

// Every sync that fails is an error: of a restore, and of a push to a directory.
func TestSyncFails(t *testing.T) {
	t.Parallel()
	rig := site.NewDirectoryRig(t)
	want := site.Proof(t, rig.Cluster)
	old := rig.Push(t)
	for _, n := range []int{1, 2, 15, 60} {
		t.Run(fmt.Sprintf("restore %d", n), func(t *testing.T) {
			target := filepath.Join(testenv.Dir(t), "data")
			o := rig.Straced(t, site.Inject("fsync", fmt.Sprintf("error=EIO:when=%d", n)), "backup-fetch", "-j2", target)
			if o.Code <= 0 || !strings.Contains(o.Err, "input/output error") {
				t.Errorf("want an error: %v", o)
			}
			site.CheckNoControl(t, target)
		})
	}
	for n := 1; n <= 3; n++ {
		t.Run(fmt.Sprintf("push %d", n), func(t *testing.T) {
			rig.Touch(t)
			o := rig.Straced(t, site.Inject("fsync", fmt.Sprintf("error=EIO:when=%d", n)), "backup-push", "-j2", "--wal-timeout=10m")
			if o.Code <= 0 || !strings.Contains(o.Err, "input/output error") {
				t.Errorf("want an error: %v", o)
			}
			if ids := rig.List(t); len(ids) != 1 || ids[0] != old {
				t.Errorf("backup-list shows %v", ids)
			}
		})
	}
	rig.CheckRestore(t, rig.Push(t), want)
}

var (
	createdFile = regexp.MustCompile(`^openat\(.*O_CREAT.* = \d+<(.*)>$`)
	madeEntry   = regexp.MustCompile(`^(?:mkdirat|symlinkat)\((?:".*", )?(?:\d+|AT_FDCWD)<([^>]*)>, "([^"]*)".* = 0$`)
	madeDir     = regexp.MustCompile(`^mkdir\("(.*)", .* = 0$`)
	renamed     = regexp.MustCompile(`^renameat2?\((?:\d+|AT_FDCWD)<([^>]*)>, "([^"]*)", (?:\d+|AT_FDCWD)<([^>]*)>, "([^"]*)".* = 0$`)
	synced      = regexp.MustCompile(`^fsync\(\d+<(.*)>\) += 0$`)
)

// When pg_control gets its name, and PostgreSQL could start, every file and every directory that got an entry has
// been synced: a power cut then loses nothing.
func TestFsyncAudit(t *testing.T) {
	t.Parallel()
	rig := site.NewDirectoryRig(t)
	rig.Push(t)
	target := filepath.Join(testenv.Dir(t), "data")
	calls := rig.Traced(t, "openat,mkdir,mkdirat,symlinkat,fsync,"+site.Renames, "backup-fetch", "-j2", target)
	files, dirs, finished := map[string]bool{}, map[string]bool{}, false // path → synced since its last change
	enter := func(path string) { dirs[filepath.Dir(path)] = false }
	for _, c := range calls {
		if finished {
			if m := synced.FindStringSubmatch(c.Text); m != nil {
				dirs[m[1]] = true
			}
			continue
		}
		if m := createdFile.FindStringSubmatch(c.Text); m != nil && strings.HasPrefix(m[1], target) {
			files[m[1]] = false
			enter(m[1])
		} else if m := madeEntry.FindStringSubmatch(c.Text); m != nil {
			path := m[2]
			if !filepath.IsAbs(path) {
				path = filepath.Join(m[1], path)
			}
			enter(path)
		} else if m := madeDir.FindStringSubmatch(c.Text); m != nil {
			enter(m[1])
		} else if m := synced.FindStringSubmatch(c.Text); m != nil {
			if _, ok := files[m[1]]; ok {
				files[m[1]] = true
			}
			dirs[m[1]] = true
		} else if m := renamed.FindStringSubmatch(c.Text); m != nil {
			to := filepath.Join(m[3], m[4])
			if to == filepath.Join(target, "global/pg_control") {
				finished = true
				for path, ok := range files {
					if !ok {
						t.Errorf("%s was not synced before pg_control got its name", path)
					}
				}
				for path, ok := range dirs {
					if !ok {
						t.Errorf("directory %s was not synced before pg_control got its name", path)
					}
				}
			}
			enter(to)
		}
	}
	if !finished || len(files) < 900 || len(dirs) < 20 {
		t.Errorf("the trace shows %d files, %d directories; pg_control got its name: %v", len(files), len(dirs), finished)
	}
	if !dirs[filepath.Join(target, "global")] {
		t.Error("pg_control's directory was not synced after it got its name")
	}
}
