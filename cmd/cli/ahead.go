package cli

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"reflect"
	"time"

	"github.com/pgobj/pgobj/storage/retry"
)

// What the two processes have in common that work ahead of PostgreSQL's requests (wal-push-ahead, wal-prefetch). What they
// do not manage soon is left to the process that PostgreSQL asks, which has the time that it takes.

const (
	aheadStall = 10 * time.Second
	aheadWatch = 500 * time.Millisecond // between looks at the server
)

var aheadPolicy = retry.Policy{Budget: time.Second, Stall: aheadStall}

// startSelf starts this program with other arguments, without our stderr: a log's reader would wait for its end. The process
// stays in the process group of the server's process that has asked us, so that it is ended with it.
func startSelf(args []string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, args...)
	return cmd, cmd.Start()
}

// mayWorkAhead says why no process may be started that works ahead for the server on a data folder; nil: one may. When the
// one that started it ends, a process becomes the child of process 1. Where that is the postmaster, as in containers, it
// takes the end of any child by a signal, or with another code than 0 or 1, for a backend's crash, and restarts the server:
// up to version 17 in CleanupBackend, from 18 on as an "untracked child process" (postmaster.c).
func mayWorkAhead(dataDir string) error {
	pid, _, ok := runningPostmaster(dataDir)
	switch {
	case !ok:
		return errors.New("no server runs in the data folder")
	case pid == 1:
		return errors.New("the postmaster is process 1, and would take the end of a process of ours for a crash: give its container an init, as docker run --init does")
	}
	return nil
}

// followServer calls end soon after the end of a run of the server on a data folder, or when still says so.
func followServer(ctx context.Context, end context.CancelFunc, dataDir, run string, still func() bool) {
	defer end()
	tick := time.NewTicker(aheadWatch)
	defer tick.Stop()
	for serverRuns(dataDir) && serverRun(dataDir) == run && still() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// args are the settings as flags for another process of this program.
func (s *Settings) args() []string {
	var out []string
	v := reflect.ValueOf(*s)
	for i := range v.NumField() {
		name, ok := v.Type().Field(i).Tag.Lookup("name")
		if ok && v.Field(i).Kind() == reflect.String && v.Field(i).String() != "" {
			out = append(out, "--"+name+"="+v.Field(i).String())
		}
	}
	return out
}
