package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/s3server"
	"github.com/pgobj/pgobj/test/testenv"
)

// bench is one run.
type bench struct {
	options
	base      string // our directory
	archive   string // where WAL goes while other tools than pgobj are measured
	pgobj     string
	log       *log.Logger
	began     time.Time
	cluster   *pgtest.Cluster
	s3        *s3server.Server
	tools     []*tool
	discarded int // directories, see discard

	dataBytes int64 // of PGDATA without pg_wal
	versions  []string
	wal       walFigures
	many      manyFiles
	piles     []*pile
	restored  restores
	recovery  recoveryFigures

	catalogSteps []catalogStep

	night      []*night
	nightPages int // of the table that changes
}

// sample is what one tool did in one round.
type sample struct {
	backup, restore usage
	stored          int64
}

func (b *bench) close() error {
	var err error
	if b.cluster != nil {
		err = b.cluster.Close()
	}
	if b.s3 != nil {
		err = errors.Join(err, b.s3.Stop())
	}
	return err
}

func (b *bench) setUp(ctx context.Context) (err error) {
	if b.pgobj, err = testenv.BuildPgobj(); err != nil {
		return err
	}
	if b.archive, err = b.directory("archive"); err != nil {
		return err
	}
	if b.s3, err = s3server.Start(ctx, s3server.MinIO); err != nil {
		return err
	}
	if err := b.archiveTo(nil, run1{}); err != nil {
		return err
	}
	b.log.Printf("a database of %d MB is made", b.sizeMB)
	if err := b.makeCluster(ctx); err != nil {
		return err
	}
	if b.dataBytes, err = treeSize(b.cluster.Data, "pg_wal"); err != nil {
		return err
	}
	if b.tools, err = b.makeTools(); err != nil {
		return err
	}
	if err := b.checkPeers(); err != nil {
		return err
	}
	b.versions, err = b.toolVersions(ctx)
	return err
}

// directory makes an empty directory for the user postgres.
func (b *bench) directory(name string) (string, error) {
	dir := filepath.Join(b.base, name)
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
		return "", err
	}
	return dir, testenv.ChownPostgres(dir)
}

// compare runs every tool in every round, forwards in odd rounds and backwards in even ones, so that a
// machine that gets slower or faster meanwhile favours nobody.
func (b *bench) compare(ctx context.Context) error {
	for round := range b.rounds {
		order := slices.Clone(b.tools)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, t := range order {
			if err := b.measureTool(ctx, round, t); err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
		}
	}
	return nil
}

func (b *bench) measureTool(ctx context.Context, round int, t *tool) error {
	repository, err := b.directory("repository")
	if err != nil {
		return err
	}
	target, err := b.directory("restored")
	if err != nil {
		return err
	}
	r := run1{round: round, repository: repository, target: target}
	if err := b.quiet(ctx, t, r); err != nil {
		return err
	}
	if t.prepare != nil {
		if err := t.prepare(ctx, r); err != nil {
			return err
		}
	}
	var s sample
	if s.backup, err = measure(ctx, t.env, b.cluster.PID(), t.backup(r)...); err != nil {
		return err
	}
	if s.stored, err = t.stored(ctx, r); err != nil {
		return err
	}
	if s.restore, err = measure(ctx, t.env, 0, t.restore(r)...); err != nil {
		return err
	}
	if round == 0 {
		if err := sameFiles(filepath.Join(b.cluster.Data, "base"), filepath.Join(target, "base")); err != nil {
			return err
		}
	}
	t.samples = append(t.samples, s)
	b.log.Printf("round %d, %-24s backup %5.1f s, %4.0f MiB peak; stored %s; restore %5.1f s, %4.0f MiB peak", round+1, t.name,
		s.backup.wall.Seconds(), mib(s.backup.peak), megabytes(s.stored), s.restore.wall.Seconds(), mib(s.restore.peak))
	// The archiver must not be left with a place that is gone: after three failures it waits for a minute.
	return errors.Join(b.archiveTo(nil, r), b.discard(target, repository))
}

// discard gives back the room that directories take. Their files, then empty, go in the end: without a journal ext4 uses no
// inode again for minutes after it was freed, and looks for another one at length, in the time of the next tool.
func (b *bench) discard(dirs ...string) error {
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			return os.Truncate(path, 0)
		})
		b.discarded++
		if err := errors.Join(err, os.Rename(dir, filepath.Join(b.base, fmt.Sprintf("discarded-%d", b.discarded)))); err != nil {
			return err
		}
	}
	return nil
}

// quiet brings the server to rest: dirty pages written, WAL archived to where the tool wants it, and all
// of the data read once, so that every tool finds it in the page cache.
func (b *bench) quiet(ctx context.Context, t *tool, r run1) error {
	if err := b.archiveTo(t.archiveEnv, r); err != nil {
		return err
	}
	if _, err := b.cluster.Query(ctx, "postgres", "CHECKPOINT"); err != nil {
		return err
	}
	segment, err := b.cluster.Query(ctx, "postgres", "SELECT pg_walfile_name(pg_switch_wal())")
	if err != nil {
		return err
	}
	if err := b.archived(ctx, segment); err != nil {
		return err
	}
	_, err = readAll(b.cluster.Data)
	return err
}

// archiveTo directs the archiver: to where a tool wants it, or to b.archive. It does so by a script, replaced
// in one step, because a changed archive_command takes effect at a time unknown.
func (b *bench) archiveTo(toolEnv func(run1) []string, r run1) error {
	env := []string{"PGOBJ_STORAGE=file://" + b.archive}
	if toolEnv != nil {
		env = toolEnv(r)
	}
	script := filepath.Join(b.base, "archive.sh")
	text := fmt.Sprintf("exec env %s %s wal-push \"$1\"\n", strings.Join(env, " "), b.pgobj)
	return errors.Join(os.WriteFile(script+".new", []byte(text), 0o644), os.Rename(script+".new", script))
}

// archived waits until a WAL segment is in the archive.
func (b *bench) archived(ctx context.Context, segment string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	err := testenv.Until(ctx, "WAL segment "+segment+" is archived", func() bool {
		last, err := b.cluster.Query(ctx, "postgres", "SELECT last_archived_wal FROM pg_stat_archiver")
		return err == nil && last >= segment
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, b.cluster.Log())
	}
	return nil
}

// readAll reads every file below dir.
func readAll(dir string) (int64, error) {
	sum := int64(0)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a server runs there
		}
		if err != nil {
			return err
		}
		defer f.Close()
		n, err := io.Copy(io.Discard, f)
		sum += n
		return err
	})
	return sum, err
}

// sameFiles compares the databases of a live, quiet cluster with a restored one: a tool that does less
// than its work must not win.
func sameFiles(live, restored string) error {
	files := 0
	err := filepath.WalkDir(live, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "pg_internal.init" {
			return err
		}
		name, err := filepath.Rel(live, path)
		if err != nil {
			return err
		}
		files++
		return sameContent(path, filepath.Join(restored, name))
	})
	if err == nil && files < 100 {
		err = fmt.Errorf("only %d files in %s", files, live)
	}
	if err != nil {
		return fmt.Errorf("what was restored is not what was backed up: %w", err)
	}
	return nil
}

func sameContent(one, other string) error {
	f, err := os.Open(one)
	if err != nil {
		return err
	}
	defer f.Close()
	g, err := os.Open(other)
	if err != nil {
		return err
	}
	defer g.Close()
	a, b := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, err := io.ReadFull(f, a)
		m, err2 := io.ReadFull(g, b)
		if !bytes.Equal(a[:n], b[:m]) {
			return fmt.Errorf("%s differs from %s", other, one)
		}
		if err != nil || err2 != nil {
			if err == err2 && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
				return nil
			}
			return fmt.Errorf("compare %s and %s: %w", one, other, cmpErr(err, err2))
		}
	}
}

// cmpErr is the one of two different results of ReadFull that tells more.
func cmpErr(a, b error) error {
	if a == nil || errors.Is(a, io.EOF) || errors.Is(a, io.ErrUnexpectedEOF) {
		return b
	}
	return a
}
