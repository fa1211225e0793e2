package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

type window struct {
	Timeline uint32
	From, To time.Time
	LastWAL  string `json:"last_wal"`
	Backups  []string
	Why      string `json:"ends_because"`
}

func (s *site) windows(t testing.TB) (w []window) {
	t.Helper()
	must(t, json.Unmarshal([]byte(s.must(t, "pitr-windows", "--json").out), &w))
	return w
}

// A history with two timelines, low activity, a hole and a damaged segment: what is shown is what can be restored.
func TestWALListVerifyWindows(t *testing.T) {
	t.Parallel()
	st := folderStore(t)
	s := newSite(t, st, pgtest.Options{WALSegMB: 1})
	id := func() string { return s.list(t)[len(s.list(t))-1].Backup }
	s.Exec(t, `CREATE TABLE x (at timestamptz)`)
	s.must(t, "backup-push")
	first := id()
	commit := func() time.Time {
		s.Exec(t, `INSERT INTO x SELECT clock_timestamp() FROM generate_series(1, 2000)`)
		at, err := time.Parse(time.RFC3339Nano, s.SQL(t, `SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`))
		must(t, err)
		s.Exec(t, `SELECT pg_switch_wal()`)
		return at
	}
	var after []time.Time
	for range 6 {
		after = append(after, commit())
	}
	s.must(t, "backup-push")
	second := id()
	after = append(after, commit())
	s.Exec(t, `SELECT pg_switch_wal()`) // segments without any transaction
	s.Exec(t, `CHECKPOINT`)
	s.archived(t)
	if w := s.windows(t); len(w) != 1 || len(w[0].Backups) != 2 || w[0].To.After(after[6]) || w[0].To.Before(after[5]) || w[0].Why != "end of the archive" {
		t.Fatalf("%+v; the last commit was before %v", w, after[6])
	}
	if o := s.must(t, "wal-list"); !strings.Contains(o.out, "00000001") {
		t.Error(o)
	}
	if o := s.must(t, "wal-verify"); !strings.Contains(o.out, " 0 damaged") {
		t.Error(o)
	}
	if o := s.must(t, "pitr-windows"); !strings.Contains(o.out, "timeline 1") || !strings.Contains(o.out, "B") {
		t.Error(o)
	}

	// A hole between the backups.
	segments, err := filepath.Glob(filepath.Join(st.folder, "main/wal/*/00000001/000000010000*.zst"))
	must(t, err)
	var full []string
	for _, f := range segments {
		if len(filepath.Base(f)) == 24+4 {
			full = append(full, f)
		}
	}
	summary := s.list(t)[0]
	at := 0
	for i, f := range full {
		if strings.HasPrefix(filepath.Base(f), summary.LastWAL) {
			at = i + 3
		}
	}
	name := strings.TrimSuffix(filepath.Base(full[at]), ".zst")
	saved, err := os.ReadFile(full[at])
	must(t, err)
	must(t, os.Remove(full[at]))
	w := s.windows(t)
	if len(w) != 2 || w[0].Why != name+" is missing" || w[0].Backups[0] != first || w[1].Backups[0] != second || !w[0].To.Before(w[1].From) {
		t.Errorf("with a hole: %+v", w)
	}
	s.proveWindow(t, w[0])
	if o := s.run(t, "wal-list"); o.code != 11 || !strings.Contains(o.out, "hole on timeline 1: "+name) {
		t.Errorf("with a hole: %v", o)
	}
	if o := s.run(t, "wal-verify", "--sample=10"); o.code != 11 || !strings.Contains(o.out, "backup "+first+" cannot be recovered past "+name) || strings.Contains(o.out, second) {
		t.Errorf("with a hole: %v", o)
	}
	if o := s.run(t, "wal-verify", "--acknowledge="+name); o.code != 2 {
		t.Errorf("without a reason: %v", o)
	}
	s.must(t, "wal-verify", "--acknowledge="+name, "--reason=the disk of 2026")
	if o := s.must(t, "wal-list"); !strings.Contains(o.out, "acknowledged: the disk of 2026") {
		t.Errorf("acknowledged: %v", o)
	}
	s.must(t, "wal-verify")
	if o := s.run(t, "wal-fetch", name, filepath.Join(s.Data, "pg_wal/x"), "--retry-for=1s"); o.code != 255 {
		t.Errorf("an acknowledged hole is a hole to recovery: %v", o)
	}
	must(t, os.WriteFile(full[at], saved, 0o644))

	// A damaged segment, which the second backup itself needs.
	needed := s.list(t)[1].FirstWAL
	object := filepath.Join(filepath.Dir(full[0]), needed+".zst")
	saved, err = os.ReadFile(object)
	must(t, err)
	bad := bytes.Clone(saved)
	bad[len(bad)/2] ^= 1
	must(t, os.WriteFile(object, bad, 0o644))
	if o := s.run(t, "wal-verify"); o.code != 8 || !strings.Contains(o.out, second+" CANNOT BE RESTORED: it needs "+needed) || !strings.Contains(o.out, "backup "+first+" cannot be recovered past "+needed) {
		t.Errorf("damaged: %v", o)
	}
	if o := s.run(t, "wal-verify", "--range="+name+".."+name, "--json"); o.code != 0 || !strings.Contains(o.out, `"checked": 1`) {
		t.Errorf("a range: %v", o)
	}
	must(t, os.WriteFile(object, saved, 0o644))

	dir := testenv.Dir(t)
	last := strings.TrimSuffix(filepath.Base(full[len(full)-1]), ".zst")
	if o := s.must(t, "wal-fetch", "--range="+name+".."+last, dir); !strings.Contains(o.out, fmt.Sprintf("fetched %d files", len(full)-at)) {
		t.Errorf("a range of %d: %v", len(full)-at, o)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != len(full)-at {
		t.Errorf("a range: %v %v", entries, err)
	}
}

// proveWindow restores to the very end of a window, and not to a microsecond later.
func (s *site) proveWindow(t testing.TB, w window) {
	t.Helper()
	to := func(at time.Time) string { return "--target-time=" + at.UTC().Format("2006-01-02 15:04:05.999999+00") }
	c := s.start(t, s.fetch(t, to(w.To), w.Backups[0]))
	if got := c.SQL(t, `SELECT count(*) > 0 FROM x`); got != "t" {
		t.Errorf("at the end of the window there is nothing")
	}
	c.Stop(t, "immediate")
	target := filepath.Join(testenv.Dir(t), "data")
	if o := s.run(t, "backup-fetch", target, to(w.To.Add(time.Microsecond)), w.Backups[0]); o.code != 0 {
		return // seen before anything was fetched
	}
	later, err := pgtest.Attach(target, 15, "-c", "archive_mode=off")
	must(t, err)
	defer later.Close()
	if err := later.Launch(t.Context()); err == nil {
		t.Error("the server reaches a time after the window")
	}
}
