package datadir

import (
	"encoding/binary"

	"github.com/pgobj/pgobj/walstore/segment"
)

// checksumLanes is the number of partial sums of a page checksum: words 0, 32, 64 … go to the first one,
// 1, 33, 65 … to the second (checksum_impl.h).
const checksumLanes = 32

// checksumSeeds are the sums' initial values (checksumBaseOffsets in checksum_impl.h).
var checksumSeeds = [checksumLanes]uint32{
	0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
	0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
	0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
	0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
}

// PageChecksum is the checksum that PostgreSQL stores in bytes 8 and 9 of a page (pg_checksum_page in
// checksum_impl.h); what these bytes hold now does not matter. block is the page's number in its whole
// fork, not in a file of it. The page's size is a power of two from 1 to 32 kB.
func PageChecksum(page []byte, block uint32) uint16 {
	var first [4 * checksumLanes]byte // the first row, with the checksum's own field as zeros
	copy(first[:], page)
	first[8], first[9] = 0, 0
	// This runs over every byte of every database. Eight lanes at a time stay in registers, which beats
	// taking the page in one pass with 32 sums in memory.
	sum := uint32(0)
	for lane := 0; lane < checksumLanes; lane += 8 {
		sum ^= checksum8(&first, page, lane)
	}
	return uint16((sum^block)%65535 + 1)
}

// checksum8 folds eight neighbouring lanes of a page together.
func checksum8(first *[4 * checksumLanes]byte, page []byte, lane int) uint32 {
	seeds := (*[8]uint32)(checksumSeeds[lane:])
	h0, h1, h2, h3 := seeds[0], seeds[1], seeds[2], seeds[3]
	h4, h5, h6, h7 := seeds[4], seeds[5], seeds[6], seeds[7]
	row := (*[32]byte)(first[4*lane:])
	for off := 4 * (checksumLanes + lane); ; off += 4 * checksumLanes {
		h0 = mix(h0, binary.LittleEndian.Uint32(row[0:]))
		h1 = mix(h1, binary.LittleEndian.Uint32(row[4:]))
		h2 = mix(h2, binary.LittleEndian.Uint32(row[8:]))
		h3 = mix(h3, binary.LittleEndian.Uint32(row[12:]))
		h4 = mix(h4, binary.LittleEndian.Uint32(row[16:]))
		h5 = mix(h5, binary.LittleEndian.Uint32(row[20:]))
		h6 = mix(h6, binary.LittleEndian.Uint32(row[24:]))
		h7 = mix(h7, binary.LittleEndian.Uint32(row[28:]))
		if off+32 > len(page) {
			break
		}
		row = (*[32]byte)(page[off:])
	}
	for range 2 { // two rounds of zeros, so that the last words' bits spread too
		h0, h1, h2, h3 = mix(h0, 0), mix(h1, 0), mix(h2, 0), mix(h3, 0)
		h4, h5, h6, h7 = mix(h4, 0), mix(h5, 0), mix(h6, 0), mix(h7, 0)
	}
	return h0 ^ h1 ^ h2 ^ h3 ^ h4 ^ h5 ^ h6 ^ h7
}

func mix(h, v uint32) uint32 {
	x := h ^ v
	return x*16777619 ^ x>>17
}

// VerifyPages checks the whole pages in buf, the first of which is number firstBlock of its fork, and
// returns the numbers of those that are damaged. A page that was written since the backup's start is
// none, whatever its checksum: it may have been read while it was being written, and replay restores it.
// For the same reason read a page that is reported a second time before you believe it. A partial page
// at the end is left out.
//
// Only files with Entry.Relation set consist of pages, and only those of a cluster with data checksums
// have them in place.
func VerifyPages(buf []byte, firstBlock uint32, pageSize int, start segment.LSN) (bad []uint32) {
	for block := firstBlock; len(buf) >= pageSize; block, buf = block+1, buf[pageSize:] {
		if page := buf[:pageSize]; !pageValid(page, block) && !pageRecent(page, start) {
			bad = append(bad, block)
		}
	}
	return bad
}

// pageValid is PostgreSQL's PageIsVerified: a page that was never initialised is all zeros, any other has
// the right checksum.
func pageValid(page []byte, block uint32) bool {
	if binary.LittleEndian.Uint16(page[14:]) == 0 { // pd_upper
		return allZero(page)
	}
	return binary.LittleEndian.Uint16(page[8:]) == PageChecksum(page, block)
}

// pageRecent says that the page was written at or after start. This must not be believed of a header that
// is damaged itself: a page that is displaced by some bytes has any number in the place of its LSN, most
// often a huge one. A header's 24 bytes lie in one sector, so that a write under way never tears them.
func pageRecent(page []byte, start segment.LSN) bool {
	field := func(off int) int { return int(binary.LittleEndian.Uint16(page[off:])) }
	flags, lower, upper, special, sizeAndVersion := field(10), field(12), field(14), field(16), field(18)
	sane := flags&^0x7 == 0 && 24 <= lower && lower <= upper && upper <= special && special <= len(page) &&
		special%8 == 0 && sizeAndVersion == len(page)|4
	// pd_lsn is two halves, the upper one first.
	lsn := segment.LSN(binary.LittleEndian.Uint32(page))<<32 | segment.LSN(binary.LittleEndian.Uint32(page[4:]))
	return sane && lsn >= start
}

func allZero(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
	}
	return true
}
