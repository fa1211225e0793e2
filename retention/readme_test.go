package retention

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestPictureInREADME draws what a policy leaves of a backup every night, as docs/retention.md shows it.
func TestPictureInREADME(t *testing.T) {
	w := newWorld(1)
	w.now = time.Date(2026, 9, 19, 1, 0, 0, 0, time.UTC)
	for range 63 { // to 21 November
		w.nights(1)
		w.now = w.now.Add(-time.Hour)
	}
	w.now = w.now.Add(time.Hour)
	plan, err := Decide(w.order(t, "keep daily 4 weekly 3 monthly 3, pitr 4 days"), w.history(), w.now)
	if err != nil {
		t.Fatal(err)
	}
	var backups, wal strings.Builder
	for _, d := range plan.Backups {
		first := uint64(d.Entry.Commit.Summary.StartLSN) / uint64(segSize)
		i := slices.IndexFunc(plan.WAL, func(r WAL) bool { return r.From <= first+5 && first+5 <= r.To }) // halfway to the next
		switch {
		case plan.WAL[i].Keep:
			wal.WriteString("=")
		case d.Keep:
			wal.WriteString("|")
		default:
			wal.WriteString(".")
		}
		if d.Keep {
			backups.WriteString("#")
		} else {
			backups.WriteString(".")
		}
	}
	readme, err := os.ReadFile("../docs/retention.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{backups.String(), wal.String()} {
		if !strings.Contains(string(readme), "  "+line+"\n") {
			t.Errorf("docs/retention.md does not show\n%s", line)
		}
	}
}
