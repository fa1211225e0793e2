package catalog

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/mem"
)

func TestBackupJSON(t *testing.T) {
	store := mem.New()
	c := New(store, "host/1/test", clock())
	b := &Backup{ID: "a", SegmentSize: 16 << 20, Summary: Summary{SystemID: 1<<64 - 1, PGVersion: 150004, Timeline: 3, StartLSN: 1 << 40, StopLSN: 1<<40 + 1, FirstWAL: "000000030000010000000000", LastWAL: "000000030000010000000000", Started: time.Unix(1e9, 5000).UTC()},
		Tablespaces: []Tablespace{{OID: 16384, Name: "fast \"disk\"", Location: "/mnt/x\ny"}}, ConfigFiles: []ConfigFile{{"/etc/x.conf", []byte{0, 0xff, '\n'}, "0640"}}, ConfigFile: "/etc/x.conf", ConfigDirs: []ConfigDir{{"/etc/conf.d", "0755"}},
		Damaged: []Damaged{{"base/1/2", []uint32{7}}}, Parts: []Part{{Name: "a/00001.tar.zst", Size: 5, Live: 3}}}
	hash, err := c.PutBackup(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	r := commit("a")
	r.Commit.SHA256, r.Commit.Summary = hash, b.Summary
	s := add(t, store, begin("a"), r, begin("b"))
	got, err := c.Backup(t.Context(), s.Entry("a"))
	if err != nil || !reflect.DeepEqual(got, b) {
		t.Errorf("read %+v (%v), wrote %+v", got, err, b)
	}
	if _, err := c.Backup(t.Context(), s.Entry("b")); err == nil {
		t.Error("a backup that was never committed can be read")
	}

	good := read(t, store, BackupKey("a"))
	for name, at := range map[string]int{"first": 0, "middle": len(good) / 2, "last": len(good) - 1} {
		bad := bytes.Clone(good)
		bad[at] ^= 1
		replace(t, store, BackupKey("a"), bad)
		if _, err := c.Backup(t.Context(), s.Entry("a")); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), BackupKey("a")) {
			t.Errorf("a bit of the %s byte is flipped: %v", name, err)
		}
	}
	if err := store.Delete(t.Context(), BackupKey("a")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Backup(t.Context(), s.Entry("a")); !errors.Is(err, ErrDamaged) || errors.Is(err, storage.ErrNotFound) || !strings.Contains(err.Error(), BackupKey("a")) {
		t.Errorf("backup.json is missing: %v", err)
	}
}

// Both are covered by the right hash, so only their content tells.
func TestBackupJSONOfAnother(t *testing.T) {
	for text, want := range map[string]error{
		`{"format":"pgobj backup","version":2,"id":"a","parts":{"from":"the future"}}`: ErrNewer,
		`{"format":"pgobj backup","version":2,"id":"a"}`:                               ErrNewer,
		`{"format":"pgobj backup","version":1,"id":"b"}`:                               ErrDamaged,
		`{"format":"something","version":1,"id":"a"}`:                                  ErrDamaged,
		`[]`: ErrDamaged,
	} {
		store := mem.New()
		replace(t, store, BackupKey("a"), []byte(text))
		r := commit("a")
		r.Commit.SHA256 = sum([]byte(text))
		s := add(t, store, begin("a"), r)
		if _, err := New(store, "x", clock()).Backup(t.Context(), s.Entry("a")); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", text, err, want)
		}
	}
}

func TestNewID(t *testing.T) {
	at := time.Date(2026, 11, 21, 2, 45, 0, 0, time.FixedZone("CET", 3600))
	if got, want := NewID(at, [2]byte{0x7f, 0x0a}), "20261121T014500Z-7f0a"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
