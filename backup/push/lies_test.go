package push

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/backup/restore"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/codec"
	"github.com/pgobj/pgobj/storage/storagetest"
)

// forgeIndex rewrites a part's index so that every hash of the part still holds, and only what the index says of
// its members is another thing.
func (x *site) forgeIndex(name string, lie func(*part.Member)) {
	x.t.Helper()
	fail := func(err error) {
		x.t.Helper()
		if err != nil {
			x.t.Fatal(err)
		}
	}
	x.spoil(part.Key(name), func(body []byte) []byte {
		trailer := body[len(body)-72:]
		off := int64(binary.LittleEndian.Uint64(trailer[24:]))
		dec, err := codec.NewDecoder()
		fail(err)
		c, err := part.CodecOf(name)
		fail(err)
		raw, err := dec.Decode(c, nil, body[off:len(body)-72], 1<<26)
		fail(err)
		text, padding, _ := bytes.Cut(raw[512:], []byte{0})
		var forged bytes.Buffer
		for line := range bytes.Lines(text) {
			var l part.IndexLine
			fail(json.Unmarshal(line, &l))
			for i := range l.Members {
				lie(&l.Members[i])
			}
			fail(json.NewEncoder(&forged).Encode(l))
		}
		if forged.Len() != len(text) {
			x.t.Fatalf("the forged index has %d bytes instead of %d", forged.Len(), len(text))
		}
		enc, err := codec.NewEncoder(c)
		fail(err)
		stored, err := enc.Append(nil, append(append(raw[:512:512], forged.Bytes()...), append([]byte{0}, padding...)...))
		fail(err)
		sum := part.Sum(stored)
		out := append(append(body[:off:off], stored...), trailer...)
		t := out[len(out)-72:]
		binary.LittleEndian.PutUint64(t[32:], uint64(len(stored)))
		copy(t[40:], sum[:])
		return out
	})
}

// The index of a part that a failed run has left is believed by its own hash. One that lies about what its members
// are makes a backup that is wrong: verify and the restore notice, and PostgreSQL never sees it.
func TestALyingIndexIsNoticed(t *testing.T) {
	x := newMemSite(t)
	x.write("base/5/16384", random(1, 3*part.ChunkSize))
	real := x.store
	x.store = storagetest.NewFaulty(real, storagetest.Fault{When: func(op storagetest.Op) bool { return op.Name == "put" && strings.HasPrefix(op.Key, "backups/") }, Mode: storagetest.Before, Kind: storage.KindOther})
	if _, err := x.push(nil); err == nil {
		t.Fatal("the run that should fail did not")
	}
	x.store = real
	wanted := random(9, part.ChunkSize)
	lies := 0
	for info, err := range x.store.List(t.Context(), "parts/", "") {
		if err != nil {
			t.Fatal(err)
		}
		x.forgeIndex(strings.TrimPrefix(info.Key, "parts/"), func(m *part.Member) {
			if m.Path == "base/5/16384" && m.At == part.ChunkSize {
				m.SHA256 = part.Sum(wanted) // it is not
				lies++
			}
		})
	}
	if lies != 1 {
		t.Fatalf("%d members lie", lies)
	}
	x.write("base/5/16390", wanted)
	b := x.mustPush(nil)
	if b.Adopted < 2*part.ChunkSize {
		t.Fatalf("%d bytes were adopted: this shows nothing", b.Adopted)
	}
	if _, err := x.verify(b.ID); !errors.Is(err, part.ErrDamaged) {
		t.Errorf("verify: %v", err)
	}
	_, err := fetch(t.Context(), restore.Request{Store: x.store, Catalog: x.catalog(), Target: filepath.Join(t.TempDir(), "r"), Workers: 2, Progress: &backup.Progress{}, Log: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, part.ErrDamaged) || !strings.Contains(err.Error(), "16390") {
		t.Errorf("restore: %v", err)
	}
}

// An index that is not the one that the catalog knows is not believed at all, whatever it says of itself: the
// backup stores whole chunks, and says why.
func TestAForgedIndexIsNotBelieved(t *testing.T) {
	x := newMemSite(t)
	data := random(1, part.ChunkSize)
	x.write("base/5/16384", data)
	first := x.mustPush(nil)
	lies := 0
	for _, p := range first.Parts { // each worker writes one
		x.forgeIndex(p.Name, func(m *part.Member) {
			// In threes, which are 32 characters of base64: so the part keeps its size, by which a lost one is known.
			for i := 3; i < min(len(m.Pages), 6); i++ {
				m.Pages[i], m.Pages[i-3] = m.Pages[i-3], m.Pages[i]
				lies++
			}
		})
	}
	if lies == 0 {
		t.Fatal("no index has page hashes")
	}
	if _, err := x.verify(first.ID); !errors.Is(err, part.ErrDamaged) {
		t.Errorf("verify: %v", err)
	}
	copy(data[5*page:], random(2, page))
	x.write("base/5/16384", data)
	b := x.mustPush(nil)
	if len(b.Warnings) == 0 || !strings.Contains(b.Warnings[0], "page hashes") {
		t.Errorf("warnings: %q", b.Warnings)
	}
	x.restoresFile(b.ID, "base/5/16384", data)
}

// What is referred to over and over keeps a part alive only for its own size.
func TestACopiedPieceKeepsNoPartAlive(t *testing.T) {
	x := newMemSite(t)
	shared := random(3, part.ChunkSize/4)
	one := func(r *Request) { r.Workers = 1 }
	x.write("base/5/16384", random(1, 7*part.ChunkSize-3*page))
	x.write("base/5/20000", shared)
	first := x.mustPush(one)
	for _, dir := range []string{"base/6/", "base/7/", "base/8/", "base/9/", "base/10/", "base/11/", "base/12/"} {
		x.write(dir+"20000", shared)
	}
	x.mustPush(one)
	x.write("base/5/16384", random(2, 7*part.ChunkSize-3*page))
	x.mustPush(one) // refers to the first part for the shared piece only
	last := x.mustPush(one)
	for _, p := range last.Parts {
		if strings.HasPrefix(p.Name, first.ID) {
			t.Errorf("part %s is kept for %d of its %d bytes", p.Name, p.Live, p.Raw)
		}
	}
	x.restoresFile(last.ID, "base/12/20000", shared)
}

// restoresFile restores a backup and compares one file.
func (x *site) restoresFile(backup, path string, want []byte) {
	x.t.Helper()
	got, err := os.ReadFile(filepath.Join(x.fetch(backup), path))
	if err != nil || !bytes.Equal(got, want) {
		x.t.Errorf("backup %s: %s is not what it was (%v)", backup, path, err)
	}
}
