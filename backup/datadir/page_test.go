package datadir

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/walstore/segment"
)

// plainChecksum is pg_checksum_page word by word, with nothing done for speed.
func plainChecksum(page []byte, block uint32) uint16 {
	page = slices.Clone(page)
	page[8], page[9] = 0, 0
	sums := checksumSeeds
	for i := 0; i < len(page); i += 4 {
		lane := i / 4 % checksumLanes
		sums[lane] = mix(sums[lane], binary.LittleEndian.Uint32(page[i:]))
	}
	var all uint32
	for _, s := range sums {
		all ^= mix(mix(s, 0), 0)
	}
	return uint16((all^block)%65535 + 1)
}

func noise(n int) []byte {
	b, rng := make([]byte, n), rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func TestPageChecksumOfAllPageSizes(t *testing.T) {
	for size := 1 << 10; size <= 32<<10; size *= 2 {
		page := noise(size)
		if got, want := PageChecksum(page, 7), plainChecksum(page, 7); got != want {
			t.Errorf("%d bytes: %#x, want %#x", size, got, want)
		}
	}
}

func TestPageChecksumsOfRealClusters(t *testing.T) {
	for _, major := range []int{10, 15, 18} {
		c := pgtest.Start(t, pgtest.Options{Major: major, Checksums: true, Template: true})
		c.Exec(t, "CREATE TABLE t AS SELECT i, repeat('x', i % 300) AS s FROM generate_series(1, 20000) i")
		c.Exec(t, "CREATE INDEX ON t (s); ALTER TABLE t ADD PRIMARY KEY (i)")
		c.Exec(t, "DELETE FROM t WHERE i % 7 = 0")
		c.Exec(t, "VACUUM t")
		table := c.SQL(t, "SELECT pg_relation_filepath('t')")
		c.Stop(t, "fast")
		ctl, _, err := ReadControl(c.Data)
		if err != nil || ctl.ChecksumVersion == 0 || ctl.State != ShutDown {
			t.Fatalf("%d: %+v, %v", major, ctl, err)
		}
		pages, forks := 0, map[string]bool{}
		for e, err := range Walk(c.Data, WalkOptions{Major: major, CatalogVersion: ctl.CatalogVersion}) {
			if err != nil {
				t.Fatal(err)
			}
			if !e.Relation {
				continue
			}
			b := read(t, e.Source)
			if bad := VerifyPages(b, e.Segno*ctl.SegmentBlocks, int(ctl.BlockSize), 0xffff_ffff_ffff_ffff); bad != nil {
				t.Errorf("%d: %s: pages %v", major, e.Path, bad)
			}
			pages, forks[e.Fork] = pages+len(b)/int(ctl.BlockSize), true
			if e.Path == table {
				damage(t, b, int(ctl.BlockSize), ctl.Redo)
			}
		}
		if pages < 1000 || !forks[""] || !forks["fsm"] || !forks["vm"] {
			t.Errorf("%d: only %d pages were looked at, of the forks %v", major, pages, forks)
		}
	}
}

// damage checks what is found in a table whose pages are all older than after.
func damage(t *testing.T, table []byte, size int, after segment.LSN) {
	t.Helper()
	check := func(what string, start segment.LSN, harm func(b []byte), want ...uint32) {
		t.Helper()
		b := slices.Clone(table)
		harm(b)
		if got := VerifyPages(b, 100, size, start); !slices.Equal(got, want) {
			t.Errorf("%s: pages %v are bad, want %v", what, got, want)
		}
	}
	shift := func(b []byte) { renumber(b, size); copy(b[3*size+3:4*size], b[3*size:4*size-3]) }
	flip := func(b []byte) { renumber(b, size); b[size+5000] ^= 4; b[4*size+size-1] ^= 0x80 }
	check("a bit in two pages", after, flip, 101, 104)
	check("the same, but the pages may be torn", 0, flip)
	check("a page moved by three bytes", 0, shift, 103)
	check("pages in each other's place", after, func(b []byte) {
		renumber(b, size)
		p1, p2 := slices.Clone(b[size:2*size]), slices.Clone(b[2*size:3*size])
		copy(b[size:], p2)
		copy(b[2*size:], p1)
	}, 101, 102)
	check("a page of zeros", after, func(b []byte) { renumber(b, size); clear(b[:size]) })
	check("zeros but for one byte", after, func(b []byte) { renumber(b, size); clear(b[:size]); b[size-1] = 1 }, 100)
	check("noise", after, func(b []byte) { renumber(b, size); copy(b, noise(size)) }, 100)
	if VerifyPages(table[:size-1], 0, size, after) != nil {
		t.Error("half a page was judged")
	}
}

// renumber makes the checksums those of blocks 100 and up.
func renumber(b []byte, size int) {
	for i := range len(b) / size {
		page := b[i*size:][:size]
		binary.LittleEndian.PutUint16(page[8:], PageChecksum(page, uint32(100+i)))
	}
}

func FuzzPageChecksum(f *testing.F) {
	f.Add(noise(1024), uint32(1))
	f.Fuzz(func(t *testing.T, b []byte, block uint32) {
		page := bytes.Repeat(append(b, 1), 1024)[:1024]
		if got, want := PageChecksum(page, block), plainChecksum(page, block); got != want {
			t.Errorf("%#x, want %#x", got, want)
		}
	})
}

func BenchmarkPageChecksum(b *testing.B) {
	buf := noise(1 << 20)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		for i := range len(buf) / 8192 {
			PageChecksum(buf[i*8192:][:8192], uint32(i))
		}
	}
}
