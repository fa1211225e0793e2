package cli

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/show"
)

// TestLogWithAGap: the gap is one line, however far away its end is.
func TestLogWithAGap(t *testing.T) {
	w := newWorld(t)
	w.add("db1", catalog.Record{Type: "begin", Begin: &catalog.Begin{Backup: "20261116T010000Z-0001"}})
	w.put("db1", "catalog/log/9999999999.json", 2)
	for _, args := range [][]string{{"catalog-log"}, {"catalog-log", "--since=2000-01-01 00:00:00"}, {"catalog-log", "--json"}} {
		got := w.pgobj(args...)
		for _, text := range []string{"20261116T010000Z-0001", "it is missing, and so are all up to 9999999998", "9999999999"} {
			if !strings.Contains(got, text) || len(got) > 2000 {
				t.Errorf("%q does not say %q:\n%.2000s", args, text, got)
			}
		}
	}
}

// TestControlCharacters: what a repository says does not act on the terminal, and JSON says it as it is.
func TestControlCharacters(t *testing.T) {
	const reason = "\x1b]0;owned\a\u009b2J\x7f\rx"
	w := newWorld(t)
	w.add("db1", catalog.Record{Type: "begin", Begin: &catalog.Begin{Backup: "20261116T010000Z-0001"}})
	w.add("db1", catalog.Record{Type: "abort", Abort: &catalog.Abort{Backup: "20261116T010000Z-0001", Reason: reason}})
	for _, args := range [][]string{{"backup-list", "--all"}, {"catalog-log"}} {
		if got := w.pgobj(args...); !strings.Contains(got, `\u001b]0;owned\u0007\u009b2J\u007f\u000dx`) || show.Visible(got) != got {
			t.Errorf("%q says %q", args, got)
		}
	}
	var list []app.Listed
	got := w.pgobj("backup-list", "--all", "--json")
	if err := json.Unmarshal([]byte(got), &list); err != nil || show.Visible(got) != got || list[0].Reason != reason {
		t.Errorf("the list is %q (%v)", got, err)
	}
	var out strings.Builder
	if report(&out, "text", errors.New("x\x1b[2J\ny\x1b")); out.String() != "ERROR:  x\\u001b[2J\nDETAIL:  y\\u001b\n" {
		t.Errorf("an error says %q", out.String())
	}
	if got, want := show.Visible("a\tb\n\xff\x9bc ü\x00"), "a\tb\n\xff\x9bc ü\\u0000"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestOneBadRecord: with hashes that hold, it is told, and the backups before it are listed.
func TestOneBadRecord(t *testing.T) {
	w := newWorld(t)
	w.add("db1", catalog.Record{Type: "server", Server: &catalog.Server{SystemID: sysid, PGVersion: 150004, SegmentSize: walSize}})
	w.backup("db1", "20261116T010000Z-0001", 1, 1, nil, nil)
	w.add("db1", catalog.Record{Type: "begin", Begin: &catalog.Begin{Backup: "20261116T020000Z-0002", SystemID: sysid}})
	w.raw("db1", 5, `"type":"commit","commit":{"backup":"20261116T020000Z-0002","sha256":"","summary":{"system_id":"7","first_wal":"000000010000000000000002","last_wal":""}}`)
	if got := w.pgobj("backup-list"); !strings.Contains(got, "20261116T010000Z-0001") || strings.Contains(got, "20261116T020000Z-0002") {
		t.Errorf("the list is %s", got)
	}
	if got := w.pgobj("catalog-log"); !strings.Contains(got, "NOT SOUND, backup 20261116T020000Z-0002") {
		t.Errorf("the log is %s", got)
	}
	if got := w.pgobj("delete", "retain", "1"); !strings.Contains(got, "catalog/log/0000000005.json") || !strings.HasSuffix(got, "exit code 8\n") {
		t.Errorf("a deletion says %s", got)
	}
}
