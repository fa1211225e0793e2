package wal

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// A history with two timelines, low activity, a gap and a damaged segment: what is shown is what can be restored.
func TestWALListVerifyWindows(t *testing.T) {
	t.Parallel()
	st := site.DirectoryStore(t)
	s := site.NewSite(t, st, pgtest.Options{WALSegMB: 1})
	id := func() string { return s.List(t)[len(s.List(t))-1].Backup }
	s.Exec(t, `CREATE TABLE x (at timestamptz)`)
	s.Must(t, "backup-push")
	first := id()
	commit := func() time.Time {
		s.Exec(t, `INSERT INTO x SELECT clock_timestamp() FROM generate_series(1, 2000)`)
		at, err := time.Parse(time.RFC3339Nano, s.SQL(t, `SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`))
		site.Must(t, err)
		s.Exec(t, `SELECT pg_switch_wal()`)
		return at
	}
	var after []time.Time
	for range 6 {
		after = append(after, commit())
	}
	s.Must(t, "backup-push")
	second := id()
	after = append(after, commit())
	s.Exec(t, `SELECT pg_switch_wal()`) // segments without any transaction
	s.Exec(t, `CHECKPOINT`)
	s.Archived(t)
	if w := s.Windows(t); len(w) != 1 || len(w[0].Backups) != 2 || w[0].To.After(after[6]) || w[0].To.Before(after[5]) || w[0].Why != "end of the archive" {
		t.Fatalf("%+v; the last commit was before %v", w, after[6])
	}
	if o := s.Must(t, "wal-list"); !strings.Contains(o.Out, "00000001") {
		t.Error(o)
	}
	if o := s.Must(t, "wal-verify"); !strings.Contains(o.Out, " 0 damaged") {
		t.Error(o)
	}
	if o := s.Must(t, "pitr-windows"); !strings.Contains(o.Out, "timeline 1") || !strings.Contains(o.Out, "B") {
		t.Error(o)
	}

	// A gap between the backups.
	segments, err := filepath.Glob(filepath.Join(st.Directory, "main/wal/*/00000001/000000010000*.zst"))
	site.Must(t, err)
	var full []string
	for _, f := range segments {
		if len(filepath.Base(f)) == 24+4 {
			full = append(full, f)
		}
	}
	summary := s.List(t)[0]
	at := 0
	for i, f := range full {
		if strings.HasPrefix(filepath.Base(f), summary.LastWAL) {
			at = i + 3
		}
	}
	name := strings.TrimSuffix(filepath.Base(full[at]), ".zst")
	saved, err := os.ReadFile(full[at])
	site.Must(t, err)
	site.Must(t, os.Remove(full[at]))
	w := s.Windows(t)
	if len(w) != 2 || w[0].Why != name+" is missing" || w[0].Backups[0] != first || w[1].Backups[0] != second || !w[0].To.Before(w[1].From) {
		t.Errorf("with a gap: %+v", w)
	}
	s.ProveWindow(t, w[0])
	if o := s.Run(t, "wal-list"); o.Code != 11 || !strings.Contains(o.Out, "gap on timeline 1: "+name) {
		t.Errorf("with a gap: %v", o)
	}
	if o := s.Run(t, "wal-verify", "--sample=10"); o.Code != 11 || !strings.Contains(o.Out, "backup "+first+" cannot be recovered past "+name) || strings.Contains(o.Out, second) {
		t.Errorf("with a gap: %v", o)
	}
	if o := s.Run(t, "wal-verify", "--acknowledge="+name); o.Code != 2 {
		t.Errorf("without a reason: %v", o)
	}
	s.Must(t, "wal-verify", "--acknowledge="+name, "--reason=the disk of 2026")
	if o := s.Must(t, "wal-list"); !strings.Contains(o.Out, "acknowledged: the disk of 2026") {
		t.Errorf("acknowledged: %v", o)
	}
	s.Must(t, "wal-verify")
	if o := s.Run(t, "wal-fetch", name, filepath.Join(s.Data, "pg_wal/x"), "--retry-for=1s"); o.Code != 255 {
		t.Errorf("an acknowledged gap is a gap to recovery: %v", o)
	}
	site.Must(t, os.WriteFile(full[at], saved, 0o644))

	// A damaged segment, which the second backup itself needs.
	needed := s.List(t)[1].FirstWAL
	object := filepath.Join(filepath.Dir(full[0]), needed+".zst")
	saved, err = os.ReadFile(object)
	site.Must(t, err)
	bad := bytes.Clone(saved)
	bad[len(bad)/2] ^= 1
	site.Must(t, os.WriteFile(object, bad, 0o644))
	if o := s.Run(t, "wal-verify"); o.Code != 8 || !strings.Contains(o.Out, second+" CANNOT BE RESTORED") || !strings.Contains(o.Out, first+" cannot be recovered past "+needed) {
		t.Errorf("damaged: %v", o)
	}
	if o := s.Run(t, "wal-verify", "--range="+name+".."+name, "--json"); o.Code != 0 || !strings.Contains(o.Out, `"checked": 1`) {
		t.Errorf("a range: %v", o)
	}
	site.Must(t, os.WriteFile(object, saved, 0o644))
	s.DamagedEnd(t, full, first, second)

	dir := testenv.Dir(t)
	last := strings.TrimSuffix(filepath.Base(full[len(full)-1]), ".zst")
	if o := s.Must(t, "wal-fetch", "--range="+name+".."+last, dir); !strings.Contains(o.Out, fmt.Sprintf("fetched %d files", len(full)-at)) {
		t.Errorf("a range of %d: %v", len(full)-at, o)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != len(full)-at {
		t.Errorf("a range: %v %v", entries, err)
	}
}
