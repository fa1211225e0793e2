package site

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/testenv"
)

// Helpers are the processes with a command of pgobj's that work ahead for a data directory.
func Helpers(t testing.TB, command, dataDir string) (pids []int) {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	Must(t, err)
	for _, p := range procs {
		line, _ := os.ReadFile(p) // it may have ended
		args := strings.Split(string(line), "\x00")
		if len(args) > 3 && args[1] == command && args[3] == dataDir {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			Must(t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}

func NoHelpers(t testing.TB, command, dataDir string) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second) // what the issue promises; the wait is the test
	for len(Helpers(t, command, dataDir)) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("processes %v are left 5 s after the end", Helpers(t, command, dataDir))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func NoPrefetchers(t testing.TB, dataDir string) { NoHelpers(t, "wal-prefetch", dataDir) }

// Recovery turns a rig into a data directory in whose server a recovery runs, as far as wal-fetch can tell.
func (r *WalRig) Recovery(t testing.TB) {
	t.Helper()
	r.Put(t, "../recovery.signal", nil)
	r.Put(t, "../postmaster.pid", []byte(r.postmaster(t)))
	t.Cleanup(func() {
		Must(t, os.Remove(filepath.Join(r.Data, "recovery.signal")))
		NoPrefetchers(t, r.Data)
		if left, _ := filepath.Glob(filepath.Join(r.SpoolDir(), "fetched-*")); len(left) > 0 {
			t.Errorf("windows are left: %v", left)
		}
	})
}

// Window returns the files of the window once there are n whole segments in it and none is on its way.
func (r *WalRig) Window(t testing.TB, n int) map[string]string {
	t.Helper()
	files := map[string]string{}
	testenv.Eventually(t, Patience, fmt.Sprintf("%d segments are in the window", n), func() bool {
		clear(files)
		all, err := filepath.Glob(filepath.Join(r.SpoolDir(), "fetched-*", "*.*"))
		Must(t, err)
		for _, f := range all {
			name, ext, _ := strings.Cut(filepath.Base(f), ".")
			if ext == "part" {
				return false
			}
			files[name] = f
		}
		return len(files) == n
	})
	return files
}

func (r *WalRig) FetchesAhead(t testing.TB, name string, want []byte) (ahead bool) {
	t.Helper()
	o, got := r.Fetch(t, name, "--log-level=debug")
	if o.Code != 0 || !bytes.Equal(got, want) {
		t.Errorf("wal-fetch %s gives %d bytes of %d: %v", name, len(got), len(want), o)
	}
	return strings.Contains(o.Err, `msg="fetched ahead"`)
}
