package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pgobj/pgobj/test/faultproxy"
)

const (
	targetDelta   = 0.5
	targetLatency = 1.25 // of the time without latency: 80 % of its throughput
	latency       = 50 * time.Millisecond
)

// restores are the times of restores other than of all of a backup into an empty directory from a storage that is near.
type restores struct {
	delta, deltaOther []time.Duration // after one page in a hundred has changed; by pgobj, by pgBackRest
	near, far         []time.Duration // from S3, without latency and with it
}

// measureRestores measures them, in alternating order.
func (b *bench) measureRestores(ctx context.Context) error {
	if b.restoreRounds == 0 {
		return nil
	}
	if b.wanted("pgobj zstd") && b.wanted("pgbackrest zst:3") {
		if err := b.measureDeltas(ctx); err != nil {
			return fmt.Errorf("delta restores: %w", err)
		}
	}
	if b.wanted("pgobj zstd (S3)") {
		if err := b.measureLatency(ctx); err != nil {
			return fmt.Errorf("restores with latency: %w", err)
		}
	}
	return nil
}

// deltaTool is a tool with what it restores again.
type deltaTool struct {
	*tool
	run   run1
	delta func(run1) []string
	times *[]time.Duration
}

func (b *bench) measureDeltas(ctx context.Context) error {
	ours, theirs := b.pgobjTool("pgobj zstd", "zstd"), b.pgbackrest("pgbackrest zst:3", "zst", 3)
	tools := []*deltaTool{
		{tool: ours, times: &b.restored.delta, delta: func(r run1) []string { return append(ours.restore(r), "--delta", "--discard-wal") }},
		{tool: theirs, times: &b.restored.deltaOther, delta: func(r run1) []string { return append(theirs.restore(r), "--delta") }},
	}
	for i, t := range tools {
		if err := b.prepareDelta(ctx, i, t); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	for round := range b.restoreRounds {
		order := slices.Clone(tools)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, t := range order {
			pages, err := changePages(filepath.Join(t.run.target, "base"), uint64(round))
			if err != nil {
				return err
			}
			u, err := measure(ctx, t.env, 0, t.delta(t.run)...)
			if err != nil {
				return err
			}
			if err := sameFiles(filepath.Join(b.cluster.Data, "base"), filepath.Join(t.run.target, "base")); err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			*t.times = append(*t.times, u.wall)
			b.log.Printf("round %d, %-24s delta restore after %d pages were changed: %.1f s", round+1, t.name, pages, u.wall.Seconds())
		}
	}
	for _, t := range tools {
		if err := b.discard(t.run.target, t.run.repository); err != nil {
			return err
		}
	}
	return nil
}

// prepareDelta takes a backup and restores it.
func (b *bench) prepareDelta(ctx context.Context, i int, t *deltaTool) (err error) {
	t.run.round = 1000 + i
	if t.run.repository, err = b.directory(fmt.Sprintf("delta-repository-%d", i)); err != nil {
		return err
	}
	if t.run.target, err = b.directory(fmt.Sprintf("delta-restored-%d", i)); err != nil {
		return err
	}
	if err := b.quiet(ctx, t.tool, t.run); err != nil {
		return err
	}
	if t.prepare != nil {
		if err := t.prepare(ctx, t.run); err != nil {
			return err
		}
	}
	for _, command := range [][]string{t.backup(t.run), t.restore(t.run)} {
		if _, err := measure(ctx, t.env, b.cluster.PID(), command...); err != nil {
			return err
		}
	}
	return b.archiveTo(nil, t.run)
}

// changePages writes to one page in a hundred, anywhere in the files of a directory: the same ones for the same seed.
func changePages(dir string, seed uint64) (changed int, err error) {
	random := rand.New(rand.NewPCG(seed, 7))
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		for page := range info.Size() / 8192 {
			if random.IntN(100) == 0 {
				changed++
				_, e := f.WriteAt(binary.LittleEndian.AppendUint64(nil, random.Uint64()), page*8192+4096)
				err = errors.Join(err, e)
			}
		}
		return errors.Join(err, f.Close())
	})
	return changed, err
}

// measureLatency restores from S3 through a proxy, which delays every answer or does not.
func (b *bench) measureLatency(ctx context.Context) error {
	t := b.pgobjS3()
	r := run1{round: 2000}
	if err := b.quiet(ctx, t, r); err != nil {
		return err
	}
	if _, err := measure(ctx, t.env, b.cluster.PID(), t.backup(r)...); err != nil {
		return err
	}
	if err := b.archiveTo(nil, r); err != nil {
		return err
	}
	for round := range b.restoreRounds {
		order := []time.Duration{0, latency}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, delay := range order {
			took, err := b.restoreFrom(ctx, t, r, delay)
			if err != nil {
				return err
			}
			times := &b.restored.near
			if delay > 0 {
				times = &b.restored.far
			}
			*times = append(*times, took)
			b.log.Printf("round %d, restore from S3 with %v of latency: %.1f s", round+1, delay, took.Seconds())
		}
	}
	return nil
}

func (b *bench) restoreFrom(ctx context.Context, t *tool, r run1, delay time.Duration) (took time.Duration, err error) {
	proxy, err := faultproxy.Start(b.s3.Endpoint)
	if err != nil {
		return 0, err
	}
	defer proxy.Close()
	if delay > 0 {
		proxy.On(faultproxy.Always, faultproxy.Delay(delay))
	}
	if r.target, err = b.directory("restored"); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, b.discard(r.target)) }()
	u, err := measure(ctx, append(slices.Clone(t.env), "PGOBJ_S3_ENDPOINT="+proxy.URL), 0, t.restore(r)...)
	if err != nil {
		return 0, err
	}
	return u.wall, sameFiles(filepath.Join(b.cluster.Data, "base"), filepath.Join(r.target, "base"))
}

func (b *bench) restoreText(w *strings.Builder) {
	x := b.restored
	if len(x.delta) > 0 {
		fmt.Fprintf(w, "## Delta restore\n\nAfter one page in a hundred, anywhere, has changed, median of %d rounds: pgobj %.1f s, pgbackrest zst:3 --delta %.1f s.\n\n",
			len(x.delta), medianOf(x.delta), medianOf(x.deltaOther))
	}
	if len(x.far) > 0 {
		fmt.Fprintf(w, "## Restore from a storage that is far away\n\nFrom MinIO, through a proxy that delays every answer by %v, median of %d rounds: %.1f s; without the delay %.1f s.\n\n",
			latency, len(x.far), medianOf(x.far), medianOf(x.near))
	}
}

func (b *bench) restoreTargets(line func(what string, target, got float64, unit string)) {
	x := b.restored
	if len(x.delta) > 0 {
		line("delta restore, pgobj zstd / pgbackrest zst:3", targetDelta, medianOf(x.delta)/medianOf(x.deltaOther), " ×")
	}
	if len(x.far) > 0 {
		line(fmt.Sprintf("restore from S3, %v of latency / none", latency), targetLatency, medianOf(x.far)/medianOf(x.near), " ×")
	}
}
