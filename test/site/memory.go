package site

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// WithPeak runs a command and says how many MiB of memory it has had at most. Its rusage would count what the test
// itself had at the fork.
func WithPeak(t testing.TB, cmd *exec.Cmd) (o Outcome, peak int) {
	t.Helper()
	var watch sync.WaitGroup
	o = ExecuteWithin(t, Generous, cmd, func(p *os.Process) {
		watch.Go(func() {
			for mib := 0; mib >= 0; mib = memoryPeak(p.Pid) {
				peak = max(peak, mib)
			}
		})
	})
	watch.Wait()
	return o, peak
}

// memoryPeak is what a process has had at most so far, in MiB; -1 when it has ended.
func memoryPeak(pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, line, found := strings.Cut(string(status), "VmHWM:")
	var kib int
	if _, serr := fmt.Sscan(line, &kib); err != nil || !found || serr != nil {
		return -1
	}
	time.Sleep(10 * time.Millisecond) // paces the caller's poll
	return kib >> 10
}
