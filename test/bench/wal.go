package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/pgobj/pgobj/test/testenv"
)

// walFigures are the times of archiving one WAL segment, and of starting the program.
type walFigures struct {
	push, zstd, start    []time.Duration // one for each round, in pairs
	pushBytes, zstdBytes int64           // what is stored
}

// measureWAL compares `pgobj wal-push` of one full segment to a directory with `zstd -1` of the same file and
// an fsync of the result, which is the least that safe archiving can do.
func (b *bench) measureWAL(ctx context.Context) error {
	if b.walRounds == 0 {
		return nil
	}
	b.log.Printf("wal-push beside zstd -1, %d rounds", b.walRounds)
	segment, err := b.fullSegment(ctx)
	if err != nil {
		return err
	}
	repository, err := b.directory("wal-repository")
	if err != nil {
		return err
	}
	for round := range b.walRounds {
		pushed, compressed, err := b.pushOnce(ctx, repository, segment, round%2 == 1)
		if err != nil {
			return err
		}
		start, err := timed(exec.CommandContext(ctx, b.pgobj, "version"))
		if err != nil {
			return err
		}
		b.wal.push, b.wal.zstd, b.wal.start = append(b.wal.push, pushed), append(b.wal.zstd, compressed), append(b.wal.start, start)
	}
	return nil
}

// fullSegment has pgbench fill a segment, and returns a copy of it.
func (b *bench) fullSegment(ctx context.Context) (string, error) {
	// Two switches, with a whole segment between them: what is archived in the middle is full.
	first, err := b.cluster.Query(ctx, "postgres", "CHECKPOINT; SELECT pg_walfile_name(pg_switch_wal())")
	if err != nil {
		return "", err
	}
	current := "SELECT pg_walfile_name(pg_current_wal_lsn())"
	var names []string
	for len(names) < 3 { // the segment after first may begin anywhere; the next one is full
		// After a checkpoint WAL has whole pages, as on a server with much data.
		if _, err := b.cluster.Query(ctx, "postgres", "CHECKPOINT"); err != nil {
			return "", err
		}
		if err := b.pgbench(ctx, "--no-vacuum", "--transactions=1000", "--client=4"); err != nil {
			return "", err
		}
		now, err := b.cluster.Query(ctx, "postgres", current)
		if err != nil {
			return "", err
		}
		if now != first && (len(names) == 0 || names[len(names)-1] != now) {
			names = append(names, now)
		}
	}
	data, err := os.ReadFile(filepath.Join(b.cluster.Data, "pg_wal", names[1]))
	if err != nil {
		return "", err
	}
	dir, err := b.directory("segment")
	if err != nil {
		return "", err
	}
	copied := filepath.Join(dir, names[1])
	if err := os.WriteFile(copied, data, 0o600); err != nil {
		return "", err
	}
	return copied, testenv.ChownPostgres(dir)
}

// pushOnce stores the segment by both means, zstd first if told so. The repository's directories stay from round to round, as
// they do from segment to segment.
func (b *bench) pushOnce(ctx context.Context, repository, segment string, zstdFirst bool) (pushed, compressed time.Duration, err error) {
	push := func() (err error) {
		cmd := testenv.AsPostgres(exec.CommandContext(ctx, b.pgobj, "--storage", "file://"+repository, "wal-push", segment))
		cmd.Dir = filepath.Dir(segment)
		if pushed, err = timed(cmd); err != nil {
			return err
		}
		if b.wal.pushBytes, err = treeSize(repository); err != nil {
			return err
		}
		stored, err := filepath.Glob(filepath.Join(repository, "main/wal/*/*", filepath.Base(segment)+".zst"))
		if err != nil || len(stored) != 1 {
			return fmt.Errorf("the segment is not stored: %v, %w", stored, err)
		}
		return os.Remove(stored[0])
	}
	zstd := func() (err error) {
		compressed, b.wal.zstdBytes, err = zstdOnce(ctx, segment, filepath.Join(b.base, "segment.zst"))
		return err
	}
	if zstdFirst {
		err = errors.Join(zstd(), push())
	} else {
		err = errors.Join(push(), zstd())
	}
	return pushed, compressed, err
}

// zstdOnce runs zstd -1 with its output in a file, and fsyncs that here, which costs no second process.
func zstdOnce(ctx context.Context, segment, dest string) (took time.Duration, size int64, err error) {
	syscall.Sync()
	start := time.Now()
	f, err := os.Create(dest)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(dest)) }()
	cmd := exec.CommandContext(ctx, "zstd", "-1", "-q", "-c", segment)
	cmd.Stdout = f
	if err := cmd.Run(); err != nil {
		return 0, 0, fmt.Errorf("zstd: %w", err)
	}
	if err := f.Sync(); err != nil {
		return 0, 0, err
	}
	took = time.Since(start)
	info, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	return took, info.Size(), nil
}

// timed runs a command, with dirty pages written out before.
func timed(cmd *exec.Cmd) (time.Duration, error) {
	syscall.Sync()
	start := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
	}
	return time.Since(start), nil
}
