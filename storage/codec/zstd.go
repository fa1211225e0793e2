package codec

import (
	"encoding/binary"

	"github.com/klauspost/compress/huff0"
	"github.com/klauspost/compress/zstd"
)

// ownZstd makes the zstd frames (RFC 8878) of levels below 6, for pages and for WAL. A frame lies in memory as a whole and is
// its own window, so nothing is copied into a history; and matches are looked for as pages have them: the same offset again
// after a few bytes that differ. The library codes the literals, and makes the frames of higher levels and larger ones. See
// docs/decisions/codecs.md for what that earns.
type ownZstd struct {
	fast    *fast
	library *zstd.Encoder // nil until something is too large
}

func (z *ownZstd) append(dst, raw []byte) ([]byte, error) {
	if len(raw) <= maxFast {
		return z.fast.append(dst, raw), nil
	}
	if z.library == nil {
		z.library = newLibrary(1)
	}
	return z.library.EncodeAll(raw, dst), nil
}

// libraryZstd makes the zstd frames of the other levels.
type libraryZstd struct{ *zstd.Encoder }

func (z libraryZstd) append(dst, raw []byte) ([]byte, error) { return z.EncodeAll(raw, dst), nil }

// window is as large as the frames that parts and segments have.
const window = 1 << 20

func newLibrary(level int) *zstd.Encoder {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true), zstd.WithWindowSize(window), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // it refuses settings, and these are ours
	}
	return w
}

const (
	maxFast  = 1<<posBits - 1 // what positions can tell
	maxBlock = 128 << 10      // what a block holds, says the format

	magic           = 0xFD2FB528
	rawBlock        = 0
	compressedBlock = 2
)

// fast makes frames of at most maxFast bytes. It holds about a megabyte.
type fast struct {
	matcher
	sequences
	huffman huff0.Scratch
}

func newFast() *fast {
	f := new(fast)
	f.huffman.WantLogLess = 4 // a gain of less than a sixteenth is not worth its decoding
	f.sequences.init()
	return f
}

func (f *fast) append(dst, src []byte) []byte {
	dst = appendHeader(dst, len(src))
	f.matcher.reset()
	f.forget()
	for from := 0; ; from += maxBlock {
		to := min(len(src), from+maxBlock)
		dst = f.appendBlock(dst, src, from, to)
		if to == len(src) {
			return dst
		}
	}
}

// appendHeader appends the header of a frame that is its own window.
func appendHeader(dst []byte, size int) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, magic)
	const single = 1 << 5
	switch {
	case size < 256:
		return append(dst, single, byte(size))
	case size < 256+1<<16:
		return binary.LittleEndian.AppendUint16(append(dst, 1<<6|single), uint16(size-256))
	}
	return binary.LittleEndian.AppendUint32(append(dst, 2<<6|single), uint32(size))
}

// forget says that the decoder has none of the tables that the block before was made with.
func (f *fast) forget() {
	f.huffman.Reuse = huff0.ReusePolicyNone
	for i := range f.coders {
		f.coders[i].known = false
	}
}

// appendBlock appends src[from:to] as a block, compressed if that makes it smaller.
func (f *fast) appendBlock(dst, src []byte, from, to int) []byte {
	at, before := len(dst), f.repeats
	dst = append(dst, 0, 0, 0) // its header
	f.parse(src, from, to)
	dst = f.appendLiterals(dst)
	dst = f.appendSequences(dst)
	kind, size := compressedBlock, len(dst)-at-3
	if size >= to-from {
		kind, size = rawBlock, to-from
		dst = append(dst[:at+3], src[from:to]...)
		f.repeats = before
		f.forget()
	}
	header := size<<3 | kind<<1
	if to == len(src) {
		header |= 1 // the last one
	}
	dst[at], dst[at+1], dst[at+2] = byte(header), byte(header>>8), byte(header>>16)
	return dst
}

// The kinds of a literals section.
const (
	rawLiterals     = 0
	oneLiteral      = 1
	packedLiterals  = 2
	packedAsBefore  = 3 // with the Huffman table of the block before
	oneStreamBelow  = 1 << 10
	notPackedBelow  = 32
	literalsHeaders = 5 // bytes of the longest
)

// appendLiterals appends the literals section (RFC 8878, 3.1.1.3.1).
func (f *fast) appendLiterals(dst []byte) []byte {
	literals := f.literals[:f.literal]
	n := uint64(len(literals))
	var packed []byte
	var asBefore bool
	err := huff0.ErrIncompressible
	switch {
	case n >= oneStreamBelow:
		packed, asBefore, err = huff0.Compress4X(literals, &f.huffman)
	case n >= notPackedBelow:
		packed, asBefore, err = huff0.Compress1X(literals, &f.huffman)
	}
	switch {
	case err == nil && len(packed)+literalsHeaders < len(literals):
		f.huffman.Reuse = huff0.ReusePolicyAllow
		kind := uint64(packedLiterals)
		if asBefore {
			kind = packedAsBefore
		}
		return append(appendPackedHeader(dst, kind, n, uint64(len(packed))), packed...)
	case err == nil:
		f.huffman.Reuse = huff0.ReusePolicyNone // its table will not be stored
	case err == huff0.ErrUseRLE:
		return append(appendPlainHeader(dst, oneLiteral, n), literals[0])
	}
	return append(appendPlainHeader(dst, rawLiterals, n), literals...)
}

// appendPackedHeader appends the header of n literals in k bytes.
func appendPackedHeader(dst []byte, kind, n, k uint64) []byte {
	switch {
	case n < oneStreamBelow:
		h := kind | n<<4 | k<<14
		return append(dst, byte(h), byte(h>>8), byte(h>>16))
	case n < 1<<14:
		return binary.LittleEndian.AppendUint32(dst, uint32(kind|2<<2|n<<4|k<<18))
	}
	h := kind | 3<<2 | n<<4 | k<<22
	return append(binary.LittleEndian.AppendUint32(dst, uint32(h)), byte(h>>32))
}

func appendPlainHeader(dst []byte, kind, n uint64) []byte {
	switch {
	case n < 1<<5:
		return append(dst, byte(kind|n<<3))
	case n < 1<<12:
		return binary.LittleEndian.AppendUint16(dst, uint16(kind|1<<2|n<<4))
	}
	h := kind | 3<<2 | n<<4
	return append(dst, byte(h), byte(h>>8), byte(h>>16))
}
