package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pgobj/pgobj/test/testenv"
)

// usage is what one run of one tool took.
type usage struct {
	wall   time.Duration
	cpu    time.Duration // user and system, of the tool's processes
	server time.Duration // user and system, of the PostgreSQL server meanwhile
	others time.Duration // the same of everything else on the machine: the noise
	peak   int64         // bytes of memory, see measure
}

// measure runs a command as the user postgres, with dirty pages written out before, and says what it took:
//   - cpu is what wait4 gives: the process and all descendants that were waited for.
//   - peak is the larger of two numbers that are looked at every 50 ms: the kernel's own maximum for each single
//     process (VmHWM), and the sum over all processes of the tool with shared pages counted once (PSS). What
//     wait4 tells of it is no use: it counts what this program had when it forked.
//   - server is the difference of the CPU time of the tree of processes at postmaster, 0 for none.
func measure(ctx context.Context, env []string, postmaster int, args ...string) (usage, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	testenv.AsPostgres(cmd)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	syscall.Sync()
	before, busy := treeCPU(postmaster), machineCPU()
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return usage{}, err
	}
	quit, peak := make(chan struct{}), make(chan int64)
	go watchMemory(cmd.Process.Pid, quit, peak) // ends before measure does
	err := cmd.Wait()
	u := usage{wall: time.Since(start)}
	busy = machineCPU() - busy
	close(quit)
	u.peak = <-peak
	if err != nil {
		return u, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out.String())
	}
	u.server = treeCPU(postmaster) - before
	u.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	u.others = max(0, busy-u.cpu-u.server)
	return u, nil
}

// watchMemory sends the highest sum of PSS over pid and its descendants, or the highest VmHWM of one of them, that
// it saw until quit was closed.
func watchMemory(pid int, quit <-chan struct{}, peak chan<- int64) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	highest := int64(0)
	for {
		select {
		case <-quit:
			peak <- highest
			return
		case <-tick.C:
			sum := int64(0)
			walkTree(pid, func(p int) {
				sum += kilobytes(p, "smaps_rollup", "Pss:")
				highest = max(highest, kilobytes(p, "status", "VmHWM:"))
			})
			highest = max(highest, sum)
		}
	}
}

// walkTree calls f for pid and all its descendants. One that ends meanwhile may be left out.
func walkTree(pid int, f func(pid int)) {
	f(pid)
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid)) // gone: no children
	for field := range strings.FieldsSeq(string(children)) {
		if child, err := strconv.Atoi(field); err == nil {
			walkTree(child, f)
		}
	}
}

// kilobytes is a number of bytes that a file below /proc/PID has in kB; 0 when the process is gone.
func kilobytes(pid int, file, label string) int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, label); ok {
			kB, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return kB << 10
		}
	}
	return 0
}

// treeCPU is the CPU time of a process and its descendants, with those that have ended: their parents carry
// it on (cutime and cstime of proc(5)), so that nothing is lost or counted twice.
func treeCPU(pid int) time.Duration {
	if pid == 0 {
		return 0
	}
	ticks := jiffies(0)
	walkTree(pid, func(p int) {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
		_, rest, _ := strings.Cut(string(stat), ") ") // the name before it may hold blanks
		if f := strings.Fields(rest); len(f) > 14 {
			for _, value := range f[11:15] { // utime stime cutime cstime
				n, _ := strconv.ParseInt(value, 10, 64)
				ticks += jiffies(n)
			}
		}
	})
	return ticks.duration()
}

// jiffies is CPU time as /proc counts it.
type jiffies int64

func (j jiffies) duration() time.Duration {
	return time.Duration(j) * 10 * time.Millisecond // USER_HZ is 100 on every Linux
}

// machineCPU is the CPU time that all processes have used since the machine started, with what the
// hypervisor took.
func machineCPU() time.Duration {
	text, _ := os.ReadFile("/proc/stat")
	first, _, _ := strings.Cut(string(text), "\n")
	busy := jiffies(0)
	for i, value := range strings.Fields(first) { // cpu user nice system idle iowait irq softirq steal guest …
		if n, err := strconv.ParseInt(value, 10, 64); err == nil && i <= 8 && i != 4 && i != 5 {
			busy += jiffies(n)
		}
	}
	return busy.duration()
}

// treeSize is the sum of the sizes of all files below dir, those in directories with a name in without left out.
func treeSize(dir string, without ...string) (int64, error) {
	sum := int64(0)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			for _, name := range without {
				if d.Name() == name {
					return filepath.SkipDir
				}
			}
			return nil
		}
		info, err := d.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	return sum, err
}
