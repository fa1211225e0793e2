package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/wal"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/test/waltest"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/receive"
	"github.com/pgobj/pgobj/walstore/segment"
)

// newWALWorld has a server without any WAL.
func newWALWorld(t *testing.T) *world {
	w := newWorld(t)
	w.add("db1", catalog.Record{Type: "server", Server: &catalog.Server{SystemID: sysid, PGVersion: 150004, SegmentSize: walSize}})
	return w
}

// segments archives some that can be read.
func (w *world) segments(size segment.Size, names ...string) {
	w.t.Helper()
	for _, name := range names {
		seg, err := segment.ParseName(name, size)
		w.must(err)
		key, body, err := waltest.Object(sysid, seg, size)
		w.must(err)
		w.must(storage.Sub(w.root, "db1").Put(w.t.Context(), key, bytes.NewReader(body), int64(len(body))))
	}
}

// historyOf archives the history file of a timeline: timeline 1 was left at the first place, and so on.
func (w *world) historyOf(tli segment.Timeline, left ...segment.LSN) {
	w.t.Helper()
	var text []byte
	for i, at := range left {
		text = fmt.Appendf(text, "%d\t%s\tno recovery target specified\n", i+1, at)
	}
	file := filepath.Join(w.t.TempDir(), segment.HistoryName(tli))
	w.must(os.WriteFile(file, text, 0o600))
	_, err := walstore.Push(w.t.Context(), storage.Sub(w.root, "db1"), walstore.PushRequest{Path: file, SystemID: func() (uint64, error) { return sysid, nil }})
	w.must(err)
}

func (w *world) says(command string, want ...string) {
	w.t.Helper()
	got := w.pgobj(strings.Fields(command)...)
	for _, text := range want {
		if !strings.Contains(got, text) {
			w.t.Errorf("%s does not say %q:\n%s", command, text, got)
		}
	}
}

// All of a timeline is lost that others descend from.
func TestWALOfALostTimeline(t *testing.T) {
	w := newWALWorld(t)
	w.segments(1<<20, "000000010000000000000007", "000000010000000000000008", "00000003000000000000000C", "00000003000000000000000D", "00000004000000000000000E")
	w.historyOf(2, 0x900000)
	w.historyOf(3, 0x900000, 0xC00000)
	w.historyOf(4, 0x900000, 0xC00000, 0xE00000)
	w.historyOf(5, 0x900000, 0xC00000)
	w.segments(1<<20, "00000005000000000000000C")
	const gap = "gap on timeline 2: 000000020000000000000009 to 00000002000000000000000B (3 segments)\nexit code 11"
	for _, command := range []string{"wal-list", "wal-verify"} {
		w.says(command, gap)
		if got := w.pgobj(command); strings.Count(got, "gap on") != 1 {
			t.Errorf("%s tells it more than once:\n%s", command, got)
		}
	}
	if got := w.pgobj("wal-list") + w.pgobj("wal-list", "--json"); strings.Contains(got, "0001-01-01") {
		t.Errorf("a timeline without segments has times:\n%s", got)
	}
}

// What is missing on a timeline affects the backups that can be recovered along it, and no others.
func TestWALAffectsBackups(t *testing.T) {
	w := newWALWorld(t)
	const early, late = "20261116T050000Z-0001", "20261116T090000Z-0002"
	for no := uint64(5); no <= 10; no++ {
		w.segments(walSize, segment.Segment{Timeline: 1, No: no}.Name(walSize))
	}
	w.backup("db1", early, 1, 5, nil, nil)
	w.backup("db1", late, 1, 9, nil, nil)
	left := segment.LSN(8 * walSize)
	w.historyOf(2, left)
	w.segments(walSize, "000000020000000000000008", "000000020000000000000009", "00000002000000000000000B")
	only := func(segment string) {
		t.Helper()
		want := "backup " + early + " cannot be recovered past " + segment
		if got := w.pgobj("wal-verify", "--sample=0.01"); !strings.Contains(got, want) || strings.Contains(got, late) {
			t.Errorf("it does not say %q alone; timeline 2 left timeline 1 before backup %s:\n%s", want, late, got)
		}
	}
	only("00000002000000000000000A")
	w.historyOf(4, left, left+2*segment.LSN(walSize), left+4*segment.LSN(walSize)) // nothing is left of timeline 3
	w.segments(walSize, "00000002000000000000000A", "00000004000000000000000C")
	only("00000003000000000000000A")
}

// A range that cannot be fetched is told, and why.
func TestWALRanges(t *testing.T) {
	w := newWALWorld(t)
	w.segments(1<<20, "000000010000000000000007", "000000010000000000000008", "00000001000000000000000A")
	for span, want := range map[string]string{
		"000000010000000000000008..000000010000000000000007": "its end is before",
		"000000010000000000000007..00000001000000000000000C": "00000001000000000000000A\nexit code 6",
		"000000010000000000000007..000000020000000000000009": "timeline 2\nexit code 6",
		"000000010000000000000007..000000010000000000000009": "000000010000000000000009 is missing in file:///STORAGE/db1, although 00000001000000000000000A is there",
		"000000010000000000000007..000000010000000000000008": "fetched 2 files",
	} {
		w.says("wal-fetch --system-id="+fmt.Sprint(sysid)+" --range="+span+" "+t.TempDir(), want)
	}
	w.says("wal-verify --range=000000010000000000000008..000000010000000000000007", "its end is before")
}

// Nothing in the archive can be read; what can be listed is told.
func TestWALOfOneDamagedSegment(t *testing.T) {
	w := newWALWorld(t)
	w.wal("db1", 1, 7, 7)
	w.says("wal-list", "000000010000000000000007  000000010000000000000007  1 ")
	w.says("wal-verify", "1 damaged", "exit code 8")
}

// What wal-receive says at its end is what is stored.
func TestReceiveTells(t *testing.T) {
	for _, c := range []struct {
		end  receive.Position
		want string
		code int
	}{
		{receive.Position{}, "before anything", 0},
		{receive.Position{Timeline: 1, Begin: 0x100, Received: 0x100}, "before anything", 0},
		{receive.Position{Timeline: 1, Begin: 0x100, Received: 0x100, Stored: 0x100}, "stopped at 0/100 on timeline 1; all", 0},
		{receive.Position{Timeline: 1, Begin: 0x100, Received: 0x180, Stored: 0x180}, "stopped at 0/180 on timeline 1; all", 0},
		{receive.Position{Timeline: 1, Begin: 0x100, Received: 0x180, Stored: 0x140}, "all WAL before 0/140", app.ExitStorage},
		{receive.Position{Timeline: 1, Begin: 0x100, Received: 0x180, Stored: 0x100}, "from 0/100 on is not", app.ExitStorage},
		{receive.Position{Timeline: 1, Begin: 0x100, Received: 0x180}, "from 0/100 on is not", app.ExitStorage},
	} {
		var out bytes.Buffer
		code := report(io.Discard, "text", (&wal.WalReceive{}).Tell(&app.App{Streams: app.Streams{Out: &out}}, c.end))
		if !strings.Contains(out.String(), c.want) || code != c.code {
			t.Errorf("%+v: %s (exit code %d), want %s (%d)", c.end, &out, code, c.want, c.code)
		}
	}
}
