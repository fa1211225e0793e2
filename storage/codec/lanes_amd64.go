//go:build !purego

package codec

import (
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"fmt"
	"hash"
	"sync"

	"golang.org/x/sys/cpu"
)

// lanes says whether this CPU can run blocks. Every CPU with AVX2 has CPUID leaf 7 and the older extensions.
// Not asked at start: in a virtual machine CPUID goes to the hypervisor.
var lanes = sync.OnceValue(func() bool { return cpu.X86.HasAVX2 && hasSHA() })

// state is that of one hash in the order in which the CPU wants the words: FEBA, then HGDC.
type state [8]uint32

// words are the state's indices of A to H.
var words = [8]int{3, 2, 7, 6, 1, 0, 5, 4}

// constants are K of FIPS 180-4, section 4.2.2.
var constants = [64]uint32{
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
}

// writeLanes writes the blocks that a and b both have side by side to x and y, and returns how many bytes of each
// that was: none where one of the hashes waits for the rest of a block. The hashes' states are had, and given back, as
// crypto/sha256 marshals them.
func writeLanes(x, y hash.Hash, a, b []byte) int {
	n := min(len(a), len(b)) / sha256.BlockSize
	if n == 0 || !lanes() {
		return 0
	}
	var buf [2 * savedSize]byte
	first, second := save(x, buf[:0:savedSize]), save(y, buf[savedSize:savedSize])
	if first.length()%sha256.BlockSize != 0 || second.length()%sha256.BlockSize != 0 {
		return 0
	}
	s := [2]state{first.state(), second.state()}
	blocks(&s, &constants, &a[0], &b[0], n)
	n *= sha256.BlockSize
	first.restore(x, &s[0], n)
	second.restore(y, &s[1], n)
	return n
}

// saved is a hash as crypto/sha256 marshals it: a mark of 4 bytes, the words A to H, the bytes of an unfinished
// block, the length of all that was written.
type saved []byte

const savedSize = 4 + sha256.Size + sha256.BlockSize + 8

func save(h hash.Hash, buf []byte) saved {
	b, err := h.(encoding.BinaryAppender).AppendBinary(buf)
	if err != nil || len(b) != savedSize {
		panic(fmt.Sprintf("crypto/sha256 marshals its state as %d bytes: %v", len(b), err)) // the tests would have seen it
	}
	return b
}

func (m saved) length() uint64 { return binary.BigEndian.Uint64(m[savedSize-8:]) }

func (m saved) state() (s state) {
	for i, w := range words {
		s[w] = binary.BigEndian.Uint32(m[4+4*i:])
	}
	return s
}

// restore has h go on from s, n bytes later.
func (m saved) restore(h hash.Hash, s *state, n int) {
	for i, w := range words {
		binary.BigEndian.PutUint32(m[4+4*i:], s[w])
	}
	binary.BigEndian.PutUint64(m[savedSize-8:], m.length()+uint64(n))
	if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(m); err != nil {
		panic(fmt.Sprintf("crypto/sha256 does not take its own state: %v", err)) // the tests would have seen it
	}
}

// blocks takes n blocks of 64 bytes, n > 0, from a into s[0] and from b into s[1]. k are the constants.
//
//go:noescape
func blocks(s *[2]state, k *[64]uint32, a, b *byte, n int)

// hasSHA asks CPUID leaf 7, which has to exist.
func hasSHA() bool
