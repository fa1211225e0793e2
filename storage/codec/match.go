package codec

import (
	"encoding/binary"
	"math/bits"
	"unsafe"
)

const (
	// tableBits: twice as many entries gain 0.3 %, half as many lose 0.6 %.
	tableBits = 16

	// posBits of an entry are a position, the others a tag: what else the hash has to say. With it nearly every entry
	// that is not a match is known for one without a look at the bytes, which often left the CPU's cache.
	posBits = 21
	tagBits = 32 - posBits
	tagMask = 1<<tagBits - 1

	// minMatch is what is hashed. Shorter matches far away cost about as many bits as the literals.
	minMatch = 6

	prime = 0xcf1bbcdcb7a56463 // spreads what it is multiplied with over the upper bits

	// margin: so close to a block's end nothing is looked for, so that eight bytes can be read everywhere.
	margin = 16
)

// repeats are the offsets that a decoder remembers, the last one first.
type repeats [3]uint32

// matcher finds in a block what the frame has had before.
type matcher struct {
	table    [1 << tableBits]uint32 // by hash: position and tag
	repeats  repeats
	literals [maxBlock + 16]byte // with room to copy more than is needed
	literal  int                 // how many
}

func (m *matcher) reset() {
	clear(m.table[:]) // position 0 with tag 0, a candidate like any other
	m.repeats = repeats{1, 4, 8}
}

// bucket is of the first minMatch bytes of v: where in the table, and a tag.
func bucket(v uint64) uint32 {
	return uint32(v << (64 - 8*minMatch) * prime >> (64 - tableBits - tagBits))
}

func (m *matcher) note(h uint32, pos int) {
	m.table[h>>tagBits] = uint32(pos)<<tagBits | h&tagMask
}

// load64 and load32 read from b without a look at its length, which costs a tenth of a frame's time: parse keeps at as
// far from the end as they need.
func load64(b []byte, at int) uint64 {
	return binary.LittleEndian.Uint64((*[8]byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), at))[:])
}

func load32(b []byte, at int) uint32 {
	return binary.LittleEndian.Uint32((*[4]byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), at))[:])
}

// matchLen counts the bytes that are the same from a and from b on, up to a's end.
func matchLen(src []byte, a, b, end int) int {
	from := a
	for ; a+8 <= end; a, b = a+8, b+8 {
		if x := load64(src, a) ^ load64(src, b); x != 0 {
			return a - from + bits.TrailingZeros64(x)>>3
		}
	}
	for ; a < end && src[a] == src[b]; a, b = a+1, b+1 {
	}
	return a - from
}

// parse divides src[from:to] into literals and sequences. It looks at two positions a step, and whether the last
// offset fits the second or, backwards, the first; the further it gets without a match, the longer its steps.
func (f *fast) parse(src []byte, from, to int) {
	f.literal, f.sequences.n = 0, 0
	src = src[:to]
	anchor, s, end := from, max(from, 1), to-margin // anchor: literals from here on
	last := int(f.repeats[0])
	for s < end {
		v := load64(src, s)
		h0, h1 := bucket(v), bucket(v>>8)
		c0, c1 := f.table[h0>>tagBits], f.table[h1>>tagBits]
		f.note(h0, s)
		f.note(h1, s+1)
		var match, length int
		if load32(src, s+1-last) == uint32(v>>8) {
			s++
			match = s - last
			length = 4 + matchLen(src, s+4, match+4, to)
			if s-1 > anchor && match > 0 && src[s-1] == src[match-1] {
				s, match, length = s-1, match-1, length+1
			}
		} else {
			if (c0^h0)&tagMask == 0 && (load64(src, int(c0>>tagBits))^v)<<(64-8*minMatch) == 0 {
				match = int(c0 >> tagBits)
			} else if (c1^h1)&tagMask == 0 && (load64(src, int(c1>>tagBits))^load64(src, s+1))<<(64-8*minMatch) == 0 {
				s++
				match = int(c1 >> tagBits)
			} else {
				s += 2 + (s-anchor)>>6
				continue
			}
			length = minMatch + matchLen(src, s+minMatch, match+minMatch, to)
			for s > anchor && match > 0 && src[s-1] == src[match-1] {
				s, match, length = s-1, match-1, length+1
			}
		}
		f.addLiterals(src, anchor, s)
		f.sequences.add(uint32(s-anchor), uint32(length), f.repeats.value(uint32(s-match), s == anchor))
		f.note(bucket(load64(src, s+2)), s+2)
		s += length
		anchor = s
		if s >= end {
			break
		}
		f.note(bucket(load64(src, s-2)), s-2)
		f.note(bucket(load64(src, s-1)), s-1)
		// Often what comes next has the offset before the last one.
		for before := int(f.repeats[1]); before <= s && load32(src, s) == load32(src, s-before); before = int(f.repeats[1]) {
			length := 4 + matchLen(src, s+4, s+4-before, to)
			f.note(bucket(load64(src, s)), s)
			f.sequences.add(0, uint32(length), f.repeats.value(uint32(before), true))
			s += length
			anchor = s
			if s >= end {
				break
			}
		}
		last = int(f.repeats[0])
	}
	f.literal += copy(f.literals[f.literal:], src[anchor:])
}

func (f *fast) addLiterals(src []byte, from, to int) {
	if to-from <= 16 { // nearly always; what is too much is overwritten or not used
		*(*[16]byte)(f.literals[f.literal:]) = *(*[16]byte)(src[from:])
	} else {
		copy(f.literals[f.literal:], src[from:to])
	}
	f.literal += to - from
}

// value is how an offset is stored (RFC 8878, 3.1.1.5): one of those that the decoder remembers, or itself plus 3.
func (r *repeats) value(offset uint32, noLiterals bool) uint32 {
	first := uint32(1) // what the value of r[0] would be
	if noLiterals {
		first = 0
	} else if offset == r[0] {
		return 1
	}
	switch offset {
	case r[1]:
		r[1], r[0] = r[0], offset
		return first + 1
	case r[2]:
		r[2], r[1], r[0] = r[1], r[0], offset
		return first + 2
	}
	r[2], r[1], r[0] = r[1], r[0], offset
	return offset + 3
}
