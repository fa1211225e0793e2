package part

import (
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/storage/codec"
)

func content(path string, n int) Content {
	rnd := rand.New(rand.NewPCG(3, uint64(n)))
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(rnd.Uint32() >> 29)
	}
	return Content{Path: path, Data: data, SHA256: Sum(data), CRC32C: crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)), Whole: true, Mode: 0o600, Relation: true}
}

// What faulty memory makes of the data after it was hashed is never handed over to be stored: the frame is right then, of
// wrong content. That a frame is right is codec's to prove.
func TestMispackedIsRefused(t *testing.T) {
	for _, c := range []codec.Codec{codec.Default, {Name: "zstd", Level: 9}, {Name: "lz4"}} {
		for _, damaged := range []int{-1, 0, 1, 2} {
			parts := 0
			w, err := NewWriter(c, nil, func() string { return Name("b", 1, c) }, func(Full) ([]byte, error) { parts++; return nil, nil })
			if err != nil {
				t.Fatal(err)
			}
			paths := []string{"base/5/1", "base/5/2", "base/5/3"}
			for i, path := range paths {
				if _, _, err := w.Add(content(path, 60_000+i)); err != nil {
					t.Fatal(err)
				}
			}
			if damaged >= 0 {
				w.raw[w.line.Members[damaged].Skip+20_000] ^= 0x10
			}
			err = w.Close()
			switch {
			case damaged < 0 && (err != nil || parts != 1):
				t.Errorf("%s without a fault: %d parts, %v", c, parts, err)
			case damaged >= 0 && (parts != 0 || !errors.Is(err, codec.ErrMispacked) || !strings.Contains(err.Error(), paths[damaged])):
				t.Errorf("%s, a bit of %s: %d parts handed over, error %v", c, paths[damaged], parts, err)
			}
		}
	}
}

// BenchmarkWriter tells what packing costs for each byte; the proof is in it.
func BenchmarkWriter(b *testing.B) {
	for _, c := range []codec.Codec{codec.Default, {Name: "lz4"}} {
		b.Run(c.Name, func(b *testing.B) {
			buf := make([]byte, 0, TargetSize+2*MaxFrame+1<<20)
			w, err := NewWriter(c, nil, func() string { return Name("b", 1, c) }, func(Full) ([]byte, error) { return buf, nil })
			if err != nil {
				b.Fatal(err)
			}
			page := content("base/5/16384", ChunkSize)
			b.SetBytes(ChunkSize)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := w.Add(page); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
