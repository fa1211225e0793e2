package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// makeCluster makes the cluster that everything is measured on: pgbench's tables (60 %), whose filler
// compresses like nothing real does, and tables of our own with text, JSON and numbers (40 %), and some
// hundred small ones. The rows are the same in every run. The server runs and archives when it returns.
func (b *bench) makeCluster(ctx context.Context) (err error) {
	b.cluster, err = pgtest.Create(ctx, pgtest.Options{
		Checksums: b.checksums,
		// For loading only; what is measured runs with the settings below.
		Conf: []string{"fsync = off", "wal_level = minimal", "max_wal_senders = 0", "max_wal_size = 4GB", "maintenance_work_mem = 256MB"},
	})
	if err != nil {
		return err
	}
	if err := b.cluster.Launch(ctx); err != nil {
		return err
	}
	if err := b.load(ctx); err != nil {
		return fmt.Errorf("fill the database: %w", err)
	}
	if err := b.cluster.Shutdown("fast"); err != nil {
		return err
	}
	// Autovacuum would write between two tools' runs.
	err = b.cluster.AppendConf("fsync = on", "wal_level = replica", "max_wal_senders = 5", "autovacuum = off", "wal_keep_size = 256MB",
		"archive_mode = on", "archive_command = 'sh "+b.base+"/archive.sh %p'")
	if err != nil {
		return err
	}
	return b.cluster.Launch(ctx)
}

func (b *bench) load(ctx context.Context) error {
	scale := max(1, b.sizeMB*6/10/15) // 15 MB each
	if err := b.pgbench(ctx, "--initialize", "--quiet", fmt.Sprintf("--scale=%d", scale)); err != nil {
		return err
	}
	// Changes all over the tables, as in a database that is used.
	if err := b.pgbench(ctx, "--random-seed=1", "--no-vacuum", fmt.Sprintf("--transactions=%d", 20*b.sizeMB)); err != nil {
		return err
	}
	share := int64(b.sizeMB) << 20 / 10
	for _, t := range []struct {
		ddl  string
		name string
		size int64
		row  func(r *rand.Rand, id int, w *bytes.Buffer)
	}{
		{"id bigint, at timestamptz, customer int, kind text, payload jsonb", "events", 3 * share / 2, event},
		{"id bigint, title text, body text", "documents", 3 * share / 2, document},
		{"id bigint, sensor int, at timestamptz, value float8, error float8, raw bytea", "readings", 3 * share / 4, reading},
	} {
		if err := b.copyRows(ctx, t.name, t.ddl, t.size, t.row); err != nil {
			return err
		}
	}
	_, err := b.cluster.Query(ctx, "postgres", fmt.Sprintf(`
		CREATE INDEX ON events (customer, at); CREATE INDEX ON documents (title); CREATE INDEX ON readings (sensor);
		DO $$ BEGIN FOR i IN 1..%d LOOP
			EXECUTE format('CREATE TABLE setting_%%s AS SELECT n AS id, md5((n * %%s)::text) AS value FROM generate_series(1, %%s) n', i, i, i);
			EXECUTE format('ALTER TABLE setting_%%s ADD PRIMARY KEY (id)', i);
		END LOOP; END $$`, b.tables))
	if err != nil {
		return err
	}
	_, err = b.cluster.Query(ctx, "postgres", "VACUUM ANALYZE")
	return err
}

func (b *bench) pgbench(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, b.cluster.Bin("pgbench"), args...)
	cmd.Env = append(os.Environ(), append(b.cluster.Env(), "PGOPTIONS=-c synchronous_commit=off")...)
	if out, err := testenv.AsPostgres(cmd).CombinedOutput(); err != nil {
		return fmt.Errorf("pgbench: %w\n%s", err, out)
	}
	return nil
}

// copyRows makes a table and fills it until about size bytes of text were sent.
func (b *bench) copyRows(ctx context.Context, name, ddl string, size int64, row func(*rand.Rand, int, *bytes.Buffer)) (err error) {
	conn, err := pgconn.Connect(ctx, b.cluster.DSN("postgres"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	if _, err := conn.Exec(ctx, "CREATE TABLE "+name+" ("+ddl+")").ReadAll(); err != nil {
		return err
	}
	r, w := io.Pipe()
	go func() { // ends when CopyFrom has read all, or with the reader
		random := rand.New(rand.NewPCG(uint64(len(name)), 1))
		var line bytes.Buffer
		for id, sent := 1, int64(0); sent < size; id++ {
			line.Reset()
			row(random, id, &line)
			sent += int64(line.Len())
			if _, err := w.Write(line.Bytes()); err != nil {
				return
			}
		}
		w.Close()
	}()
	_, err = conn.CopyFrom(ctx, r, "COPY "+name+" FROM STDIN")
	return errors.Join(err, r.Close())
}

// The rows, as lines of COPY's text format.

func event(r *rand.Rand, id int, w *bytes.Buffer) {
	second := id / 7
	fmt.Fprintf(w, "%d\t2026-01-%02d %02d:%02d:%02d+00\t%d\t%s\t", id, 1+second/86400%28, second/3600%24, second/60%60, second%60, r.IntN(50000), word(r))
	fmt.Fprintf(w, `{"session": "%016x", "path": "/%s/%s", "ms": %d, "ok": %t, "tags": ["%s", "%s"]}`+"\n",
		r.Uint64(), word(r), word(r), r.IntN(3000), r.IntN(20) > 0, word(r), word(r))
}

func document(r *rand.Rand, id int, w *bytes.Buffer) {
	fmt.Fprintf(w, "%d\t%s %s %s\t", id, word(r), word(r), word(r))
	for range 20 + r.IntN(200) {
		w.WriteString(word(r))
		w.WriteByte(' ')
	}
	w.WriteByte('\n')
}

func reading(r *rand.Rand, id int, w *bytes.Buffer) {
	fmt.Fprintf(w, "%d\t%d\t2026-01-01 %02d:%02d:%02d+00\t%.4f\t%g\t\\\\x%016x\n", id, r.IntN(1000), id/3600%24, id/60%60, id%60,
		20+5*r.NormFloat64(), r.Float64(), r.Uint64())
}

// word is one of about two thousand, the first ones often, as in a language.
func word(r *rand.Rand) string {
	n := int(float64(len(words)) * r.Float64() * r.Float64() * r.Float64())
	return words[n]
}

var words = makeWords()

func makeWords() []string {
	r := rand.New(rand.NewPCG(1, 2))
	list := make([]string, 2000)
	for i := range list {
		var s strings.Builder
		for range 1 + r.IntN(4) {
			s.WriteByte("bcdfghklmnprstvw"[r.IntN(16)])
			s.WriteByte("aeiou"[r.IntN(5)])
			if r.IntN(3) == 0 {
				s.WriteByte("nrstlm"[r.IntN(6)])
			}
		}
		list[i] = s.String()
	}
	return list
}
