package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Targets of a backup after another one: in relation to pgBackRest's incremental one, and in stored bytes.
const (
	targetNight        = 0.5
	targetNightChanged = 1.6e6
	targetNightIdle    = 100e3
)

// night is one tool's backups after a first one: a pair in each round.
type night struct {
	tool          *tool
	run           run1
	changed, idle []sample // after 1 % of the pages of one table changed; after nothing changed
}

// measureNights measures the backup of the next night. One table, a tenth of the database, gets a row changed on
// each hundredth of its pages; then nothing changes at all. Both tools see the same changes, each with a
// repository of its own that holds the backups before.
func (b *bench) measureNights(ctx context.Context) (err error) {
	if b.nights == 0 {
		return nil
	}
	for _, name := range []string{"pgobj zstd", "pgbackrest zst:3", "pgbackrest zst:3 bundle"} {
		if t := b.find(name); t != nil {
			b.night = append(b.night, &night{tool: t})
		}
	}
	if len(b.night) == 0 {
		return nil
	}
	rows, pages, err := b.makeLedger(ctx)
	if err != nil {
		return err
	}
	b.nightPages = pages
	b.log.Printf("nights: a table of %d pages", pages)
	for i, n := range b.night {
		if n.run.repository, err = b.directory("repository-" + strconv.Itoa(i)); err != nil {
			return err
		}
		if _, err := b.nightly(ctx, n); err != nil {
			return err
		}
		n.run.again = true
	}
	for round := range b.nights {
		if err := b.changeLedger(ctx, rows, pages, round); err != nil {
			return err
		}
		order := slices.Clone(b.night)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, n := range order {
			if err := b.pairOfNights(ctx, n); err != nil {
				return fmt.Errorf("%s: %w", n.tool.name, err)
			}
		}
	}
	for _, n := range b.night {
		if n.run.target, err = b.directory("restored"); err != nil {
			return err
		}
		if _, err := measure(ctx, n.tool.env, 0, n.tool.restore(n.run)...); err != nil {
			return err
		}
		if err := sameFiles(filepath.Join(b.cluster.Data, "base"), filepath.Join(n.run.target, "base")); err != nil {
			return fmt.Errorf("%s: %w", n.tool.name, err)
		}
		if err := b.discard(n.run.target, n.run.repository); err != nil {
			return err
		}
	}
	return b.archiveTo(nil, run1{})
}

func (b *bench) pairOfNights(ctx context.Context, n *night) error {
	changed, err := b.nightly(ctx, n)
	if err != nil {
		return err
	}
	idle, err := b.nightly(ctx, n)
	if err != nil {
		return err
	}
	n.changed, n.idle = append(n.changed, changed), append(n.idle, idle)
	b.log.Printf("night %d, %-24s %d pages changed: %5.2f s, %s; nothing changed: %5.2f s, %s", len(n.idle), n.tool.name, b.nightPages/100,
		changed.backup.wall.Seconds(), megabytes(changed.stored), idle.backup.wall.Seconds(), megabytes(idle.stored))
	return nil
}

// nightly takes one backup. What it stored is what its repository grew by.
func (b *bench) nightly(ctx context.Context, n *night) (s sample, err error) {
	if err := b.quiet(ctx, n.tool, n.run); err != nil {
		return s, err
	}
	if n.tool.prepare != nil && !n.run.again {
		if err := n.tool.prepare(ctx, n.run); err != nil {
			return s, err
		}
	}
	before, err := n.tool.stored(ctx, n.run)
	if err != nil && n.run.again { // the first one makes the directory
		return s, err
	}
	if s.backup, err = measure(ctx, n.tool.env, b.cluster.PID(), n.tool.backup(n.run)...); err != nil {
		return s, err
	}
	after, err := n.tool.stored(ctx, n.run)
	s.stored = after - before
	return s, errors.Join(err, b.archiveTo(nil, run1{}))
}

// makeLedger makes the table that changes, a tenth of the database, and says how many rows are on a page and how
// many pages there are. Each page has room for a changed row.
func (b *bench) makeLedger(ctx context.Context) (rows, pages int, err error) {
	count := b.sizeMB << 20 / 10 / 105
	_, err = b.cluster.Query(ctx, "postgres", fmt.Sprintf(`
		CREATE TABLE ledger (id int, amount numeric, note text) WITH (fillfactor = 90);
		INSERT INTO ledger SELECT i, 1000 + i %% 9000, md5(i::text) FROM generate_series(0, %d) i;
		CREATE INDEX ON ledger (id)`, count))
	if err != nil {
		return 0, 0, err
	}
	if _, err = b.cluster.Query(ctx, "postgres", "VACUUM (FREEZE, ANALYZE) ledger"); err != nil {
		return 0, 0, err
	}
	answer, err := b.cluster.Query(ctx, "postgres", `
		SELECT count(*) || ' ' || pg_relation_size('ledger') / 8192 FROM ledger WHERE ctid < '(1,0)'`)
	if err != nil {
		return 0, 0, err
	}
	_, err = fmt.Sscan(answer, &rows, &pages)
	return rows, pages, err
}

// changeLedger changes one row on each of the hundredth of the pages that it is the turn of.
func (b *bench) changeLedger(ctx context.Context, rows, pages, round int) error {
	stride := 100
	_, err := b.cluster.Query(ctx, "postgres", fmt.Sprintf(
		`UPDATE ledger SET amount = amount + 1 WHERE id = ANY (SELECT %d * page FROM generate_series(%d, %d, %d) page)`,
		rows, (37*round)%stride, pages-1, stride))
	return err
}

func (b *bench) nightText(w *strings.Builder) {
	if len(b.night) == 0 {
		return
	}
	fmt.Fprintf(w, "## The next night\n\nA backup after a row was changed on each of %d pages (1 %% of a table that is a tenth of the database), and one after nothing changed. "+
		"Medians of %d pairs; pgBackRest's are incremental (`--type=incr`).\n\n", b.nightPages/100, b.nights)
	w.WriteString("| tool | changed: s | CPU s | stored kB | nothing changed: s | CPU s | stored kB |\n|---|--:|--:|--:|--:|--:|--:|\n")
	for _, n := range b.night {
		fmt.Fprintf(w, "| %s |%s%s\n", n.tool.name, nightCells(n.changed), nightCells(n.idle))
	}
	w.WriteString("\n")
}

func nightCells(s []sample) string {
	return fmt.Sprintf(" %.2f | %.2f | %.0f |", medianBy(s, backupTime), medianBy(s, func(s sample) float64 { return s.backup.cpu.Seconds() }), medianBy(s, stored)/1000)
}

// nightTargets gives line each target with what was measured.
func (b *bench) nightTargets(line func(what string, target, got float64, unit string)) {
	if len(b.night) == 0 || b.night[0].tool.name != "pgobj zstd" {
		return
	}
	own := b.night[0]
	line("stored after 1 % of a table's pages changed", targetNightChanged/1000, medianBy(own.changed, stored)/1000, " kB")
	line("stored after nothing changed", targetNightIdle/1000, medianBy(own.idle, stored)/1000, " kB")
	for _, other := range b.night[1:] {
		line("backup time after 1 % of a table's pages changed, pgobj zstd / "+other.tool.name, targetNight, newRatio(quotients(own.changed, other.changed, backupTime)).median, " ×")
		line("backup time after nothing changed, pgobj zstd / "+other.tool.name, targetNight, newRatio(quotients(own.idle, other.idle, backupTime)).median, " ×")
	}
}
