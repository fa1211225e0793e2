package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// manyFiles is what a cluster of many small files took; zero when it was left out.
type manyFiles struct {
	files int
	steps []manyStep
}

// manyStep is one command on it.
type manyStep struct {
	name string
	usage
}

// measureFiles does everything that reads or writes a manifest on a second cluster, in which small files lie beside
// those of the database postgres, named as relations are. No table belongs to them: creating 200,000 tables takes
// a quarter of an hour, and a backup sees files.
func (b *bench) measureFiles(ctx context.Context) (err error) {
	if b.files == 0 || !b.wanted("pgobj zstd") {
		return nil
	}
	b.log.Printf("a cluster with %d small files", b.files)
	repository, err := b.directory("repository")
	if err != nil {
		return err
	}
	env := []string{"PGOBJ_STORAGE=file://" + repository}
	c, err := pgtest.Create(ctx, pgtest.Options{
		Checksums: b.checksums, DataDir: filepath.Join(b.base, "many"), Env: env,
		Conf: []string{"archive_mode = on", "archive_command = '" + b.pgobj + " wal-push %p'", "autovacuum = off"},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close(), os.RemoveAll(c.Data)) }()
	if err := c.Launch(ctx); err != nil {
		return err
	}
	database, err := c.Query(ctx, "postgres", "SELECT oid FROM pg_database WHERE datname = 'postgres'")
	if err != nil {
		return err
	}
	if err := makeFiles(filepath.Join(c.Data, "base", database), b.files); err != nil {
		return err
	}
	target, err := b.directory("restored")
	if err != nil {
		return err
	}
	m := manyFiles{files: b.files}
	for _, x := range []struct {
		name string
		args []string
	}{
		{"backup-push, the first", []string{"backup-push"}},
		{"backup-push, nothing changed", []string{"backup-push"}},
		{"backup-push --reread", []string{"backup-push", "--reread"}},
		{"backup-verify", []string{"backup-verify"}},
		{"backup-fetch", []string{"backup-fetch", target}},
		{"backup-fetch --delta", []string{"backup-fetch", "--delta", target}},
	} {
		u, err := measure(ctx, slices.Concat(env, c.Env()), 0, append([]string{b.pgobj, "--log-level=warn"}, append(x.args, "--jobs="+strconv.Itoa(b.jobs))...)...)
		if err != nil {
			return err
		}
		m.steps = append(m.steps, manyStep{x.name, u})
		b.log.Printf("%d files, %-28s %6.1f s, %4.0f MiB peak", b.files, x.name, u.wall.Seconds(), mib(u.peak))
	}
	b.many = m
	return errors.Join(sameFiles(filepath.Join(c.Data, "base"), filepath.Join(target, "base")), os.RemoveAll(target), os.RemoveAll(repository))
}

// makeFiles writes files of different content: every other one a valid page, and the others up to a page of no relation.
func makeFiles(dir string, count int) error {
	r := rand.New(rand.NewPCG(3, 4))
	page := make([]byte, 8192)
	for i := range count {
		clear(page)
		header := page[10:20] // flags, lower, upper, special, size and version: an empty heap page
		for field, value := range []uint16{0, 24, 7168, 8192, 8192 | 4} {
			binary.LittleEndian.PutUint16(header[2*field:], value)
		}
		for off := 7168; off < len(page); off += 8 {
			binary.LittleEndian.PutUint64(page[off:], r.Uint64N(1<<32))
		}
		binary.LittleEndian.PutUint16(page[8:], datadir.PageChecksum(page, 0))
		name, data := fmt.Sprint(1_000_000+i), page
		if i%2 == 1 {
			name, data = fmt.Sprint("extra.", i), page[r.IntN(len(page)):]
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return testenv.ChownPostgres(dir)
}
