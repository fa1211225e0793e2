package codec

import "math/bits"

// coder codes symbols below 64 by finite state entropy (RFC 8878, 4.1): a symbol that has a share of 1/2^k of all
// costs about k bits.
type coder struct {
	most    int // binary logarithm of the largest table that the format allows
	count   [64]uint32
	known   bool       // the decoder has shares from the block before
	shares  [64]uint16 // of 1<<log; none is 0 for a symbol that occurs
	log     uint
	symbols [64]transition
	states  [512]uint16
}

// transition leads from a state to the next, for one symbol: (state + bits) >> 16 bits of the state are written, and the
// rest of them, plus base, is where the next state stands.
type transition struct {
	bits uint32
	base int32
}

// The modes of a table.
const (
	oneSymbol = 1
	newTable  = 2
	sameTable = 3
)

// appendTable makes the table for what has been counted, n symbols, appends what the decoder has to know of it, and
// counts from zero.
func (c *coder) appendTable(dst []byte, n int) ([]byte, byte) {
	defer clear(c.count[:])
	end := len(c.count)
	for c.count[end-1] == 0 {
		end--
	}
	count := c.count[:end]
	if int(count[end-1]) == n {
		c.known, c.log = false, 0
		c.symbols[end-1], c.states[0] = transition{}, 0
		return append(dst, byte(end-1)), oneSymbol
	}
	shares, log := share(count, n, c.most)
	header := appendShares(nil, shares[:end], log)
	if c.known && cost(count, &c.shares, c.log) <= cost(count, &shares, log)+len(header)*8 {
		return dst, sameTable
	}
	c.known, c.shares, c.log = true, shares, log
	c.build()
	return append(dst, header...), newTable
}

// share divides 1<<log among symbols as they occur.
func share(count []uint32, n, most int) (shares [64]uint16, log uint) {
	used := 0
	for _, k := range count {
		if k > 0 {
			used++
		}
	}
	// Finer than a quarter of the sequences is not worth its bits; each symbol needs a share, and room to lose some.
	size := 1 << max(min(most, bits.Len(uint(n-1))-3), bits.Len(uint(2*used-1)), 5)
	left, largest := size, 0
	for s, k := range count {
		if k > 0 {
			shares[s] = uint16(max(1, (int(k)*size+n/2)/n))
			left -= int(shares[s])
		}
		if shares[s] > shares[largest] {
			largest = s
		}
	}
	for ; left < 0; left++ { // rounded up too often: the largest lose least
		for s := range count {
			if shares[s] > shares[largest] {
				largest = s
			}
		}
		shares[largest]--
	}
	shares[largest] += uint16(left)
	return shares, uint(bits.Len(uint(size)) - 1)
}

// cost is about how many bits count's symbols need with these shares.
func cost(count []uint32, shares *[64]uint16, log uint) int {
	sum := 0
	for s, k := range count {
		if k == 0 {
			continue
		}
		share := uint(shares[s])
		if share == 0 {
			return 1 << 30 // cannot be coded
		}
		whole := uint(bits.Len(share) - 1)
		sum += int(k) * int(log<<8-whole<<8-(share<<8>>whole&255)) // its binary logarithm, between powers of two on a line
	}
	return sum >> 8
}

// appendShares appends the description of a table (RFC 8878, 4.1.1): each share in as many bits as what is left needs.
func appendShares(dst []byte, shares []uint16, log uint) []byte {
	buf := make([]byte, 128) // 64 symbols of at most 10 bits
	w := bitWriter{}.add(uint64(log-5), 4)
	left, half := 1<<log+1, 1<<log
	for s := 0; s < len(shares); s++ {
		value := int(shares[s]) + 1
		most := 2*half - 1 - left // so many values have a bit less
		if left -= int(shares[s]); value >= half {
			value += most
		}
		width := uint64(bits.Len(uint(half)))
		if value < most {
			width--
		}
		w = w.add(uint64(value), width).flush(buf)
		for left < half {
			half >>= 1
		}
		if shares[s] > 0 {
			continue
		}
		// Behind a zero stands how many more follow.
		more := 0
		for shares[s+1] == 0 {
			more++
			s++
		}
		for ; more >= 3; more -= 3 {
			w = w.add(3, 2).flush(buf)
		}
		w = w.add(uint64(more), 2)
	}
	return append(dst, w.close(buf)...)
}

// build makes the table from the shares.
func (c *coder) build() {
	size := 1 << c.log
	var spread [512]uint8 // symbol by place
	var place [64]int     // where the next state of a symbol goes
	at, start := 0, 0
	for s, share := range c.shares {
		place[s] = start
		n := int(share)
		for range n {
			spread[at] = uint8(s)
			at = (at + size>>1 + size>>3 + 3) & (size - 1)
		}
		if n > 0 {
			width := int(c.log) - bits.Len(uint(n-1)) + 1 // bits of the states that need more
			if n == 1 {
				width = int(c.log)
			}
			c.symbols[s] = transition{uint32(width<<16 - n<<width), int32(start - n)}
		}
		start += n
	}
	for u, s := range spread[:size] {
		c.states[place[s]] = uint16(size + u)
		place[s]++
	}
}

// first is the state of the symbol that is coded first and read last.
func (c *coder) first(symbol uint64) uint32 {
	t := c.symbols[symbol&63]
	n := (t.bits + 1<<15) >> 16
	return uint32(c.states[int32((n<<16-t.bits)>>n)+t.base])
}

// next writes what leads from the state of symbol, which it returns, to state.
func (c *coder) next(w bitWriter, state uint32, symbol uint64) (bitWriter, uint32) {
	t := c.symbols[symbol&63]
	n := (state + t.bits) >> 16 & 31
	return w.add(uint64(state)&(1<<n-1), uint64(n)), uint32(c.states[(int32(state>>n)+t.base)&511])
}

// last writes the state from which the decoder begins.
func (c *coder) last(w bitWriter, state uint32) bitWriter {
	return w.add(uint64(state)&(1<<c.log-1), uint64(c.log))
}
