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

	"github.com/pgobj/pgobj/backup/cluster"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// manyFiles is what a cluster of many small files took; zero when it was left out.
type manyFiles struct {
	files           int
	backup, restore usage
}

// measureFiles backs up and restores a second cluster, in which files of one page each lie beside those of
// the database postgres, named as relations are. No table belongs to them: creating 200,000 tables takes
// a quarter of an hour, and a backup sees files.
func (b *bench) measureFiles(ctx context.Context) (err error) {
	if b.files == 0 || !b.wanted("pgobj zstd") {
		return nil
	}
	b.log.Printf("a cluster with %d small files", b.files)
	repository, err := b.folder("repository")
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
	jobs := strconv.Itoa(b.jobs)
	m := manyFiles{files: b.files}
	if m.backup, err = measure(ctx, slices.Concat(env, c.Env()), 0, b.pgobj, "backup-push", "--jobs", jobs); err != nil {
		return err
	}
	target, err := b.folder("restored")
	if err != nil {
		return err
	}
	if m.restore, err = measure(ctx, env, 0, b.pgobj, "backup-fetch", "--jobs", jobs, target); err != nil {
		return err
	}
	b.many = m
	return errors.Join(sameFiles(filepath.Join(c.Data, "base"), filepath.Join(target, "base")), os.RemoveAll(target), os.RemoveAll(repository))
}

// makeFiles writes files of one valid page each, with different content.
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
		binary.LittleEndian.PutUint16(page[8:], cluster.PageChecksum(page, 0))
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(1_000_000+i)), page, 0o600); err != nil {
			return err
		}
	}
	return testenv.ChownPostgres(dir)
}
