package codec

import (
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
)

// checkSums compares with crypto/sha256.
func checkSums(t *testing.T, a, b []byte) {
	t.Helper()
	x, y := Sum2(a, b)
	if want := sha256.Sum256(a); x != want {
		t.Fatalf("the first of %d and %d bytes: %x, want %x", len(a), len(b), x, want)
	}
	if want := sha256.Sum256(b); y != want {
		t.Fatalf("the second of %d and %d bytes: %x, want %x", len(a), len(b), y, want)
	}
}

// random is the same in every run, and tells when it is written to.
func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// The examples that NIST publishes for SHA-256, in every pair.
func TestSum2Examples(t *testing.T) {
	examples := []struct{ in, sum string }{
		{"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
		{"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
		{"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
		{"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
			"cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
		{strings.Repeat("a", 1000000), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
	}
	for _, a := range examples {
		for _, b := range examples {
			x, y := Sum2([]byte(a.in), []byte(b.in))
			if hex.EncodeToString(x[:]) != a.sum || hex.EncodeToString(y[:]) != b.sum {
				t.Errorf("%.20q and %.20q: %x and %x, want %s and %s", a.in, b.in, x, y, a.sum, b.sum)
			}
		}
	}
}

func TestSum2AllShortLengths(t *testing.T) {
	data := random(700)
	for n := range 301 {
		for m := range 301 {
			checkSums(t, data[:n], data[300:][:m])
		}
	}
}

func TestSum2LongAndUnaligned(t *testing.T) {
	const most = 3 << 20
	data := random(most)
	r := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		a, b := r.IntN(most), r.IntN(most)
		checkSums(t, data[a:a+r.IntN(most-a)], data[b:b+r.IntN(most-b)])
	}
	for from := range 64 {
		checkSums(t, data[from:from+1<<16], data[63-from:63-from+1<<16])
	}
	checkSums(t, data, data) // the same memory, too
	if string(data) != string(random(most)) {
		t.Error("Sum2 has written into what it hashes")
	}
}

// Streams in pieces of any length: whole blocks or not, of one length or two.
func TestWrite2(t *testing.T) {
	data := random(1 << 20)
	r := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		x, y, wantX, wantY := sha256.New(), sha256.New(), sha256.New(), sha256.New()
		for range 8 {
			n, m := r.IntN(5000), r.IntN(5000)
			if r.IntN(4) > 0 { // as most are
				n = (n + sha256.BlockSize - 1) / sha256.BlockSize * sha256.BlockSize
				m = n
			}
			from := r.IntN(len(data) - 10000)
			a, b := data[from:from+n], data[from+5000:from+5000+m]
			Write2(x, y, a, b)
			wantX.Write(a)
			wantY.Write(b)
			if string(x.Sum(nil)) != string(wantX.Sum(nil)) || string(y.Sum(nil)) != string(wantY.Sum(nil)) {
				t.Fatalf("pieces of %d and %d bytes: %x and %x, want %x and %x", n, m, x.Sum(nil), y.Sum(nil), wantX.Sum(nil), wantY.Sum(nil))
			}
		}
	}
}

// Hashes of many goroutines at a time: what a lane leaves in a register must not be missed by anybody.
func TestSum2Concurrently(t *testing.T) {
	data := random(1 << 18)
	for n := range 4 * runtime.GOMAXPROCS(0) {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			for i := range 50 {
				checkSums(t, data[n*100+i:], data[i:])
			}
		})
	}
}

func BenchmarkSum2(b *testing.B) {
	const n = 1 << 20
	x, y := random(n), random(2 * n)[n:]
	b.Run("pair", func(b *testing.B) {
		b.SetBytes(2 * n)
		for b.Loop() {
			Sum2(x, y)
		}
	})
	b.Run("streams", func(b *testing.B) {
		b.SetBytes(2 * n)
		s, t := sha256.New(), sha256.New()
		for b.Loop() {
			Write2(s, t, x, y)
		}
	})
	b.Run("single", func(b *testing.B) {
		b.SetBytes(2 * n)
		for b.Loop() {
			sha256.Sum256(x)
			sha256.Sum256(y)
		}
	})
}
