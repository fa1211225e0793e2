// Command demo shows pgobj's main job on this machine, step by step: a throw-away PostgreSQL archives to
// a directory (or, with -s3, to an S3 server, versitygw, that is started for the purpose), is backed up, loses a table and
// then everything, and comes back as it was a second before the mistake. It compares every row, and
// fails when one differs.
//
// It runs from the source tree after test/install, listens on a unix socket only (versitygw on 127.0.0.1),
// and leaves nothing behind, whatever happens.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/pgobj/pgobj/test/s3server"
	"github.com/pgobj/pgobj/test/testenv"
)

func main() {
	onS3 := flag.Bool("s3", false, "store in an S3 server (versitygw) instead of a directory")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *onS3, os.Stdout)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case interrupted:
		fmt.Fprintln(os.Stderr, "\ndemo: interrupted; everything that was started is stopped and removed")
		os.Exit(130)
	case err != nil:
		fmt.Fprintf(os.Stderr, "\ndemo: FAILED: %v\n", err)
		os.Exit(1)
	}
}

// run is the whole demonstration. Whatever it started or made is gone when it returns.
func run(ctx context.Context, onS3 bool, w io.Writer) (err error) {
	if err := forgetSettings(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Minute, errors.New("the demo hangs"))
	defer cancel()
	base, err := testenv.MakeDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(base)) }()

	t := &tour{w: w, base: base, began: time.Now()}
	t.say("pgobj in %s: back up, lose everything, come back to the second before.", map[bool]string{false: "a directory", true: "an S3 bucket"}[onS3])
	if onS3 {
		s3, err := s3server.Start(ctx, s3server.Versity) // MinIO takes three times as long to build on a new machine
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s3.Stop()) }()
		t.storage = append(s3.Env(), "PGOBJ_STORAGE="+s3.URL("demo"), "PGOBJ_S3_ENDPOINT="+s3.Endpoint)
		t.hidden = s3.SecretKey
	} else {
		repository, err := t.makeRepository()
		if err != nil {
			return err
		}
		t.storage = []string{"PGOBJ_STORAGE=file://" + repository}
	}
	return t.run(ctx)
}

// forgetSettings drops settings of pgobj and of the AWS tools from our environment: those of the person who
// runs the demo must not change what it does, and never lead it to a real repository.
func forgetSettings() error {
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "AWS_") || strings.HasPrefix(name, "PGOBJ_") && name != "PGOBJ_CACHE" {
			if err := os.Unsetenv(name); err != nil {
				return err
			}
		}
	}
	return nil
}
