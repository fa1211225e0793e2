// Command bench measures pgobj beside pg_basebackup, pgBackRest and barman-cloud-backup: in one run, on
// one cluster, in alternating order, with fsync on for everyone. It prints a table in Markdown.
//
// It asserts nothing about time: it fails only when a tool fails, or when what a tool restores is not what
// was backed up. It needs `test/install bench`, and room for about six times -size in $TMPDIR.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/pgobj/pgobj/test/testenv"
)

// options are the flags.
type options struct {
	sizeMB                   int    // of the database
	rounds                   int    // of backup and restore by every tool
	walRounds                int    // of wal-push
	restoreRounds            int    // of delta restores and restores with latency; 0 leaves them out
	nights                   int    // pairs of backups after the first one; 0 leaves them out
	pileRounds, pileSegments int    // of archiving and fetching a pile of WAL; 0 rounds leave it out
	recoveryRounds           int    // of replaying WAL; 0 leaves it out
	recoveryMB               int    // of WAL
	tables                   int    // small ones in the database
	files                    int    // small files in the second cluster; 0 leaves it out
	catalogBackups           int    // in the large repository; 0 leaves it out
	only                     string // part of the name of the tools to run; "" is all
	checksums                bool   // data checksums in the cluster
	jobs                     int    // workers of every tool that has any
	out                      string // file to write the report to; "" is none
}

// short makes a run that shows only that everything works. It leaves out what is the same but for a setting.
func (o *options) short() {
	o.sizeMB, o.rounds, o.walRounds, o.tables, o.files = 16, 1, 2, 20, 1000
	o.pileRounds, o.pileSegments, o.nights, o.restoreRounds = 1, 6, 1, 1
	o.recoveryRounds, o.recoveryMB = 1, 32
	o.catalogBackups = 300
	o.only = cmp.Or(o.only, "pgobj,pgbackrest zst:1,pg_basebackup,barman-cloud (S3)")
}

func main() {
	var o options
	flag.IntVar(&o.sizeMB, "size", 2048, "size of the database in `MB`")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds of backup and restore; 0 leaves them out")
	flag.IntVar(&o.restoreRounds, "restore-rounds", 3, "rounds of delta restores and of restores with latency; 0 leaves them out")
	flag.IntVar(&o.walRounds, "wal-rounds", 20, "rounds of wal-push; 0 leaves it out")
	flag.IntVar(&o.nights, "nights", 5, "rounds of a backup after a few pages changed, and one after nothing changed; 0 leaves them out")
	flag.IntVar(&o.pileRounds, "pile-rounds", 3, "rounds of archiving and fetching a pile of WAL segments; 0 leaves it out")
	flag.IntVar(&o.pileSegments, "pile-segments", 64, "16 MB segments in the pile")
	flag.IntVar(&o.recoveryRounds, "recovery-rounds", 3, "rounds of a recovery that replays WAL; 0 leaves it out")
	flag.IntVar(&o.recoveryMB, "recovery-size", 2048, "`MB` of WAL that a recovery replays")
	flag.IntVar(&o.tables, "tables", 300, "small tables in the database")
	flag.IntVar(&o.files, "files", 200_000, "small files in the cluster that shows how memory grows; 0 leaves it out")
	flag.IntVar(&o.catalogBackups, "catalog-backups", 10_000, "backups in the repository that shows how requests grow, with 200 times as many WAL objects; 0 leaves it out")
	flag.StringVar(&o.only, "only", "", "run only the tools with one of these (comma-separated) in their `names`")
	flag.BoolVar(&o.checksums, "checksums", true, "data checksums in the cluster (pgobj, pgBackRest and pg_basebackup verify them)")
	flag.IntVar(&o.jobs, "jobs", 2, "workers of every tool that has any")
	flag.StringVar(&o.out, "o", "", "also write the report to this `file`")
	short := flag.Bool("short", false, "a small database and one round: shows that everything works, not how fast")
	flag.Parse()
	if *short {
		o.short()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o, os.Stdout, log.New(os.Stderr, "bench: ", log.Ltime))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: FAILED:", err)
		os.Exit(1)
	}
}

// run is one whole run. Whatever it started or made is gone when it returns.
func run(ctx context.Context, o options, w io.Writer, progress *log.Logger) (err error) {
	if err := forgetSettings(); err != nil {
		return err
	}
	base, err := testenv.MakeDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(base)) }()
	b := &bench{options: o, base: base, log: progress, began: time.Now()}
	defer func() { err = errors.Join(err, b.close()) }()
	for _, step := range []func(context.Context) error{b.setUp, b.compare, b.measureNights, b.measureWAL, b.measurePiles, b.measureRecovery, b.measureRestores, b.measureFiles, b.measureCatalog} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	report := b.report()
	if _, err := io.WriteString(w, report); err != nil {
		return err
	}
	if o.out != "" {
		return os.WriteFile(o.out, []byte(report), 0o644)
	}
	return nil
}

// wanted tells whether -only asks for a tool.
func (o options) wanted(name string) bool {
	for part := range strings.SplitSeq(o.only, ",") {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// forgetSettings drops settings of pgobj and of the AWS tools from our environment: those of the person who
// runs the benchmark must not change it, and never lead it to a real repository.
func forgetSettings() error {
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "AWS_") || strings.HasPrefix(name, "PGBACKREST_") || strings.HasPrefix(name, "PGOBJ_") && name != "PGOBJ_CACHE" {
			if err := os.Unsetenv(name); err != nil {
				return err
			}
		}
	}
	return nil
}
