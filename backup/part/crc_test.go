package part

import (
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

func TestCombineCRC(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		data := make([]byte, rnd.IntN(5000))
		for i := range data {
			data[i] = byte(rnd.Uint32())
		}
		cut := rnd.IntN(len(data) + 1)
		a, b := crc32.Checksum(data[:cut], Castagnoli), crc32.Checksum(data[cut:], Castagnoli)
		if got, want := CombineCRC(a, b, int64(len(data)-cut)), crc32.Checksum(data, Castagnoli); got != want {
			t.Fatalf("%d bytes cut at %d: %08x, want %08x", len(data), cut, got, want)
		}
	}
}
