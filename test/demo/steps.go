package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
)

// tables are what is compared: pgbench's and our own.
var tables = []string{"pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history", "invoices"}

const load = "pgbench --client=2 --time=2 --no-vacuum"

// start makes a PostgreSQL that archives each WAL segment through pgobj.
func (t *tour) start(ctx context.Context) (err error) {
	t.step("A PostgreSQL of our own is made, which hands every finished WAL segment to pgobj.")
	archive := "archive_command = 'pgobj wal-push %p'"
	t.note("postgresql.conf:  archive_mode = on")
	t.note("                  %s", archive)
	for _, kv := range t.storage {
		if t.hidden != "" {
			kv = strings.ReplaceAll(kv, t.hidden, "…")
		}
		t.note("environment:      %s", kv)
	}
	path := "PATH=" + filepath.Dir(t.pgobj) + ":" + os.Getenv("PATH")
	t.cluster, err = pgtest.Create(ctx, pgtest.Options{
		Checksums: true, Conf: []string{"archive_mode = on", archive},
		Env:     append(slices.Clone(t.storage), path),
		DataDir: filepath.Join(t.base, "pgdata"),
	})
	if err != nil {
		return err
	}
	if err := t.cluster.Launch(ctx); err != nil {
		return err
	}
	version, err := t.ask(ctx, "SHOW server_version")
	if err != nil {
		return err
	}
	t.note("PostgreSQL %s runs on %s, with page checksums; it listens on a unix socket only.", version, t.cluster.Data)
	return nil
}

// fill puts pgbench's tables and the first half of ours into the database.
func (t *tour) fill(ctx context.Context) error {
	t.step("The database is filled: pgbench's tables, and 1,000 invoices.")
	t.showCommand("pgbench --initialize --scale=3")
	if _, err := t.quiet(ctx, "pgbench", "--initialize", "--quiet", "--scale=3"); err != nil {
		return err
	}
	if err := t.sql(ctx, "CREATE TABLE invoices (id int PRIMARY KEY, customer text NOT NULL, amount numeric(10,2) NOT NULL, written timestamptz DEFAULT now())"); err != nil {
		return err
	}
	if err := t.invoice(ctx, 1, 1000); err != nil {
		return err
	}
	return t.showSize(ctx)
}

func (t *tour) invoice(ctx context.Context, from, to int) error {
	return t.sql(ctx, fmt.Sprintf("INSERT INTO invoices SELECT i, 'customer ' || i %% 97, i * 1.19 FROM generate_series(%d, %d) i", from, to))
}

func (t *tour) showSize(ctx context.Context) error {
	answer, err := t.ask(ctx, "SELECT pg_size_pretty(sum(pg_database_size(oid))), (SELECT count(*) FROM pgbench_accounts), (SELECT count(*) FROM invoices) FROM pg_database")
	if err != nil {
		return err
	}
	f := strings.Split(answer, "|")
	t.note("The cluster has %s; there are %s accounts and %s invoices.", f[0], f[1], f[2])
	return nil
}

// backup takes the base backup while pgbench writes.
func (t *tour) backup(ctx context.Context) error {
	t.step("A base backup is taken while the database is being written to.")
	t.showCommand(load, "&")
	type result struct {
		out string
		err error
	}
	ended := make(chan result, 1)
	go func() { // waited for below
		out, err := t.quiet(ctx, strings.Fields(load)...)
		ended <- result{out, err}
	}()
	err := t.await(ctx, "pgbench writes", "SELECT count(*) > 0 FROM pgbench_history")
	if err == nil {
		err = t.shell(ctx, "pgobj", "backup-push", "--label", "why=before the disaster")
	}
	r := <-ended
	if err := errors.Join(err, r.err); err != nil {
		return err
	}
	t.note("Meanwhile pgbench did %s.", transactions(r.out))
	return nil
}

// transactions finds the number of transactions in pgbench's report.
func transactions(report string) string {
	for line := range strings.Lines(report) {
		if n, ok := strings.CutPrefix(line, "number of transactions actually processed: "); ok {
			return strings.TrimSpace(n) + " transactions"
		}
	}
	return "an unknown number of transactions"
}

// work goes on after the backup, so that what is restored needs the archived WAL too.
func (t *tour) work(ctx context.Context) error {
	t.step("Work goes on: more load, and 1,000 more invoices. These are in no backup, only in the WAL.")
	t.showCommand(load)
	out, err := t.quiet(ctx, strings.Fields(load)...)
	if err != nil {
		return err
	}
	t.note("pgbench did %s.", transactions(out))
	if err := t.invoice(ctx, 1001, 2000); err != nil {
		return err
	}
	if t.before, err = t.fingerprints(ctx); err != nil {
		return err
	}
	// Whole seconds are what a person writes down, so the clock is given one on either side.
	if t.target, err = t.ask(ctx, "SELECT pg_sleep(1.1); SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || '+00'; "); err != nil {
		return err
	}
	if _, err := t.ask(ctx, "SELECT pg_sleep(1.1)"); err != nil {
		return err
	}
	t.note("The server's clock says %s. This is how the tables are now:", t.target)
	for _, table := range tables {
		t.note("  %-17s %s", table, t.before[table])
	}
	return nil
}

// fingerprints are count and checksum of every table's rows.
func (t *tour) fingerprints(ctx context.Context) (map[string]string, error) {
	prints := map[string]string{}
	for _, table := range tables {
		answer, err := t.ask(ctx, fmt.Sprintf(`SELECT to_char(count(*), 'FM9,999,999') || ' rows, md5 ' || md5(coalesce(string_agg(r, E'\n' ORDER BY r COLLATE "C"), '')) FROM (SELECT x::text AS r FROM %s x) s`, table))
		if err != nil {
			return nil, err
		}
		prints[table] = answer
	}
	return prints, nil
}

// disaster drops the table, and nobody notices for a while.
func (t *tour) disaster(ctx context.Context) error {
	t.step("The disaster: someone drops the table, and work goes on for a while.")
	at, err := t.ask(ctx, "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || '+00'")
	if err != nil {
		return err
	}
	if err := t.sql(ctx, "DROP TABLE invoices"); err != nil {
		return err
	}
	t.note("That was at %s.", at)
	t.showCommand(load)
	out, err := t.quiet(ctx, strings.Fields(load)...)
	if err != nil {
		return err
	}
	t.note("pgbench did %s.", transactions(out))
	segment, err := t.ask(ctx, "SELECT pg_walfile_name(pg_switch_wal())")
	if err != nil {
		return err
	}
	err = t.await(ctx, "WAL segment "+segment+" is archived", "SELECT coalesce(last_archived_wal >= '"+segment+"', false) FROM pg_stat_archiver")
	if err != nil {
		return err
	}
	archived, err := t.ask(ctx, "SELECT archived_count, failed_count FROM pg_stat_archiver")
	if err != nil {
		return err
	}
	ok, failed, _ := strings.Cut(archived, "|")
	t.note("The last WAL segment, %s, is archived: %s files in all, %s failed attempts.", segment, ok, failed)
	return nil
}

// loseAll stops the server and removes its data.
func (t *tour) loseAll(context.Context) error {
	t.step("It gets worse: the server stops, and its disk is gone.")
	if err := t.cluster.Shutdown("fast"); err != nil {
		return err
	}
	t.showCommand("rm -rf", t.cluster.Data)
	return os.RemoveAll(t.cluster.Data)
}

func (t *tour) list(ctx context.Context) error {
	t.step("What is left is in pgobj's storage. Which backups are there?")
	return t.shell(ctx, "pgobj", "backup-list")
}

func (t *tour) restore(ctx context.Context) error {
	t.step("The backup is restored, with the order to recover to the second before the DROP TABLE.")
	if err := t.shell(ctx, "pgobj", "backup-fetch", t.cluster.Data, "LATEST", "--target-time", t.target, "--target-action", "promote"); err != nil {
		return err
	}
	conf, err := os.ReadFile(filepath.Join(t.cluster.Data, "postgresql.auto.conf"))
	if err != nil {
		return err
	}
	t.note("pgobj wrote these settings for the recovery:")
	for line := range strings.Lines(string(conf)) {
		if !strings.HasPrefix(line, "#") && strings.TrimSpace(line) != "" {
			t.note("  %s", strings.TrimSpace(line))
		}
	}
	return nil
}

// recover starts the server, which fetches WAL by itself.
func (t *tour) recover(ctx context.Context) error {
	t.step("PostgreSQL is started. It fetches WAL through pgobj until it is there, and opens for work.")
	t.showCommand("pg_ctl start -D", t.cluster.Data)
	start := time.Now()
	if err := t.cluster.Launch(ctx); err != nil {
		return err
	}
	took := time.Since(start)
	log := t.cluster.Log()
	fetched := strings.Count(log[strings.LastIndex(log, "starting point-in-time recovery")+1:], "restored log file")
	timeline, err := t.ask(ctx, "SELECT timeline_id FROM pg_control_checkpoint()")
	if err != nil {
		return err
	}
	for line := range strings.Lines(log) {
		if strings.Contains(line, "recovery stopping before") || strings.Contains(line, "last completed transaction was") {
			_, text, _ := strings.Cut(line, "LOG:")
			t.note("server's log: %s", strings.TrimSpace(text))
		}
	}
	t.note("The server is open again after %.1f s, %d WAL files later, on timeline %s.", took.Seconds(), fetched, timeline)
	return nil
}

// compare is the point of it all.
func (t *tour) compare(ctx context.Context) error {
	t.step("Are the rows those of %s?", t.target)
	after, err := t.fingerprints(ctx)
	if err != nil {
		return err
	}
	var wrong []string
	for _, table := range tables {
		verdict := "equal"
		if after[table] != t.before[table] {
			verdict = "DIFFERENT, expected " + t.before[table]
			wrong = append(wrong, table)
		}
		t.note("  %-17s %-54s %s", table, after[table], verdict)
	}
	if len(wrong) > 0 {
		return fmt.Errorf("the restored tables differ from the original: %s", strings.Join(wrong, ", "))
	}
	t.note("All %d tables are equal to what they were, row by row.", len(tables))
	return nil
}
