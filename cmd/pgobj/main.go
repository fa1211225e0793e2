// pgobj backs up PostgreSQL to object storage. This file only connects the process to package cli.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/pgobj/pgobj/cmd/cli"
	"github.com/pgobj/pgobj/cmd/cli/app"
)

// version is set by the linker.
var version = "development"

func main() {
	// PostgreSQL's archiver dies of a command that a signal ended, and does not count the failure
	// (wait_result_is_any_signal: exit codes above 128): so every signal that can be caught becomes an
	// ordinary error. SIGPIPE is ignored for the same reason: a closed stderr is no reason to die.
	signal.Ignore(syscall.SIGPIPE)
	// Nothing stops that: a signal in between would end the process after all, and undoing it takes a tenth of a millisecond.
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	os.Exit(cli.Run(ctx, version, os.Args[1:], app.Streams{Out: os.Stdout, Err: os.Stderr}))
}
