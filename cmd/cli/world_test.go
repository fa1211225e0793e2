package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/config"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/codec"
	"github.com/pgobj/pgobj/storage/connect"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

// The tests are not affected by the configuration of the host that they run on.
func init() { os.Setenv("PGOBJ_CONFIG", config.None) }

// world is a storage with servers of which everything is known: times, ids and sizes. Its backups cannot be restored, for
// the commands that are tested here read the catalog and listings only.
type world struct {
	t    *testing.T
	dir  string
	root storage.Store
	now  time.Time
}

const (
	sysid   = 7301234567890123456
	walSize = segment.Size(16 << 20)
)

func newWorld(t *testing.T) *world {
	dir := t.TempDir()
	root, err := connect.Open(connect.Config{URL: "file://" + dir})
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, dir: dir, root: root, now: time.Date(2026, 11, 16, 1, 0, 0, 0, time.UTC)}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// tick lets some seconds pass: no two records have the same time.
func (w *world) tick() time.Time {
	w.now = w.now.Add(7 * time.Second)
	return w.now
}

func (w *world) put(server, key string, size int) {
	w.must(w.root.Put(w.t.Context(), server+"/"+key, bytes.NewReader(make([]byte, size)), int64(size)))
}

// add writes a record.
func (w *world) add(server string, r catalog.Record) {
	w.t.Helper()
	_, err := w.catalog(server).Append(w.t.Context(), &catalog.State{}, func(*catalog.State) (catalog.Record, error) { return r, nil })
	w.must(err)
}

func (w *world) catalog(server string) *catalog.Catalog {
	return catalog.New(storage.Sub(w.root, server), "db1.example/4711/ABCDEFGH", w.tick)
}

// wal archives segments first..last of a timeline, one an hour.
func (w *world) wal(server string, tli segment.Timeline, first, last uint64) {
	for no := first; no <= last; no++ {
		key := object.Key(sysid, segment.Segment{Timeline: tli, No: no}.Name(walSize))
		w.put(server, key, 100_000+int(no))
		at := time.Date(2026, 11, 16, 0, 0, 0, 0, time.UTC).Add(time.Duration(no) * time.Hour)
		w.must(os.Chtimes(filepath.Join(w.dir, server, key), at, at))
	}
}

// history archives the history file of timeline 2.
func (w *world) history(server string, at segment.LSN) {
	file := filepath.Join(w.t.TempDir(), "00000002.history")
	w.must(os.WriteFile(file, fmt.Appendf(nil, "1\t%s\tno recovery target specified\n", at), 0o600))
	_, err := walstore.Push(w.t.Context(), storage.Sub(w.root, server), walstore.PushRequest{Path: file, SystemID: func() (uint64, error) { return sysid, nil }})
	w.must(err)
}

// backup takes one on segments first..first+1: it refers to parts of others, and stores some of its own.
func (w *world) backup(server, id string, tli segment.Timeline, first uint64, refers []catalog.Part, more func(*catalog.Backup)) []catalog.Part {
	w.t.Helper()
	w.now = time.Date(2026, 11, 16, int(first), 30, 0, 0, time.UTC)
	start := segment.Segment{Timeline: tli, No: first}
	b := &catalog.Backup{ID: id, PGVersionText: "15.4", CatalogVersion: 202209061, SegmentSize: int64(walSize), Checksums: true, PGDATA: "/var/lib/postgresql/15/main",
		Host: "db1.example", Owner: "postgres:postgres", Compression: "zstd:3", Tool: "v0.1", Manifest: catalog.Object{Size: 900, SHA256: strings.Repeat("0", 64)}}
	b.Summary = catalog.Summary{SystemID: sysid, From: "primary", PGVersion: 150004, Started: w.now, Consistent: w.now.Add(125 * time.Second), Finished: w.now.Add(2500 * time.Millisecond * 52),
		Timeline: tli, StartLSN: start.Start(walSize) + 0x28, StopLSN: start.Next().Start(walSize) + 0x138, FirstWAL: start.Name(walSize), LastWAL: start.Next().Name(walSize),
		Size: 40 << 20, Files: 978, Read: 12 << 20, Reused: 28 << 20, Stored: 5 << 20}
	var own []catalog.Part
	for n := 1; n <= 2; n++ {
		p := catalog.Part{Name: part.Name(id, n, codec.Codec{}), Size: int64(10000*n + int(first)), Index: strings.Repeat("1", 64), Raw: 50_000, Live: 40_000}
		own = append(own, p)
		w.put(server, part.Key(p.Name), int(p.Size))
	}
	b.Parts = append(append(b.Parts, refers...), own...)
	if more != nil {
		more(b)
	}
	begin := catalog.Begin{Backup: id, SystemID: sysid, Timeline: tli, LSN: b.StartLSN}
	for _, p := range refers {
		if of, _, err := part.ParseName(p.Name); err != nil || !slices.Contains(begin.Reuses, of) {
			begin.Reuses = append(begin.Reuses, of)
		}
	}
	w.add(server, catalog.Record{Type: "begin", Begin: &begin})
	w.put(server, catalog.ManifestKey(id), int(b.Manifest.Size))
	hash, err := w.catalog(server).PutBackup(w.t.Context(), b)
	w.must(err)
	w.now = b.Finished
	w.add(server, catalog.Record{Type: "commit", Commit: &catalog.Commit{Backup: id, SHA256: hash, Summary: b.Summary}})
	return own
}

// raw writes a record that this pgobj would not write.
func (w *world) raw(server string, n int, members string) {
	w.t.Helper()
	before, err := os.ReadFile(filepath.Join(w.dir, server, fmt.Sprintf("catalog/log/%010d.json", n-1)))
	w.must(err)
	text := fmt.Sprintf(`{"version":1,"n":%d,"prev":"%x","time":%q,"by":"db9.example/1/ZYXWVUTS",%s`, n, sha256.Sum256(before), w.tick().Format(time.RFC3339), members)
	text = fmt.Sprintf(`%s,"self":"%x"}`, text, sha256.Sum256([]byte(text)))
	w.must(storage.Sub(w.root, server).Put(w.t.Context(), fmt.Sprintf("catalog/log/%010d.json", n), strings.NewReader(text), int64(len(text))))
}

// story fills the world with all that a command may have to show.
func (w *world) story() {
	const s = "db1"
	w.add(s, catalog.Record{Type: "server", Server: &catalog.Server{SystemID: sysid, PGVersion: 150004, SegmentSize: walSize}})
	gone := w.backup(s, "20261116T010000Z-0001", 1, 1, nil, nil)
	first := w.backup(s, "20261116T050000Z-0002", 1, 5, gone[:1], func(b *catalog.Backup) {
		b.Labels = map[string]string{"job": "nightly run", "ticket": "OPS-17"}
	})
	name := func(no uint64) string { return segment.Segment{Timeline: 1, No: no}.Name(walSize) }
	w.add(s, catalog.Record{Type: "delete", Delete: &catalog.Delete{Backups: []string{"20261116T010000Z-0001"},
		Parts: map[string]catalog.Ranges{"20261116T010000Z-0001": {{First: 2, Last: 2}}}, WAL: []catalog.WALRange{{SystemID: sysid, First: name(0), Last: name(4)}}}})
	w.must(storage.Sub(w.root, s).Delete(w.t.Context(), part.Key(gone[1].Name), catalog.ManifestKey("20261116T010000Z-0001"), catalog.BackupKey("20261116T010000Z-0001")))
	w.add(s, catalog.Record{Type: "purged", Purged: &catalog.Purged{Of: 6}})
	w.wal(s, 1, 5, 12)
	second := w.backup(s, "20261116T090000Z-0003", 1, 9, append(gone[:1:1], first[1]), func(b *catalog.Backup) {
		b.DamagedPages, b.From, b.Host = 14, "standby", "db2.example"
		b.Damaged = []catalog.Damaged{{Path: "base/5/16400", Blocks: []uint32{7}}, {Path: "base/5/16402.1", Blocks: []uint32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}}}
		b.Tablespaces = []catalog.Tablespace{{OID: 16384, Name: "fast", Location: "/mnt/ssd/pg"}, {OID: 16385, Name: "here"}}
		b.ConfigFiles = []catalog.ConfigFile{{Path: "/etc/postgresql/15/main/postgresql.conf", Content: []byte("port = 5432\n")}}
		b.Warnings = []string{"pg_hba_extra.conf: it is no regular file"}
	})
	w.add(s, catalog.Record{Type: "pin", Pin: &catalog.Pin{Backup: "20261116T050000Z-0002", Until: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)}})
	w.add(s, catalog.Record{Type: "pin", Pin: &catalog.Pin{Backup: "20261116T090000Z-0003"}})
	w.add(s, catalog.Record{Type: "unpin", Unpin: &catalog.Pin{Backup: "20261116T090000Z-0003"}})
	w.history(s, segment.Segment{No: 12}.Start(walSize)+0x500)
	w.wal(s, 2, 12, 17)
	drill := catalog.Drill{Backup: "20261116T050000Z-0002", OK: true, Host: "drill.example", Goal: "the end of the WAL", Started: w.now, Recovery: 83.5, Seconds: 120,
		Timeline: 2, End: 0x12000000, Steps: []catalog.DrillStep{{Name: "restore", Seconds: 60, Result: "ok"}}}
	w.add(s, catalog.Record{Type: "drill", Drill: &drill})
	drill.Backup, drill.OK, drill.Reason = "20261116T090000Z-0003", false, "the server did not start\nits log says why"
	w.add(s, catalog.Record{Type: "drill", Drill: &drill})
	w.backup(s, "20261116T140000Z-0004", 2, 14, append(gone[:1:1], second...), nil)
	w.wal(s, 2, 19, 20)
	w.add(s, catalog.Record{Type: "begin", Begin: &catalog.Begin{Backup: "20261116T150000Z-0005", SystemID: sysid, Timeline: 2, Reuses: []string{"20261116T140000Z-0004"}}})
	w.add(s, catalog.Record{Type: "abort", Abort: &catalog.Abort{Backup: "20261116T150000Z-0005", Reason: "segment 000000020000000000000012 did not arrive in 10m\nthe archiver failed"}})
	w.add(s, catalog.Record{Type: "begin", Begin: &catalog.Begin{Backup: "20261116T160000Z-0006", SystemID: sysid, Timeline: 2}})

	w.add("db2", catalog.Record{Type: "server", Server: &catalog.Server{SystemID: sysid, PGVersion: 150004, SegmentSize: walSize}})
	w.wal("db2", 1, 1, 2)
	w.backup("db2", "20261116T010000Z-00aa", 1, 1, nil, nil)
	w.raw("db2", 4, `"type":"later","later":{"backup":"20261116T010000Z-00aa","ok":true,"seconds":12.50}`)

	w.add("db3", catalog.Record{Type: "server", Server: &catalog.Server{SystemID: sysid, PGVersion: 150004, SegmentSize: walSize}})
	w.wal("db3", 1, 1, 3)
	w.backup("db3", "20261116T010000Z-00bb", 1, 1, nil, nil)
	w.add("db3", catalog.Record{Type: "pin", Pin: &catalog.Pin{Backup: "20261116T010000Z-00bb"}})
	file := filepath.Join(w.dir, "db3/catalog/log/0000000004.json")
	data, err := os.ReadFile(file)
	w.must(err)
	w.must(os.WriteFile(file, bytes.Replace(data, []byte(`"pin":{`), []byte(`"pin":[`), 1), 0o600))

	w.add("db4", catalog.Record{Type: "server", Server: &catalog.Server{SystemID: sysid, PGVersion: 150004, SegmentSize: walSize}})
	w.backup("db4", "20261116T010000Z-00cc", 1, 1, nil, func(b *catalog.Backup) { b.From, b.Checksums = "offline", false })
	w.backup("db4", "20261116T020000Z-00dd", 1, 2, nil, nil)
	w.must(storage.Sub(w.root, "db4").Delete(w.t.Context(), catalog.BackupKey("20261116T020000Z-00dd")))

	w.wal("only-wal", 1, 1, 1)
	w.put("foreign", "object", 5)
	w.now = time.Date(2026, 11, 17, 8, 0, 0, 0, time.UTC)
}

func (w *world) run(args ...string) (out, messages string, code int) {
	var o, e bytes.Buffer
	a := &app.App{Streams: app.Streams{Out: &o, Err: &e}, Version: "v0.1", Args: append([]string{"--storage=file://" + w.dir, "--server=db1"}, args...),
		Now: func() time.Time { return w.now }}
	code = run(context.WithoutCancel(w.t.Context()), a)
	return o.String(), e.String(), code
}

// fails runs a command line that has to fail, with this exit code and kind, and returns all that it says of that.
func (w *world) fails(code int, kind string, args ...string) failure {
	w.t.Helper()
	_, messages, got := w.run(append([]string{"--log-format=json"}, args...)...)
	lines := strings.Split(strings.TrimSpace(messages), "\n")
	f := failureIn(w.t, lines[len(lines)-1])
	if got != code || f.Kind != kind {
		w.t.Errorf("%q: exit code %d, want %d and kind %s: %+v", args, got, code, kind, f)
	}
	return f
}

// pgobj runs a command line, and returns what a user sees: results, messages (without the log) and exit code.
func (w *world) pgobj(args ...string) string {
	text, messages, code := w.run(args...)
	for line := range strings.Lines(messages) {
		if !strings.HasPrefix(line, "time=") {
			text += line
		}
	}
	if code != 0 {
		text += fmt.Sprintf("exit code %d\n", code)
	}
	return strings.ReplaceAll(text, w.dir, "/STORAGE")
}
