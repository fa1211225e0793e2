package wal

import (
	"os"
	"os/exec"
	"time"

	"github.com/pgobj/pgobj/storage/retry"
)

// What the two processes have in common that work ahead of PostgreSQL's requests (wal-push-ahead, wal-prefetch). What they
// do not manage soon is left to the process that PostgreSQL asks, which has the time that it takes.

const aheadStall = 10 * time.Second

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
