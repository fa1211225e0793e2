package cli

import (
	"context"
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

// neverFails ends a process with code 0 whatever happened. Where the postmaster is process 1, as in containers, the process
// becomes its child when the one that started it ends; and up to version 17 a postmaster takes the end of any child with
// another code than 0 or 1 for a backend's crash, and restarts the server (CleanupBackend in postmaster.c).
func neverFails(a *app, err error) error {
	if err != nil {
		a.log.Debug("nothing more is done ahead", "error", err)
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
