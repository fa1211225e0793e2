package walstore

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
)

func deskPiece(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// Streams of any number of pieces come and go, more than there are CPUs: each sum is that of its own content, and every
// piece is given back once, when it has been hashed.
func TestDeskManyStreams(t *testing.T) {
	var mu sync.Mutex
	freed := map[*byte]int{}
	d := newDesk(func(piece []byte) {
		mu.Lock()
		defer mu.Unlock()
		freed[&piece[0]]++
		clear(piece) // a hash that reads it later shows
	})
	brought := make([]int, 8)
	var pushes sync.WaitGroup
	for no := range brought {
		r := rand.New(rand.NewPCG(1, uint64(no)))
		pushes.Go(func() {
			for range 40 {
				s, want := d.open(), sha256.New()
				for left := r.IntN(12); left > 0; left-- {
					n := 4096
					if left == 1 { // the last one need not be whole
						n = 1 + r.IntN(4096)
					}
					piece := deskPiece(r, n)
					want.Write(piece)
					d.bring(s, piece)
					brought[no]++
				}
				if sum := d.close(s); sum != [32]byte(want.Sum(nil)) {
					t.Errorf("stream of push %d: %x, want %x", no, sum, want.Sum(nil))
				}
			}
		})
	}
	pushes.Wait()
	total := 0
	for _, n := range brought {
		total += n
	}
	if len(freed) != total {
		t.Errorf("%d pieces of %d were given back", len(freed), total)
	}
	for _, n := range freed {
		if n != 1 {
			t.Errorf("a piece was given back %d times", n)
		}
	}
	if len(d.streams) != 0 {
		t.Errorf("%d streams are still open", len(d.streams))
	}
}

// What waits, and for what: seen in when pieces are given back, by one goroutine, which would hang if anybody waited for a
// partner.
func TestDeskWaitsOnlyWithOthers(t *testing.T) {
	var log string
	d := newDesk(func(piece []byte) { log += string(piece[:2]) + " " })
	bring := func(s *stream, piece string, want string) {
		t.Helper()
		log = ""
		d.bring(s, []byte(piece))
		if log != want {
			t.Errorf("after %s: %q was hashed, want %q", piece, log, want)
		}
	}
	a := d.open()
	bring(a, "a1", "a1 ") // alone
	b := d.open()
	bring(a, "a2", "")
	bring(b, "b1", "a2 b1 ")
	bring(a, "a3", "")
	bring(a, "a4", "")
	bring(a, "a5", "a3 ") // too many
	if got, want := d.close(b), sha256.Sum256([]byte("b1")); got != want {
		t.Errorf("b: %x, want %x", got, want)
	}
	bring(a, "a6", "a4 a5 a6 ") // alone again
	if got, want := fmt.Sprintf("%x", d.close(a)), fmt.Sprintf("%x", sha256.Sum256([]byte("a1a2a3a4a5a6"))); got != want {
		t.Errorf("a: %s, want %s", got, want)
	}
}
