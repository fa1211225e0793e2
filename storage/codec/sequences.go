package codec

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// shortest is how long a match is at least.
const shortest = 4

// sequences are those of a block, and the tables that code them.
type sequences struct {
	list         [maxBlock / shortest]sequence
	n            int
	literalCodes lengthCodes
	matchCodes   lengthCodes
	coders       [3]coder // of literals' lengths, offsets, match lengths: the order of their tables
	stream       []byte
}

// sequence is some literals and a match: the codes of the literals' length, the match's length and the offset, from the
// lowest byte on, then how many bits they leave open; and those bits.
type sequence struct{ codes, extra uint64 }

// lengthCodes are the codes of lengths (RFC 8878, 3.1.1.3.2.1.1). A code is a smallest length and a number of extra
// bits.
type lengthCodes struct {
	codes [64]struct{ base, width uint32 }
	small [128]uint8 // code of a length
	large uint32     // code of a larger length, less its binary logarithm
}

// set makes the codes of widths, each as often as it is given.
func (l *lengthCodes) set(widths [][2]int) {
	base, c := uint32(0), uint32(0)
	for _, w := range widths {
		for range w[1] {
			l.codes[c].base, l.codes[c].width = base, uint32(w[0])
			end := base + 1<<w[0]
			for i := base; i < min(end, uint32(len(l.small))); i++ {
				l.small[i] = uint8(c)
			}
			base = end
			c++
		}
	}
	l.large = c - 1 - 16 // the last code has 16 bits
}

func (l *lengthCodes) code(length uint32) uint32 {
	if length < uint32(len(l.small)) {
		return uint32(l.small[length])
	}
	return uint32(bits.Len32(length)) - 1 + l.large
}

func (q *sequences) init() {
	q.literalCodes.set([][2]int{{0, 16}, {1, 4}, {2, 2}, {3, 2}, {4, 1}, {6, 1}, {7, 1}, {8, 1}, {9, 1}, {10, 1}, {11, 1}, {12, 1}, {13, 1}, {14, 1}, {15, 1}, {16, 1}})
	q.matchCodes.set([][2]int{{0, 32}, {1, 4}, {2, 2}, {3, 2}, {4, 2}, {5, 1}, {7, 1}, {8, 1}, {9, 1}, {10, 1}, {11, 1}, {12, 1}, {13, 1}, {14, 1}, {15, 1}, {16, 1}})
	for i, most := range []int{9, 8, 9} {
		q.coders[i].most = most
	}
}

// add adds literals and a match of these lengths; offset is its value as it is stored.
func (q *sequences) add(literals, match, offset uint32) {
	match -= 3 // lengths are counted from there
	l, m, o := q.literalCodes.code(literals), q.matchCodes.code(match), uint32(bits.Len32(offset)-1)
	q.coders[0].count[l&63]++
	q.coders[1].count[o&63]++
	q.coders[2].count[m&63]++
	lc, mc := &q.literalCodes.codes[l&63], &q.matchCodes.codes[m&63]
	q.list[q.n] = sequence{
		codes: uint64(l | m<<8 | o<<16 | (lc.width+mc.width+o)<<24),
		extra: uint64(literals-lc.base) | uint64(match-mc.base)<<(lc.width&63) | uint64(offset-1<<(o&31))<<((lc.width+mc.width)&63),
	}
	q.n++
}

// appendSequences appends the sequences section.
func (q *sequences) appendSequences(dst []byte) []byte {
	switch n := q.n; {
	case n < 128:
		dst = append(dst, byte(n))
	case n < 0x7f00:
		dst = append(dst, byte(n>>8|128), byte(n))
	default:
		dst = append(dst, 255, byte(n-0x7f00), byte((n-0x7f00)>>8))
	}
	if q.n == 0 {
		return dst
	}
	modes := len(dst)
	dst = append(dst, 0)
	for i := range q.coders {
		var mode byte
		dst, mode = q.coders[i].appendTable(dst, q.n)
		dst[modes] |= mode << (6 - 2*i)
	}
	return append(dst, q.write()...)
}

// write codes the sequences, from the last to the first, as the decoder reads them backwards.
func (q *sequences) write() []byte {
	list := q.list[:q.n]
	// Three states of 26 bits in all, and 52 bits between them: no sequence has more.
	q.stream = slices.Grow(q.stream[:0], 10*len(list)+32)
	buf := q.stream[:cap(q.stream)]
	lc, oc, mc := &q.coders[0], &q.coders[1], &q.coders[2]
	last := list[len(list)-1]
	l, m, o := lc.first(last.codes), mc.first(last.codes>>8), oc.first(last.codes>>16)
	w := bitWriter{}.add(last.extra, last.codes>>24).flush(buf)
	for i := len(list) - 2; i >= 0; i-- {
		s := list[i]
		w, o = oc.next(w, o, s.codes>>16)
		w, m = mc.next(w, m, s.codes>>8)
		w, l = lc.next(w, l, s.codes)
		if w.n+s.codes>>24 >= 64 {
			w = w.flush(buf)
		}
		w = w.add(s.extra, s.codes>>24).flush(buf)
	}
	w = mc.last(w, m)
	w = oc.last(w, o)
	w = lc.last(w, l)
	w = w.add(1, 1) // where the decoder begins
	return w.close(buf)
}

// bitWriter writes bits to a buffer, from the lowest on. It is a value, so that it stays in registers.
type bitWriter struct {
	at   int    // bytes in the buffer
	bits uint64 // that are not there to stay
	n    uint64
}

// add adds the n bits of v, which has no others. After flush there is room for 56.
func (w bitWriter) add(v, n uint64) bitWriter {
	return bitWriter{w.at, w.bits | v<<(w.n&63), w.n + n}
}

// flush leaves fewer than 8 bits, of 63 at most.
func (w bitWriter) flush(buf []byte) bitWriter {
	binary.LittleEndian.PutUint64(buf[w.at:], w.bits)
	return bitWriter{w.at + int(w.n>>3), w.bits >> (w.n &^ 7 & 63), w.n & 7}
}

// close returns all that was written.
func (w bitWriter) close(buf []byte) []byte {
	w = w.flush(buf)
	if w.n > 0 {
		w.at++
	}
	return buf[:w.at]
}
