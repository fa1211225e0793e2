package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// recoveryFigures are the times of whole recoveries that replay the same WAL: from MinIO over TLS by pgobj, and by cp from a
// directory on the same disk, which is the least that a restore_command can do.
type recoveryFigures struct {
	segments  int
	pgobj, cp []time.Duration
}

// measureRecovery has pgbench write WAL after a cold copy of a cluster, and recovers that copy to the end of it.
func (b *bench) measureRecovery(ctx context.Context) (err error) {
	if b.recoveryRounds == 0 {
		return nil
	}
	dir, err := b.directory("recovery")
	if err != nil {
		return err
	}
	server, env, err := b.walServer(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { _ = server.Stop() }() // the process ends with us in any case
	env = append(env, "PGOBJ_STORAGE="+server.URL("recovery"))
	directory, base := filepath.Join(dir, "directory"), filepath.Join(dir, "base")
	if err := errors.Join(os.Mkdir(directory, 0o700), testenv.ChownPostgres(directory)); err != nil {
		return err
	}
	b.log.Printf("%d MB of WAL are written", b.recoveryMB)
	rows, err := b.writeWAL(ctx, directory, base, env)
	if err != nil {
		return err
	}
	for round := range b.recoveryRounds {
		ways := []string{"cp " + directory + "/%f %p", b.pgobj + " wal-fetch %f %p"}
		if round%2 == 1 {
			slices.Reverse(ways)
		}
		for _, command := range ways {
			b.log.Printf("recovery by %s", command)
			took, err := recoverOnce(ctx, base, filepath.Join(dir, "restored"), command, env, rows)
			if err != nil {
				return fmt.Errorf("%s: %w", command, err)
			}
			if strings.HasPrefix(command, "cp ") {
				b.recovery.cp = append(b.recovery.cp, took)
			} else {
				b.recovery.pgobj = append(b.recovery.pgobj, took)
			}
		}
	}
	return nil
}

// writeWAL fills directory with segments, archives them by pgobj, too, and leaves in base what the cluster was before. It
// returns how many rows there are at the end.
func (b *bench) writeWAL(ctx context.Context, directory, base string, env []string) (rows string, err error) {
	c, err := pgtest.Create(ctx, pgtest.Options{Env: env, Conf: []string{"archive_mode = on", "archive_command = 'cp %p " + directory + "/%f'",
		"max_wal_size = '8GB'", "checkpoint_timeout = '1h'", "shared_buffers = '256MB'"}})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	pgbench := func(args ...string) error {
		cmd := exec.CommandContext(ctx, c.Bin("pgbench"), args...)
		cmd.Env = append(os.Environ(), c.Env()...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("pgbench: %w\n%s", err, out)
		}
		return nil
	}
	if err := c.Launch(ctx); err != nil {
		return "", err
	}
	if err := errors.Join(pgbench("--initialize", fmt.Sprintf("--scale=%d", max(1, min(30, b.recoveryMB/64))), "--quiet"), c.Shutdown("fast")); err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(ctx, "cp", "-a", c.Data, base).CombinedOutput(); err != nil {
		return "", fmt.Errorf("copy the cluster: %w\n%s", err, out)
	}
	before, err := os.ReadDir(directory)
	if err == nil {
		err = c.Launch(ctx)
	}
	if err != nil {
		return "", err
	}
	for b.recovery.segments < b.recoveryMB/16 {
		if err := pgbench("--no-vacuum", "--transactions=5000", "--client=4"); err != nil {
			return "", err
		}
		if _, err := c.Query(ctx, "postgres", "CHECKPOINT"); err != nil { // then pages are logged whole again
			return "", err
		}
		now, err := os.ReadDir(directory)
		if err != nil {
			return "", err
		}
		b.recovery.segments = len(now) - len(before)
	}
	if rows, err = c.Query(ctx, "postgres", "SELECT count(*) FROM pgbench_history"); err != nil {
		return "", err
	}
	if err := c.Shutdown("fast"); err != nil { // which archives the rest
		return "", err
	}
	files, err := os.ReadDir(directory)
	if err != nil {
		return "", err
	}
	for _, f := range files {
		cmd := testenv.AsPostgres(exec.CommandContext(ctx, b.pgobj, "wal-push", filepath.Join(directory, f.Name())))
		cmd.Dir, cmd.Env = c.Data, append([]string{"PATH=" + os.Getenv("PATH")}, env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
		}
	}
	return rows, nil
}

// recoverOnce takes the time from the start of the server to the end of its recovery.
func recoverOnce(ctx context.Context, base, to, command string, env []string, rows string) (took time.Duration, err error) {
	if out, err := exec.CommandContext(ctx, "cp", "-a", base, to).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("copy the cluster: %w\n%s", err, out)
	}
	c, err := pgtest.Attach(to, 15)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.Close(), os.RemoveAll(to)) }()
	c.AddEnv(env...)
	signal := filepath.Join(to, "recovery.signal")
	if err := errors.Join(os.WriteFile(signal, nil, 0o600), testenv.ChownPostgres(signal),
		c.AppendConf("restore_command = '"+command+"'", "hot_standby = off", "archive_command = 'false'")); err != nil {
		return 0, err
	}
	syscall.Sync()
	start := time.Now()
	if err := c.Launch(ctx); err != nil {
		return 0, err
	}
	took = time.Since(start)
	if got, err := c.Query(ctx, "postgres", "SELECT count(*) FROM pgbench_history"); err != nil || got != rows {
		return 0, fmt.Errorf("%s rows after the recovery, want %s: %w", got, rows, err)
	}
	return took, nil
}

// recoveryText is the result in Markdown.
func (b *bench) recoveryText(w *strings.Builder) {
	if len(b.recovery.cp) > 0 {
		pgobj, cp := medianOf(b.recovery.pgobj), medianOf(b.recovery.cp)
		fmt.Fprintf(w, "\nA whole recovery that replays %d segments of 16 MB, from the start of the server to its end, median of %d rounds: "+
			"%.1f s with cp from a directory, %.1f s with pgobj from MinIO over TLS (ratio %.2f).\n", b.recovery.segments, len(b.recovery.cp), cp, pgobj, pgobj/cp)
	}
}
