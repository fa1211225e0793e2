package part

import (
	"hash/crc32"
)

var Castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CombineCRC returns the CRC-32C of two pieces one after the other from their own CRCs and the second's
// length: the first CRC is moved on by n zero bytes, which is multiplication by x^(8n) modulo the
// polynomial.
func CombineCRC(a, b uint32, n int64) uint32 {
	if n == 0 {
		return a
	}
	return mulmod(power(8*uint64(n)), a) ^ b
}

// mulmod multiplies two polynomials over GF(2) modulo CRC-32C's, bits reflected: bit 31 is x^0.
func mulmod(a, b uint32) uint32 {
	var p uint32
	for m := uint32(1) << 31; m != 0; m >>= 1 {
		if a&m != 0 {
			p ^= b
		}
		if b&1 != 0 {
			b = b>>1 ^ crc32.Castagnoli
		} else {
			b >>= 1
		}
	}
	return p
}

// power is x^n modulo the polynomial.
func power(n uint64) uint32 {
	p, square := uint32(1)<<31, uint32(1)<<30
	for ; n > 0; n >>= 1 {
		if n&1 != 0 {
			p = mulmod(square, p)
		}
		square = mulmod(square, square)
	}
	return p
}

func Checksum(b []byte) uint32 { return crc32.Checksum(b, Castagnoli) }
