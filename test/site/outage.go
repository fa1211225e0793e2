package site

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/testenv"
)

// During runs a command through a proxy and calls do when its first request of a kind has arrived, which is held
// until do returns.
func (r *FaultRig) During(t *testing.T, p *faultproxy.Proxy, when faultproxy.When, do func(*os.Process), args ...string) Outcome {
	t.Helper()
	p.Reset()
	arrived, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	p.On(when, faultproxy.Hook(func(faultproxy.Request) { once.Do(func() { close(arrived) }) }))
	p.On(func(r faultproxy.Request) bool { return r.Fault != "" }, faultproxy.Hold(release))
	var did sync.WaitGroup
	o := Execute(t, r.Command(ViaProxy(p), args...), func(process *os.Process) {
		did.Go(func() {
			select {
			case <-arrived:
				do(process)
			case <-time.After(Patience): // the command hangs elsewhere, or has ended: the caller will see
			}
			close(release)
		})
	})
	did.Wait()
	return o
}

// WhileCopying selects requests for the index of a part, with which changed pages are found: they come while the
// backup is open in PostgreSQL. A small backup's own parts are stored after its end.
func WhileCopying() faultproxy.When {
	began := false
	return func(r faultproxy.Request) bool {
		began = began || KindOf(r) == "PUT record"
		return began && KindOf(r) == "GET part"
	}
}

var PartPuts = faultproxy.And(faultproxy.Method("PUT"), faultproxy.Path("/parts/"))

// Records returns the types of the records in the catalog's log.
func (r *FaultRig) Records(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(r.Repo, "main/catalog/log/*.json"))
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, p := range paths {
		types = append(types, string(typeOfRecord.FindSubmatch(ReadFile(t, p))[1]))
	}
	return types
}

// SetArchiveCommand changes it in the running server; "" takes that back.
func (r *FaultRig) SetArchiveCommand(t *testing.T, command string) {
	t.Helper()
	sql := `ALTER SYSTEM RESET archive_command`
	if command != "" {
		sql = `ALTER SYSTEM SET archive_command = '` + command + `'`
	}
	r.Cluster.Exec(t, sql)
	r.Cluster.Exec(t, `SELECT pg_reload_conf()`)
	r.Cluster.Eventually(t, `SELECT (setting = 'false')::text FROM pg_settings WHERE name = 'archive_command'`, fmt.Sprint(command == "false"))
}

// Tmpfs is a small file system that belongs to the user postgres.
func Tmpfs(t *testing.T, bytes int64) (dir string, resize func(bytes int64)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may mount a small file system to fill")
	}
	dir = testenv.Dir(t)
	mount := func(flags uintptr, bytes int64) {
		t.Helper()
		if err := syscall.Mount("tmpfs", dir, "tmpfs", flags, fmt.Sprintf("mode=0755,size=%d", bytes)); err != nil {
			t.Fatalf("mount a tmpfs: %v", err)
		}
	}
	mount(0, bytes)
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	if err := testenv.ChownPostgres(dir); err != nil {
		t.Fatal(err)
	}
	return dir, func(bytes int64) { mount(syscall.MS_REMOUNT, bytes) }
}

// Straced runs pgobj under strace with an injected fault, e.g. fsync:error=EIO:when=3. strace counts by thread.
func (r *FaultRig) Straced(t *testing.T, options []string, args ...string) Outcome {
	t.Helper()
	args = append(append(slices.Clone(options), "--", r.Pgobj), args...)
	return Execute(t, r.Program(nil, testenv.Tool(t, "strace"), args...), nil)
}

func Inject(syscalls, fault string) []string {
	return []string{"-f", "-qq", "-o", "/dev/null", "-e", "trace=" + syscalls, "-e", "inject=" + syscalls + ":" + fault}
}

const Renames = "rename,renameat,renameat2"

// call is one line of strace.
type call struct {
	at   string // seconds since 1970; all of one length
	Text string
}

// Traced runs a command and returns the given system calls of all its threads in order.
func (r *FaultRig) Traced(t *testing.T, syscalls string, args ...string) []call {
	t.Helper()
	dir := testenv.Dir(t)
	if o := r.Straced(t, []string{"-ff", "--seccomp-bpf", "-y", "-ttt", "-qq", "-s", "4096", "-o", filepath.Join(dir, "trace"), "-e", "trace=" + syscalls}, args...); o.Code != 0 {
		t.Fatal(o)
	}
	paths, err := filepath.Glob(filepath.Join(dir, "trace.*"))
	if err != nil {
		t.Fatal(err)
	}
	var calls []call
	for _, p := range paths {
		for line := range strings.Lines(string(ReadFile(t, p))) {
			at, text, _ := strings.Cut(strings.TrimSpace(line), " ")
			calls = append(calls, call{at, text})
		}
	}
	slices.SortStableFunc(calls, func(a, b call) int { return strings.Compare(a.at, b.at) })
	return calls
}
