package datadir

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

func TestRunning(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{Template: true})
	if pid, running, err := Running(c.Data); !running || pid != c.PID() || err != nil {
		t.Errorf("running: %d, %t, %v", pid, running, err)
	}
	pidFile := read(t, filepath.Join(c.Data, "postmaster.pid"))
	shm := strings.Split(string(pidFile), "\n")[6]
	if on, err := attached(shm); !on || err != nil {
		t.Errorf("shared memory %q: %t, %v", shm, on, err)
	}
	c.Kill(t)
	testenv.Eventually(t, time.Minute, "the killed server is gone", func() bool {
		pid, running, err := Running(c.Data)
		return !running && pid != 0 && err == nil
	})
	c.Start(t)
	c.Stop(t, "fast")
	if pid, running, err := Running(c.Data); running || pid != 0 || err != nil {
		t.Errorf("stopped: %d, %t, %v", pid, running, err)
	}
	for content, want := range map[string]string{"": "error", "x\n": "error", fmt.Sprintf("%d\n/x\n", os.Getpid()): "no", "1\n/x\n": "yes"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "postmaster.pid"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, running, err := Running(dir)
		if got := map[bool]string{true: "yes", false: "no"}[running]; err == nil && got != want || err != nil && want != "error" {
			t.Errorf("%q: %t, %v; want %s", content, running, err, want)
		}
	}
}
