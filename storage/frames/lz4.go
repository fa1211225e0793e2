package frames

import "encoding/binary"

const (
	// lz4Bits: half as many entries lose 1 %, twice as many gain half of one.
	lz4Bits = 15

	lz4Tail  = 5       // so many bytes at a block's end are literals
	lz4Block = 4 << 20 // the largest that the format has
)

// LZ4 makes lz4 frames, one after the other. It is not safe for concurrent use.
type LZ4 struct {
	table [1 << lz4Bits]uint16 // the last bits of positions, by hash: no match lies 64 KiB back
}

// NewLZ4 returns an encoder.
func NewLZ4() *LZ4 { return new(LZ4) }

// Append appends src to dst as one frame without a checksum: those who store frames keep better ones.
func (l *LZ4) Append(dst, src []byte) []byte {
	// The magic number; version 1, independent blocks, of at most 4 MiB; and a hash of the three bytes before.
	dst = append(dst, 0x04, 0x22, 0x4d, 0x18, 0x60, 0x70, 0x73)
	for len(src) > 0 {
		n := min(len(src), lz4Block)
		at := len(dst)
		dst = l.appendBlock(append(dst, 0, 0, 0, 0), src[:n])
		header := uint32(len(dst) - at - 4)
		if int(header) >= n {
			dst = append(dst[:at+4], src[:n]...)
			header = uint32(n) | 1<<31
		}
		binary.LittleEndian.PutUint32(dst[at:], header)
		src = src[n:]
	}
	return append(dst, 0, 0, 0, 0)
}

func (l *LZ4) note(v uint64, pos int) (before uint16) {
	entry := &l.table[v<<(64-8*minMatch)*prime>>(64-lz4Bits)]
	before, *entry = *entry, uint16(pos)
	return before
}

// appendBlock appends src as sequences. It goes two positions a step; of the second it looks only whether the last offset
// fits.
func (l *LZ4) appendBlock(dst, src []byte) []byte {
	clear(l.table[:])
	anchor, s, end := 0, 1, len(src)-margin
	last := 1
	for s < end {
		v := load64(src, s)
		match := s - int(uint16(s)-l.note(v, s))
		l.note(v>>8, s+1)
		var length int
		switch {
		case load32(src, s+1-last) == uint32(v>>8):
			s++
			match = s - last
			length = 4 + matchLen(src, s+4, match+4, len(src)-lz4Tail)
		case match < s && (load64(src, match)^v)<<(64-8*minMatch) == 0:
			length = minMatch + matchLen(src, s+minMatch, match+minMatch, len(src)-lz4Tail)
		default:
			s += 2 + (s-anchor)>>6
			continue
		}
		for s > anchor && match > 0 && src[s-1] == src[match-1] {
			s, match, length = s-1, match-1, length+1
		}
		last = s - match
		dst = appendSequence(dst, src[anchor:s], last, length)
		s += length
		anchor = s
		if s < end {
			l.note(load64(src, s-2), s-2)
		}
	}
	return appendSequence(dst, src[anchor:], 0, 0)
}

// appendSequence appends literals and a match; the last ones of a block have none.
func appendSequence(dst, literals []byte, offset, length int) []byte {
	token := len(dst)
	dst = append(dst, byte(min(len(literals), 15)<<4))
	dst = appendLength(dst, len(literals))
	dst = append(dst, literals...)
	if length == 0 {
		return dst
	}
	dst = append(dst, byte(offset), byte(offset>>8))
	dst[token] |= byte(min(length-shortest, 15))
	return appendLength(dst, length-shortest)
}

// appendLength appends what of a length the token could not tell.
func appendLength(dst []byte, n int) []byte {
	for n -= 15; n >= 0; n -= 255 {
		dst = append(dst, byte(min(n, 255)))
	}
	return dst
}
