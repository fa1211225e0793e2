package push

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/restore"
	"github.com/pgobj/pgobj/backup/server"
	"github.com/pgobj/pgobj/backup/verify"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/codec"
	"github.com/pgobj/pgobj/storage/mem"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/waltest"
	"github.com/pgobj/pgobj/walstore/segment"
	"github.com/pgobj/pgobj/walstore/timeline"
)

// site is a data directory and a repository without a server: these tests are about which bytes are
// stored and come back; whether PostgreSQL likes them is for the tests in test/.
type site struct {
	t       *testing.T
	pgdata  string
	store   storage.Store
	control datadir.Control
	lsn     segment.LSN
	now     func() time.Time
}

func newSite(t *testing.T, s storage.Store) *site {
	t.Helper()
	x := &site{t: t, pgdata: filepath.Join(t.TempDir(), "data"), store: s, lsn: 0x2000028}
	// Ahead of the real time, so that files written just now count as settled.
	x.now = func() time.Time { return time.Now().Add(10 * time.Second) }
	for _, d := range []string{"base/5", "global", "pg_wal", "pg_tblspc"} {
		if err := os.MkdirAll(filepath.Join(x.pgdata, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile("../datadir/testdata/pg_control.15")
	if err != nil {
		t.Fatal(err)
	}
	raw = append(raw, make([]byte, 8192-len(raw))...)
	if x.control, err = datadir.ParseControl(raw); err != nil {
		t.Fatal(err)
	}
	x.control.SegmentSize = 1 << 20
	x.write("global/pg_control", raw)
	x.write("PG_VERSION", []byte("15\n"))
	return x
}

func (x *site) write(name string, data []byte) {
	x.t.Helper()
	path := filepath.Join(x.pgdata, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		x.t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		x.t.Fatal(err)
	}
}

func (x *site) catalog() *catalog.Catalog { return catalog.New(x.store, "test", x.now) }

// push takes a backup, as of a server that wrote one WAL segment meanwhile.
func (x *site) push(change func(*Request)) (*catalog.Backup, error) {
	x.t.Helper()
	r := x.request()
	if change != nil {
		change(&r)
	}
	return Push(x.t.Context(), r)
}

func (x *site) request() Request {
	x.t.Helper()
	size := x.control.SegmentSize
	x.lsn += segment.LSN(size)
	key, body, err := waltest.Object(x.control.SystemID, segment.At(1, x.lsn, size), size)
	if err == nil {
		err = x.store.Put(x.t.Context(), key, bytes.NewReader(body), int64(len(body)))
	}
	if err != nil {
		x.t.Fatal(err)
	}
	return Request{
		Store: x.store, Catalog: x.catalog(), Session: x, PGDATA: x.pgdata, Codec: codec.Default, Workers: 2,
		WALTimeout: time.Minute, Tool: "test", Now: x.now, Progress: &backup.Progress{}, Log: slog.New(slog.DiscardHandler),
	}
}

func (x *site) mustPush(change func(*Request)) *catalog.Backup {
	x.t.Helper()
	b, err := x.push(change)
	if err != nil {
		x.t.Fatal(err)
	}
	return b
}

// fetch restores a backup and returns the directory.
func (x *site) fetch(id string) string {
	x.t.Helper()
	dir := filepath.Join(x.t.TempDir(), "restored")
	if _, err := fetch(x.t.Context(), restore.Request{
		Store: x.store, Catalog: x.catalog(), Target: dir, Backup: id, Workers: 2, Progress: &backup.Progress{}, Log: slog.New(slog.DiscardHandler),
	}); err != nil {
		x.t.Fatal(err)
	}
	return dir
}

func (x *site) verify(id string) (*backup.Progress, error) {
	x.t.Helper()
	state, err := x.catalog().Load(x.t.Context())
	if err != nil {
		x.t.Fatal(err)
	}
	e, err := state.Resolve(id)
	if err != nil {
		x.t.Fatal(err)
	}
	p := &backup.Progress{}
	_, err = verify.Verify(x.t.Context(), verify.Request{Store: x.store, Catalog: x.catalog(), Entry: e, Workers: 2, Progress: p})
	return p, err
}

// stored is the bytes of all objects below a prefix.
func (x *site) stored(prefix string) (n int64) {
	x.t.Helper()
	for info, err := range x.store.List(x.t.Context(), prefix, "") {
		if err != nil {
			x.t.Fatal(err)
		}
		n += info.Size
	}
	return n
}

func (x *site) Info(context.Context) (server.Info, error) {
	return server.Info{
		VersionNum: 150000, Version: "15.0", SystemID: x.control.SystemID, CatalogVersion: x.control.CatalogVersion, DataDirectory: x.pgdata,
		SegmentSize: x.control.SegmentSize, BlockSize: 8192, ArchiveMode: "on", ArchiveCommand: "x", WALLevel: "replica",
	}, nil
}

// Start makes the checkpoint that a server makes.
func (x *site) Start(context.Context, string, bool) (server.StartPoint, error) {
	if err := pgtest.SetRedo(x.pgdata, uint64(x.lsn)); err != nil {
		return server.StartPoint{}, err
	}
	return server.StartPoint{LSN: x.lsn, Timeline: 1, Time: x.now()}, nil
}

func (x *site) Stop(context.Context) (server.StopPoint, error) {
	size := x.control.SegmentSize
	label := fmt.Sprintf("START WAL LOCATION: %s (file %s)\nCHECKPOINT LOCATION: %s\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n", x.lsn, segment.At(1, x.lsn, size).Name(size), x.lsn)
	return server.StopPoint{LSN: x.lsn + 100, Timeline: 1, Time: x.now(), Label: []byte(label)}, nil
}

func (x *site) Watch(ctx context.Context) (context.Context, func()) { return ctx, func() {} }

func (x *site) Archiver(context.Context) (server.ArchiverStatus, error) {
	return server.ArchiverStatus{}, nil
}

func (x *site) SwitchWAL(context.Context) error { return nil }

func newMemSite(t *testing.T) *site { return newSite(t, mem.New()) }

func (x *site) Changes(context.Context, timeline.Path) (*datadir.Changes, error) {
	return nil, datadir.ErrNoSummaries
}

// fetch plans a restore and runs the plan.
func fetch(ctx context.Context, r restore.Request) (*catalog.Backup, error) {
	p, err := restore.NewPlan(ctx, r)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	return p.Backup, p.Run(ctx)
}
