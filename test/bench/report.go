package main

import (
	"cmp"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Targets of the project, as ratios of times and in MiB. They are printed with what was measured, and
// nothing depends on them.
const (
	targetBackup   = 0.6
	targetRestore  = 0.7
	targetPush     = 1.3
	targetRecovery = 1.1
	targetMemory   = 150
)

func (b *bench) report() string {
	if b.rounds == 0 {
		b.tools = nil
	}
	var w strings.Builder
	fmt.Fprintf(&w, "# Benchmark of pgobj\n\n%s, rounds: %d, %.0f minutes in all. ", time.Now().UTC().Format("2 January 2006"), b.rounds, time.Since(b.began).Minutes())
	fmt.Fprintf(&w, "%s, %d CPUs, %s of memory, Linux %s; everything in one file system (%s).\n\n", cpuModel(), runtime.NumCPU(), memTotal(), kernel(), os.TempDir())
	for _, v := range b.versions {
		fmt.Fprintf(&w, "- %s\n", v)
	}
	fmt.Fprintf(&w, "\nThe database: %s in PGDATA without WAL, page checksums %s; pgbench's tables (60 %%), text, JSON and numbers (40 %%), %d small tables.\n\n",
		megabytes(b.dataBytes), map[bool]string{true: "on", false: "off"}[b.checksums], b.tables)
	if len(b.tools) > 0 && b.rounds > 0 {
		fmt.Fprintf(&w, "Noise: other processes took %.0f %% of the machine's CPU time during the measurements.\n\n", 100*b.noise())
		b.toolTable(&w)
		b.ratioTable(&w)
	}
	b.nightText(&w)
	b.restoreText(&w)
	b.walText(&w)
	b.pileText(&w)
	b.recoveryText(&w)
	w.WriteString("\n")
	if b.many.files > 0 {
		fmt.Fprintf(&w, "## Many small files\n\nA cluster with %d more files of up to 8 kB beside those of a database (no tables belong to them), pgobj zstd, one run.\n\n"+
			"| command | s | peak MiB |\n|---|--:|--:|\n", b.many.files)
		for _, x := range b.many.steps {
			fmt.Fprintf(&w, "| %s | %.1f | %.0f |\n", x.name, x.wall.Seconds(), mib(x.peak))
		}
		w.WriteString("\n")
	}
	b.catalogText(&w)
	b.targets(&w)
	b.method(&w)
	return w.String()
}

// noise is the share of the CPUs that others had: those that run beside the benchmark, and in the S3
// measurements the S3 server, which is why they do not count here.
func (b *bench) noise() float64 {
	var others, all float64
	for _, t := range b.tools {
		if strings.Contains(t.name, "(S3)") {
			continue
		}
		for _, s := range t.samples {
			others += (s.backup.others + s.restore.others).Seconds()
			all += (s.backup.wall + s.restore.wall).Seconds() * float64(runtime.NumCPU())
		}
	}
	return others / max(all, 0.001)
}

func (b *bench) toolTable(w *strings.Builder) {
	w.WriteString("## Full backup and restore\n\nMedians.\n\n")
	w.WriteString("| tool | backup s | CPU s (+ server's) | peak MiB | stored MB | restore s | CPU s | peak MiB |\n|---|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, t := range b.tools {
		fmt.Fprintf(w, "| %s | %.1f | %.1f + %.1f | %.0f | %.1f | %.1f | %.1f | %.0f |\n", t.name,
			t.median(func(s sample) float64 { return s.backup.wall.Seconds() }), t.median(func(s sample) float64 { return s.backup.cpu.Seconds() }),
			t.median(func(s sample) float64 { return s.backup.server.Seconds() }), t.median(backupPeak), t.median(stored)/1e6,
			t.median(func(s sample) float64 { return s.restore.wall.Seconds() }), t.median(func(s sample) float64 { return s.restore.cpu.Seconds() }), t.median(restorePeak))
	}
	w.WriteString("\n")
	for _, t := range b.tools {
		fmt.Fprintf(w, "- %s: `%s`\n", t.name, t.settings)
	}
	w.WriteString("\n")
}

func (b *bench) ratioTable(w *strings.Builder) {
	w.WriteString("## pgobj in relation to others\n\nEach round gives one ratio; these are their medians (and their range). Below 1, pgobj needs less.\n\n")
	w.WriteString("| pair | backup time | restore time | stored | CPU of the backup |\n|---|--:|--:|--:|--:|\n")
	for _, pair := range [][2]string{
		{"pgobj zstd", "pgbackrest zst:3"}, {"pgobj zstd", "pgbackrest zst:1"}, {"pgobj zstd", "pgbackrest zst:3 bundle"}, {"pgobj lz4", "pgbackrest lz4"},
		{"pgobj zstd", "pg_basebackup tar zstd"}, {"pgobj zstd", "pg_basebackup plain"},
		{"pgobj zstd (S3)", "barman-cloud (S3)"}, {"pgobj zstd (S3)", "barman-cloud gzip (S3)"},
	} {
		one, other := b.find(pair[0]), b.find(pair[1])
		if one == nil || other == nil {
			continue
		}
		fmt.Fprintf(w, "| %s / %s | %s | %s | %s | %s |\n", one.name, other.name, ratios(one, other, backupTime).text(), ratios(one, other, restoreTime).text(),
			ratios(one, other, stored).text(), ratios(one, other, func(s sample) float64 { return (s.backup.cpu + s.backup.server).Seconds() }).text())
	}
	w.WriteString("\n")
}

func (b *bench) walText(w *strings.Builder) {
	if len(b.wal.push) == 0 {
		return
	}
	fmt.Fprintf(w, "## One WAL segment to a directory\n\n| | median ms | stored kB |\n|---|--:|--:|\n| pgobj wal-push | %.0f | %.0f |\n| zstd -1 and fsync | %.0f | %.0f |\n\n",
		medianOf(b.wal.push)*1000, float64(b.wal.pushBytes)/1000, medianOf(b.wal.zstd)*1000, float64(b.wal.zstdBytes)/1000)
	fmt.Fprintf(w, "%d pairs in alternating order, one full segment of pgbench's; ratio %s. Starting pgobj (`pgobj version`): %.0f ms.\n\n", len(b.wal.push), b.pushRatio().text(), medianOf(b.wal.start)*1000)
}

func (b *bench) targets(w *strings.Builder) {
	w.WriteString("## Targets\n\n| what | target | measured | |\n|---|--:|--:|---|\n")
	line := func(what string, target, got float64, unit string) {
		fmt.Fprintf(w, "| %s | ≤ %g%s | %.2f%s | %s |\n", what, target, unit, got, unit, map[bool]string{true: "met", false: "**missed**"}[got <= target])
	}
	for _, p := range []struct {
		one, other string
		what       string
		target     float64
		of         func(sample) float64
	}{
		{"pgobj zstd", "pgbackrest zst:3", "backup time", targetBackup, backupTime},
		{"pgobj zstd", "pgbackrest zst:3", "stored bytes", 1, stored},
		{"pgobj zstd", "pgbackrest zst:3", "restore time", targetRestore, restoreTime},
		{"pgobj zstd", "pgbackrest zst:1", "backup time", targetBackup, backupTime},
		{"pgobj zstd", "pgbackrest zst:1", "stored bytes", 1, stored},
		{"pgobj zstd", "pgbackrest zst:3 bundle", "backup time", targetBackup, backupTime},
		{"pgobj lz4", "pgbackrest lz4", "backup time", targetBackup, backupTime},
		{"pgobj lz4", "pgbackrest lz4", "restore time", targetRestore, restoreTime},
	} {
		if one, other := b.find(p.one), b.find(p.other); one != nil && other != nil && b.rounds > 0 {
			line(fmt.Sprintf("%s, %s / %s", p.what, p.one, p.other), p.target, ratios(one, other, p.of).median, " ×")
		}
	}
	b.nightTargets(line)
	b.restoreTargets(line)
	if len(b.wal.push) > 0 {
		line("wal-push / zstd -1 and fsync", targetPush, b.pushRatio().median, " ×")
	}
	if len(b.recovery.cp) > 0 {
		line("recovery, pgobj from S3 / cp from a directory", targetRecovery, medianOf(b.recovery.pgobj)/medianOf(b.recovery.cp), " ×")
	}
	for _, t := range b.tools {
		if strings.HasPrefix(t.name, "pgobj") && b.rounds > 0 {
			line("peak memory of a backup, "+t.name, targetMemory, t.median(backupPeak), " MiB")
			line("peak memory of a restore, "+t.name, targetMemory, t.median(restorePeak), " MiB")
		}
	}
	if b.many.files > 0 {
		for _, x := range b.many.steps {
			line(fmt.Sprintf("peak memory of %s, %d small files", x.name, b.many.files), targetMemory, mib(x.peak), " MiB")
		}
	}
	w.WriteString("\n")
}

func (b *bench) method(w *strings.Builder) {
	w.WriteString(`## Method

- One cluster, at rest: checkpointed, WAL archived, autovacuum off. Before each backup all its files are read once (so the page
  cache is warm for everyone), before each measurement dirty pages are written out (sync).
- Tools run one after the other, forwards in odd rounds and backwards in even ones. In the first round what each tool restores is
  compared with the live files, byte by byte.
- Everyone takes an immediate checkpoint. pgobj and pg_basebackup wait until the last WAL segment is archived (by pgobj wal-push to a
  directory; for pgobj on S3, there). pgBackRest archives by a command of its own, so it runs with --no-archive-check and is spared that wait.
- pgBackRest's settings are its defaults but for those named above; its one-file-per-file repository is such a default, --repo1-bundle is not.
- fsync is on for everyone: pgobj and pgBackRest sync each file that they restore, pg_basebackup those of a backup; a restore by tar, cp
  or barman ends with a sync of the file system.
- CPU is user and system time of the tool's processes; that of the server meanwhile (which reads and sends the data for
  pg_basebackup) is given apart. The S3 server runs on the same machine and is not counted, but takes CPU from its client.
- Peak memory is the larger of: the kernel's maximum for the largest process (exact), and the sum over the tool's processes, shared
  pages counted once, looked at every 50 ms. A server's shared buffers are not in it.
- Stored: sum of the sizes of files or objects, without archived WAL.
- The large repository is in the memory of this program, which calls the functions that the commands call and counts what they ask
  of the storage, a listing and a deletion as one request for each 1,000 keys. The catalog is real (one backup an hour, each refers to
  parts of ten others); parts and manifests are empty, WAL objects are names only. So the seconds are pgobj's own work: no network,
  no start of the program, no output.
`)
}

func backupTime(s sample) float64  { return s.backup.wall.Seconds() }
func restoreTime(s sample) float64 { return s.restore.wall.Seconds() }
func stored(s sample) float64      { return float64(s.stored) }
func backupPeak(s sample) float64  { return mib(s.backup.peak) }
func restorePeak(s sample) float64 { return mib(s.restore.peak) }

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func megabytes(bytes int64) string { return fmt.Sprintf("%.1f MB", float64(bytes)/1e6) }

func (b *bench) find(name string) *tool {
	i := slices.IndexFunc(b.tools, func(t *tool) bool { return t.name == name })
	if i < 0 {
		return nil
	}
	return b.tools[i]
}

func (t *tool) median(of func(sample) float64) float64 {
	return medianBy(t.samples, of)
}

func medianBy(samples []sample, of func(sample) float64) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = of(s)
	}
	return median(values)
}

// ratio is the median of the ratios of several rounds, and their range.
type ratio struct{ low, median, high float64 }

func (r ratio) text() string { return fmt.Sprintf("%.2f (%.2f–%.2f)", r.median, r.low, r.high) }

func newRatio(values []float64) ratio {
	return ratio{slices.Min(values), median(values), slices.Max(values)}
}

func ratios(one, other *tool, of func(sample) float64) ratio {
	return newRatio(quotients(one.samples, other.samples, of))
}

func quotients(one, other []sample, of func(sample) float64) []float64 {
	values := make([]float64, len(one))
	for i := range values {
		values[i] = of(one[i]) / of(other[i])
	}
	return values
}

func (b *bench) pushRatio() ratio {
	values := make([]float64, len(b.wal.push))
	for i := range values {
		values[i] = b.wal.push[i].Seconds() / b.wal.zstd[i].Seconds()
	}
	return newRatio(values)
}

// median of values, of which there is one at least.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// medianOf is the median in seconds.
func medianOf(times []time.Duration) float64 {
	values := make([]float64, len(times))
	for i, t := range times {
		values[i] = t.Seconds()
	}
	return median(values)
}

func cpuModel() string { return cmp.Or(field("/proc/cpuinfo", "model name"), runtime.GOARCH) }

func memTotal() string {
	var kB float64
	if _, err := fmt.Sscan(field("/proc/meminfo", "MemTotal"), &kB); err != nil {
		return "an unknown amount"
	}
	return fmt.Sprintf("%.0f GiB", kB/(1<<20))
}

func kernel() string {
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "of an unknown version"
	}
	return strings.TrimSpace(string(text))
}

// field is the value of the first line "name : value" in a file of /proc.
func field(file, name string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
