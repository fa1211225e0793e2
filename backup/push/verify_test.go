package push

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/content"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/backup/verify"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
)

// verifySample verifies so many percent of the last backup.
func (x *site) verifySample(sample float64, seed uint64) (verify.Verified, *backup.Progress, error) {
	x.t.Helper()
	state, err := x.catalog().Load(x.t.Context())
	if err != nil {
		x.t.Fatal(err)
	}
	all := state.Complete()
	p := &backup.Progress{}
	v, err := verify.Verify(x.t.Context(), verify.Request{Store: x.store, Catalog: x.catalog(), Entry: all[len(all)-1], Workers: 2, Sample: sample, Seed: seed, Progress: p})
	return v, p, err
}

// spoil changes a stored object; nil removes it.
func (x *site) spoil(key string, change func([]byte) []byte) {
	x.t.Helper()
	data, err := storage.ReadAll(x.t.Context(), x.store, key, 1<<30)
	if err == nil {
		err = x.store.Delete(x.t.Context(), key)
	}
	if change != nil && err == nil {
		data = change(bytes.Clone(data))
		err = x.store.Put(x.t.Context(), key, bytes.NewReader(data), int64(len(data)))
	}
	if err != nil {
		x.t.Fatal(err)
	}
}

// extentOf finds the first extent of a file in a backup's manifest.
func (x *site) extentOf(b *catalog.Backup, path string) manifest.Extent {
	x.t.Helper()
	return x.chunksOf(b, path)[0].Extents[0]
}

// chunksOf finds the chunks of a file in a backup's manifest.
func (x *site) chunksOf(b *catalog.Backup, path string) []manifest.Chunk {
	x.t.Helper()
	f, err := content.FetchManifest(x.t.Context(), x.store, b)
	if err != nil {
		x.t.Fatal(err)
	}
	defer f.Close()
	lines, err := f.Read()
	for err == nil {
		var l *manifest.File
		if l, err = lines.Next(); err == nil && l.RawPath() == path {
			return l.Chunks
		}
	}
	x.t.Fatalf("%s is not in the manifest: %v", path, err)
	return nil
}

func flip(at int64) func([]byte) []byte {
	return func(b []byte) []byte { b[at] ^= 1; return b }
}

// A sample finds what it covers, says how much that is, and is the same again for the same seed.
func TestSampleFindsWhatItCovers(t *testing.T) {
	x := newMemSite(t)
	x.write("base/5/16384", random(1, 20*part.ChunkSize))
	x.write("base/5/16385", random(2, part.ChunkSize))
	b := x.mustPush(nil)
	const sample = 30
	whole, p, err := x.verifySample(100, 0)
	if err != nil || p.Bytes.Load() != whole.Size || whole.Size != b.Size || whole.Indexes != int64(len(b.Parts)) || whole.WAL == 0 || whole.WALRead != whole.WAL {
		t.Fatalf("all of it: %+v, %d bytes, %v", whole, p.Bytes.Load(), err)
	}
	covered := map[uint64]int64{}
	var sum int64
	const seeds = 30
	for seed := range uint64(seeds) {
		v, p, err := x.verifySample(sample, seed+1)
		if err != nil || v.Indexes != whole.Indexes || v.WAL != whole.WAL {
			t.Fatalf("seed %d: %+v, %v", seed+1, v, err)
		}
		if p.TotalBytes.Load() != p.Bytes.Load() {
			t.Errorf("seed %d: the progress speaks of %d bytes, %d were checked", seed+1, p.TotalBytes.Load(), p.Bytes.Load())
		}
		covered[seed+1] = p.Bytes.Load()
		sum += p.Bytes.Load()
	}
	if share := 100 * float64(sum) / float64(seeds*whole.Size); share < 20 || share > 40 {
		t.Errorf("samples of %d %% cover %.1f %% on average", sample, share)
	}
	e := x.extentOf(b, "base/5/16385")
	x.spoil(part.Key(e.Part), flip(e.Off+int64(e.Size)/2))
	if _, _, err := x.verifySample(100, 0); !errors.Is(err, part.ErrDamaged) || !strings.Contains(err.Error(), e.Part) {
		t.Errorf("all of it, with damage: %v", err)
	}
	found := 0
	for seed, bytes := range covered {
		picks := (&verify.Request{Sample: sample, Seed: seed}).Picks(e.Part, e.Off)
		_, p, err := x.verifySample(sample, seed)
		switch {
		case picks && !errors.Is(err, part.ErrDamaged), !picks && err != nil:
			t.Errorf("seed %d, damage in the sample: %v; found: %v", seed, picks, err)
		case picks:
			found++
		case p.Bytes.Load() != bytes:
			t.Errorf("seed %d reads %d bytes, and %d the second time", seed, bytes, p.Bytes.Load())
		}
	}
	if found == 0 || found == seeds {
		t.Errorf("%d of %d seeds picked what is damaged: this shows nothing", found, seeds)
	}
}

// Whatever the sample: manifest, indexes and the presence of the WAL are looked at.
func TestVerifyAlwaysLooksAtTheRest(t *testing.T) {
	for name, c := range map[string]struct {
		want  error
		spoil func(x *site, b *catalog.Backup)
	}{
		"index": {part.ErrDamaged, func(x *site, b *catalog.Backup) {
			x.spoil(part.Key(b.Parts[0].Name), flip(b.Parts[0].Size-100))
		}},
		"part cut": {part.ErrDamaged, func(x *site, b *catalog.Backup) {
			x.spoil(part.Key(b.Parts[0].Name), func(d []byte) []byte { return d[:len(d)-1] })
		}},
		"part gone": {part.ErrDamaged, func(x *site, b *catalog.Backup) { x.spoil(part.Key(b.Parts[0].Name), nil) }},
		"manifest":  {manifest.ErrDamaged, func(x *site, b *catalog.Backup) { x.spoil(catalog.ManifestKey(b.ID), flip(20)) }},
		"WAL gone":  {walstore.ErrGap, func(x *site, b *catalog.Backup) { x.spoil(object.Key(b.SystemID, b.FirstWAL), nil) }},
	} {
		x := newMemSite(t)
		x.write("base/5/16384", random(1, 3*part.ChunkSize))
		c.spoil(x, x.mustPush(nil))
		for _, sample := range []float64{0.001, 100} {
			if _, _, err := x.verifySample(sample, 7); !errors.Is(err, c.want) {
				t.Errorf("%s, a sample of %v %%: %v", name, sample, err)
			}
		}
	}
	x := newMemSite(t)
	b := x.mustPush(nil)
	x.spoil(object.Key(b.SystemID, b.FirstWAL), flip(30))
	if _, _, err := x.verifySample(100, 0); !errors.Is(err, object.ErrDamaged) {
		t.Errorf("damaged WAL: %v", err)
	}
}

// Whoever reads of damage wants to know what it has hit.
func TestVerifyNamesTheFiles(t *testing.T) {
	x := newMemSite(t)
	for i := range 7 {
		x.write(fmt.Sprintf("base/5/%d", 16384+i), random(uint64(i), 100))
	}
	x.write("base/5/10000", random(9, 3*part.ChunkSize))
	b := x.mustPush(nil)
	large, small := x.chunksOf(b, "base/5/10000")[2].Extents[0], x.extentOf(b, "base/5/16386")
	says := func(want ...string) {
		t.Helper()
		_, _, err := x.verifySample(100, 0)
		for _, text := range want {
			if !errors.Is(err, part.ErrDamaged) || !strings.Contains(err.Error(), text) {
				t.Errorf("%v\nwant %q in it", err, text)
			}
		}
	}
	at := func(e manifest.Extent) func([]byte) []byte { return flip(e.Off + int64(e.Size)/2) }
	x.spoil(part.Key(large.Part), at(large))
	says("This frame", "\"base/5/10000\"") // a small file may share it
	x.spoil(part.Key(large.Part), at(large))
	x.spoil(part.Key(small.Part), at(small))
	says("This frame", "\"base/5/16386\"") // which worker packs the other small files is open
	x.spoil(part.Key(small.Part), nil)
	says("This part", "\"base/5/16386\"")
}
