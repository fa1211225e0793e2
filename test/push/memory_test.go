package push

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/codec"
	"github.com/pgobj/pgobj/storage/file"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestMemoryDoesNotGrowWithFiles: more files take about the same memory, in everything that reads or writes
// a manifest. make bench has 200,000 files, and make torture the 1,000,000 of the promise.
func TestMemoryDoesNotGrowWithFiles(t *testing.T) {
	t.Parallel()
	const promised, growth = 200, 60 // MiB
	few, many := 10_000, 30_000      // what waits to be written is bounded, too: by less than the few
	if site.Torture() {
		many = 1_000_000
	}
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Template: true})
	s.Stop(t, "fast")
	dir := filepath.Join(s.Data, "base/5")
	peaks := map[string]int{}
	for made := 0; made < many; {
		count := few
		if made > 0 {
			count = many - made
		}
		smallFiles(t, dir, made, count)
		made += count
		target := filepath.Join(testenv.Dir(t), "data")
		commands := [][]string{
			{"backup-push", "--offline"}, {"backup-push", "--offline", "--reread"}, {"backup-push", "--offline", "--full"},
			{"backup-verify"}, {"backup-fetch", target},
		}
		if site.Torture() {
			commands = append(commands, []string{"backup-fetch", target, "--delta"})
		}
		for _, x := range commands {
			o, peak := site.WithPeak(t, s.Command(append(x, "--jobs=2")...))
			what := strings.ReplaceAll(strings.Join(x, " "), target, "DIR")
			if o.Code != 0 || peak == 0 {
				t.Fatalf("%s of %d files (peak %d MiB): %v", what, made, peak, o)
			}
			t.Logf("%7d files, %-32s %3d MiB", made, what, peak)
			if peak >= promised {
				t.Errorf("%s of %d files takes %d MiB", what, made, peak)
			}
			if before, ok := peaks[what]; ok && made == many && peak > before+growth {
				t.Errorf("%s takes %d MiB for %d files, and %d for %d", what, before, few, peak, made)
			}
			peaks[what] = max(peaks[what], peak)
		}
		site.Must(t, os.RemoveAll(target))
	}
}

// smallFiles makes files of different content: every tenth a page of a relation, the others of no relation.
func smallFiles(t testing.TB, dir string, first, count int) {
	t.Helper()
	random := rand.NewChaCha8([32]byte{byte(first)})
	for i := first; i < first+count; i++ {
		name, size := fmt.Sprintf("extra.%d", i), 100+i%900
		if i%10 == 0 {
			name, size = fmt.Sprint(1_000_000+i), 8192
		}
		site.Must(t, os.WriteFile(filepath.Join(dir, name), site.RandomBytes(random, size), 0o600))
	}
	site.Must(t, testenv.ChownPostgres(dir))
}

// TestMemoryDoesNotGrowWithBackups: what reads the descriptions of many backups of a large database, here of 2 TB, holds
// none of them.
func TestMemoryDoesNotGrowWithBackups(t *testing.T) {
	t.Parallel()
	const backups, parts, promised = 12, 80_000, 200 // MiB
	s := &site.Site{Store: site.DirectoryStore(t), Pgobj: testenv.Pgobj(t)}
	root, err := file.New(file.Config{Dir: s.Directory})
	site.Must(t, err)
	c := catalog.New(storage.Sub(root, "main"), "test", time.Now)
	state, err := c.Load(t.Context())
	site.Must(t, err)
	add := func(r catalog.Record) {
		t.Helper()
		state, err = c.Append(t.Context(), state, func(*catalog.State) (catalog.Record, error) { return r, nil })
		site.Must(t, err)
	}
	add(catalog.Record{Type: "server", Server: &catalog.Server{SystemID: 1, PGVersion: 150004, SegmentSize: 16 << 20}})
	var ids []string
	for i := range backups {
		at := time.Date(2026, 1, 1+i, 0, 0, 0, 0, time.UTC)
		b := &catalog.Backup{ID: catalog.NewID(at, [2]byte{}), SegmentSize: 16 << 20, Summary: catalog.Summary{SystemID: 1, PGVersion: 150004, Timeline: 1, Started: at, Consistent: at, Finished: at,
			FirstWAL: "000000010000000000000001", LastWAL: "000000010000000000000001"}}
		add(catalog.Record{Type: "begin", Begin: &catalog.Begin{Backup: b.ID, SystemID: 1, Reuses: ids[max(0, i-1):]}})
		ids = append(ids, b.ID)
		for n := range parts { // a hundredth of them are its own
			owner := ids[max(0, i-n%100)]
			b.Parts = append(b.Parts, catalog.Part{Name: part.Name(owner, 1+n, codec.Default), Size: 8 << 20, Index: strings.Repeat("0", 64), Raw: 25 << 20, Live: 25 << 20})
		}
		hash, err := c.PutBackup(t.Context(), b)
		site.Must(t, err)
		add(catalog.Record{Type: "commit", Commit: &catalog.Commit{Backup: b.ID, SHA256: hash, Summary: b.Summary}})
	}
	site.Must(t, testenv.ChownPostgres(s.Directory))
	for _, args := range [][]string{{"delete", "policy", "--retention", "REDUNDANCY 3"}, {"delete", "garbage"}, {"backup-show", "latest"}} {
		o, peak := site.WithPeak(t, s.Command(args...))
		what := strings.Join(args, " ")
		if o.Code != 0 || peak == 0 {
			t.Fatalf("%s (peak %d MiB): %v", what, peak, o)
		}
		t.Logf("%-40s %3d MiB", what, peak)
		if peak >= promised {
			t.Errorf("%s among %d backups of %d parts each takes %d MiB", what, backups, parts, peak)
		}
	}
}
