package push

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/pack"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/backup/restore"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/codec"
	"github.com/pgobj/pgobj/storage/storagetest"
)

const page = part.PageSize

func random(seed uint64, n int) []byte {
	rnd := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	b := make([]byte, n)
	rnd.Read(b)
	return b
}

// model is what a data directory should hold.
type model struct {
	*site
	rnd   *rand.Rand
	files map[string][]byte
	next  int
	parts map[string][]string // that each backup refers to
}

func (m *model) pick() string {
	names := slices.Sorted(maps.Keys(m.files))
	return names[m.rnd.IntN(len(names))]
}

func (m *model) set(name string, data []byte) {
	m.files[name] = data
	m.write(name, data)
}

// step changes the data directory at random, as a database does and as it does not.
func (m *model) step() {
	name := func() string { m.next++; return fmt.Sprintf("base/5/%d", 20000+m.next) }
	if len(m.files) < 4 {
		m.set(name(), random(m.rnd.Uint64(), page*(1+m.rnd.IntN(400))))
		return
	}
	f := m.pick()
	old := m.files[f]
	switch m.rnd.IntN(12) {
	case 0, 1, 2, 3: // some pages are written
		data := bytes.Clone(old)
		for range 1 + m.rnd.IntN(1+len(data)/page/[]int{3, 30, 300}[m.rnd.IntN(3)]) {
			if len(data) >= page {
				copy(data[page*m.rnd.IntN(len(data)/page):], random(m.rnd.Uint64(), page))
			}
		}
		m.set(f, data)
	case 4: // it grows, to whole pages or not
		m.set(f, append(bytes.Clone(old), random(m.rnd.Uint64(), page*m.rnd.IntN(200)+m.rnd.IntN(2)*100)...))
	case 5: // it is truncated
		m.set(f, old[:m.rnd.IntN(len(old)+1)])
	case 6: // it is renamed (VACUUM FULL and the like write a file again)
		to := name()
		if err := os.Rename(filepath.Join(m.pgdata, f), filepath.Join(m.pgdata, to)); err != nil {
			m.t.Fatal(err)
		}
		m.files[to] = old
		delete(m.files, f)
	case 7: // it is dropped
		if err := os.Remove(filepath.Join(m.pgdata, f)); err != nil {
			m.t.Fatal(err)
		}
		delete(m.files, f)
	case 8: // a copy (CREATE DATABASE), or a file that is no relation
		m.set([]string{name(), fmt.Sprintf("base/5/other.%d", m.next)}[m.rnd.IntN(2)], bytes.Clone(old))
	case 9: // it is made, small or large
		m.set(name(), random(m.rnd.Uint64(), m.rnd.IntN([]int{3, 5000, 400 * page}[m.rnd.IntN(3)])))
	case 10: // it takes the place of another
		to := m.pick()
		if err := os.Rename(filepath.Join(m.pgdata, f), filepath.Join(m.pgdata, to)); err != nil {
			m.t.Fatal(err)
		}
		delete(m.files, f)
		m.files[to] = old
	case 11: // rewritten with the same size, and the old mtime put back
		path := filepath.Join(m.pgdata, f)
		st, err := os.Stat(path)
		if err != nil {
			m.t.Fatal(err)
		}
		m.set(f, random(m.rnd.Uint64(), len(old)))
		if err := os.Chtimes(path, st.ModTime(), st.ModTime()); err != nil {
			m.t.Fatal(err)
		}
	}
}

// same compares a restored directory with what the data directory held.
func (m *model) same(dir string, files map[string][]byte, what string) {
	m.t.Helper()
	got, err := filepath.Glob(filepath.Join(dir, "base/5/*"))
	if err != nil || len(got) != len(files) {
		m.t.Fatalf("%s: %d files restored, want %d (%v)", what, len(got), len(files), err)
	}
	for name, want := range files {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			m.t.Fatal(err)
		}
		if !bytes.Equal(data, want) {
			m.t.Fatalf("%s: %s differs", what, name)
		}
	}
}

// cutShort takes a backup whose n-th write to the store fails; the process is killed then, or lives to say so.
func (m *model) cutShort(n int, killed bool) (*catalog.Backup, error) {
	var puts atomic.Int64
	broken := storagetest.NewFaulty(m.store, storagetest.Fault{Mode: storagetest.Before, Kind: storage.KindOther, When: func(op storagetest.Op) bool {
		if op.Name == "put" {
			puts.Add(1)
		}
		return puts.Load() == int64(n) && op.Name == "put" || killed && puts.Load() >= int64(n)
	}})
	return m.push(func(r *Request) { r.Store, r.Catalog = broken, catalog.New(broken, "test", m.now) })
}

// hangsTogether holds the rule by which deletions find out who needs a part: a backup refers to its own parts, and to those
// that the backups in its begin record have stored or refer to.
func (m *model) hangsTogether(b *catalog.Backup) {
	m.t.Helper()
	state, err := m.catalog().Load(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	for _, p := range b.Parts {
		m.parts[b.ID] = append(m.parts[b.ID], p.Name)
		if p.Live == 0 && !strings.HasPrefix(p.Name, b.ID) {
			m.t.Errorf("backup %s refers to part %s without using it", b.ID, p.Name)
		}
		known := strings.HasPrefix(p.Name, b.ID+"/")
		for _, id := range state.Entry(b.ID).Begin.Reuses {
			known = known || strings.HasPrefix(p.Name, id+"/") || slices.Contains(m.parts[id], p.Name)
		}
		if !known {
			m.t.Errorf("backup %s refers to part %s, which is none of those that its begin record lets others know of", b.ID, p.Name)
		}
	}
}

// Whatever happens to the files between backups, and to backups on the way, each that is complete gives back exactly what
// there was; what is kept and read for it stays within the bounds, and what a run that was cut short has stored is used.
func TestEveryBackupOfARandomHistoryIsExact(t *testing.T) {
	rounds := 25
	if os.Getenv("PGOBJ_TORTURE") != "" {
		rounds = 400
	}
	m := &model{site: newMemSite(t), rnd: rand.New(rand.NewPCG(1, uint64(rounds))), files: map[string][]byte{}, parts: map[string][]string{}}
	history := map[string]map[string][]byte{}
	adopted, failed := 0, 0
	for i := range rounds {
		for range 1 + m.rnd.IntN(8) {
			m.step()
		}
		for m.rnd.IntN(3) == 0 {
			if b, err := m.cutShort(2+m.rnd.IntN(6), m.rnd.IntN(2) == 0); err == nil {
				history[b.ID] = maps.Clone(m.files)
				m.hangsTogether(b)
			} else {
				failed++
			}
			m.step()
		}
		b := m.mustPush(func(r *Request) {
			r.Reread = i%5 == 4
			r.Workers = 1 + i%3
			if i%7 == 6 {
				r.Codec = codec.Codec{Name: "lz4"}
			}
		})
		history[b.ID] = maps.Clone(m.files)
		m.same(m.fetch(b.ID), m.files, fmt.Sprintf("backup %d", i))
		m.hangsTogether(b)
		if b.Adopted > 0 {
			adopted++
		}
	}
	if t.Logf("%d backups, %d of them adopted what %d runs that failed had stored", len(history), adopted, failed); adopted < rounds/10 {
		t.Error("that shows too little")
	}
	var expanded, size, most float64
	for _, id := range slices.Sorted(maps.Keys(history)) {
		p, err := m.verify(id)
		if err != nil {
			t.Errorf("backup %s: %v", id, err)
		}
		a := float64(p.Read.Load()) / float64(p.Bytes.Load())
		if expanded, size, most = expanded+float64(p.Read.Load()), size+float64(p.Bytes.Load()), max(most, a); a > pack.MinLiveShare { // a part is a quarter live
			t.Errorf("a restore of %s expands %.2f times its %d bytes", id, a, p.Bytes.Load())
		}
	}
	if t.Logf("restores expand %.2f times their size, %.2f at most", expanded/size, most); expanded > 1.5*size {
		t.Error("that is too much")
	}
	ids := slices.Sorted(maps.Keys(history))
	for range 5 {
		id := ids[m.rnd.IntN(len(ids))]
		m.same(m.fetch(id), history[id], "older backup "+id)
	}
}

func TestWhatIsReused(t *testing.T) {
	x := newMemSite(t)
	data := random(7, 4*part.ChunkSize+3*page)
	x.write("base/5/16384", data)
	x.write("base/5/16385", random(8, 3*page))
	first := x.mustPush(nil)
	check := func(what string, read, stored int64) {
		t.Helper()
		before := x.stored("parts/")
		b := x.mustPush(nil)
		if b.Read > read {
			t.Errorf("%s: %d bytes were read, at most %d had to be", what, b.Read, read)
		}
		if n := x.stored("parts/") - before; n > stored {
			t.Errorf("%s: %d bytes were stored, at most %d had to be", what, n, stored)
		}
	}
	const little = 24 << 10 // lines, label, control, indexes
	all := int64(len(data) + little)
	check("nothing changed", little, little)
	if first.Read < int64(len(data)) || x.stored("parts/") < int64(len(data)) {
		t.Fatal("the first backup has not read and stored everything, so this test shows nothing")
	}
	copy(data[part.ChunkSize+5*page:], random(9, page))
	x.write("base/5/16384", data)
	check("one page changed", all, page+little)
	if err := os.Rename(filepath.Join(x.pgdata, "base/5/16384"), filepath.Join(x.pgdata, "base/5/17000")); err != nil {
		t.Fatal(err)
	}
	check("renamed", all, page+part.ChunkSize+little) // the patched chunk is not known by its hash
	x.write("base/6/1", data)
	x.write("base/7/1", data)
	check("two copies", 3*all, part.ChunkSize+little)
	now := time.Now()
	if err := os.Chtimes(filepath.Join(x.pgdata, "base/5/17000"), now, now); err != nil {
		t.Fatal(err)
	}
	check("touched", all, little)
	x.write("base/5/17000", append(data, random(10, 2*page)...))
	check("grown by two pages", all+2*page, 5*page+little) // more than a quarter of the last chunk
	x.write("base/5/17000", data[:2*part.ChunkSize])
	check("truncated", all, little)
	// Every inode is another one: as after a restore on another host.
	elsewhere := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(elsewhere, os.DirFS(x.pgdata)); err != nil {
		t.Fatal(err)
	}
	x.pgdata = elsewhere
	check("copied to another host", 3*all, little)
}

// What a run that was cut short has stored is used by the next one.
func TestPartsOfAFailedRunAreAdopted(t *testing.T) {
	x := newMemSite(t)
	x.write("base/5/16384", random(1, 60*part.ChunkSize))
	broken := x.store
	x.store = storagetest.NewFaulty(broken, storagetest.Fault{When: func(op storagetest.Op) bool { return op.Name == "put" && strings.HasPrefix(op.Key, "backups/") }, Mode: storagetest.Before, Kind: storage.KindOther})
	if _, err := x.push(nil); err == nil {
		t.Fatal("the run that should fail did not")
	}
	x.store = broken
	before := x.stored("parts/")
	if before < 50*part.ChunkSize {
		t.Fatalf("the failed run stored %d bytes", before)
	}
	b := x.mustPush(nil)
	if n := x.stored("parts/") - before; n > part.ChunkSize {
		t.Errorf("%d bytes were stored again", n)
	}
	if _, err := x.verify(b.ID); err != nil {
		t.Error(err)
	}
	if b.Parts[0].Size == 0 || b.Parts[0].Index == "" {
		t.Errorf("part %+v is not described", b.Parts[0])
	}
}

// The table of known contents is bounded. What a large database has in it leaves room for what a failed run has stored, and
// of that no more is read than it can take.
func TestAdoptionIsBounded(t *testing.T) {
	x := newMemSite(t)
	x.write("base/5/16384", random(1, 20*part.ChunkSize))
	b := x.mustPush(nil)
	p, err := pack.OpenDedupIndex(t.Context(), x.store, b, 7)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if len(p.Known) < 7 || len(p.Known) > 7+20 { // it goes by lines
		t.Errorf("of the last backup %d contents are known instead of 7", len(p.Known))
	}
	const room = 5
	for i := 0; len(p.Known) < pack.MaxKnownChunks-room; i++ {
		p.Known[part.Sum(fmt.Append(nil, i))] = pack.Piece{}
	}
	// The backup's own parts stand for those of another run: they are its only ones.
	clear(p.Parts)
	for hash, k := range p.Known {
		if k.Frame != nil {
			delete(p.Known, hash)
			p.Known[part.Sum(hash[:])] = pack.Piece{}
		}
	}
	var reads atomic.Int64
	p.Store = storagetest.NewFaulty(x.store, storagetest.Fault{Mode: storagetest.Pass, When: storagetest.Named("get"), Hook: func(storagetest.Op) { reads.Add(1) }})
	bytes, err := p.Reclaim(t.Context(), b.ID)
	if err != nil || bytes == 0 || bytes > room*part.ChunkSize {
		t.Errorf("%d bytes were adopted where there was room for %d contents: %v", bytes, room, err)
	}
	if again, err := p.Reclaim(t.Context(), b.ID); err != nil || again != 0 || reads.Load() == 0 || reads.Load() > 2*int64(len(b.Parts)) {
		t.Errorf("without room %d bytes were adopted, and %d reads made in all: %v", again, reads.Load(), err)
	}
}

// A page hash that lies makes a chunk that is wrong when it is put together: a restore notices.
func TestALyingPageHashIsNoticed(t *testing.T) {
	x := newMemSite(t)
	data := random(1, part.ChunkSize)
	x.write("base/5/16384", data)
	x.mustPush(nil)
	changed := bytes.Clone(data)
	copy(changed[9*page:], random(2, 2*page))
	x.write("base/5/16384", changed)
	p := &push{Request: x.request()}
	if err := errors.Join(p.check(t.Context()), p.recordBegin(t.Context())); err != nil {
		t.Fatal(err)
	}
	old, err := p.prev.Files.Read()
	if err != nil {
		t.Fatal(err)
	}
	for {
		f, err := old.Next()
		if err != nil {
			t.Fatal(err)
		}
		if f.RawPath() == "base/5/16384" {
			hashes, err := p.prev.Hashes(t.Context(), f.Chunks[0].Extents[0])
			if err != nil {
				t.Fatal(err)
			}
			hashes[9] = xxhash.Sum64(changed[9*page:][:page]) // page 9 has not changed, says the lie
			break
		}
	}
	if p.prev.Lines, err = p.prev.Files.Read(); err != nil {
		t.Fatal(err)
	}
	if err := p.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := &p.backup
	if _, err := x.verify(b.ID); !errors.Is(err, part.ErrDamaged) {
		t.Errorf("verify: %v", err)
	}
	_, err = fetch(t.Context(), restore.Request{Store: x.store, Catalog: x.catalog(), Target: filepath.Join(t.TempDir(), "r"), Workers: 2, Progress: &backup.Progress{}, Log: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, part.ErrDamaged) {
		t.Errorf("restore: %v", err)
	}
}

// A clock that is set back, or files from the future, are harmless: what has changed is found, and the newest
// backup is the one that was taken last.
func TestAClockSetBackIsHarmless(t *testing.T) {
	x := newMemSite(t)
	data := random(1, 2*part.ChunkSize)
	x.write("base/5/16384", data)
	last := x.mustPush(nil)
	for i, clock := range []time.Duration{-24 * time.Hour, -48 * time.Hour, -24 * time.Hour, time.Hour} {
		x.now = func() time.Time { return time.Now().Add(clock) }
		copy(data[(1+i)*page:], random(uint64(i), page))
		path := filepath.Join(x.pgdata, "base/5/16384")
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		x.write("base/5/16384", data)
		mtime := st.ModTime() // put back
		if i == 1 {
			mtime = time.Now().Add(1000 * time.Hour)
		}
		if err := os.Chtimes(path, mtime, mtime); err != nil {
			t.Fatal(err)
		}
		before := x.stored("parts/")
		b := x.mustPush(nil)
		if n := x.stored("parts/") - before; n > 8*page {
			t.Errorf("clock at %v: %d bytes were stored for one page", clock, n)
		}
		if got, err := os.ReadFile(filepath.Join(x.fetch("LATEST"), "base/5/16384")); err != nil || !bytes.Equal(got, data) {
			t.Errorf("clock at %v: the newest backup has other content than the server (%v)", clock, err)
		}
		if clock < 0 && i < 2 && b.ID > last.ID {
			t.Errorf("backup %s should look older than %s, or this shows nothing", b.ID, last.ID)
		}
		last = b
	}
}
