package part

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
)

// ErrMispacked is the cause of every error that says that packed data do not expand to what was packed.
var ErrMispacked = errors.New("packed data do not expand to what was packed")

// encoder is what a Writer needs of Encoder; a test has one that lies.
type encoder interface {
	Append(dst, raw []byte) ([]byte, error)
}

// prover expands what an encoder has made, before anybody relies on it: what a fault of the compressor or of
// this host's memory has spoiled must never be stored, since its hash would be right.
type prover struct {
	enc   encoder
	dec   *Decoder
	codec Codec
	buf   []byte // a frame, expanded
}

// append appends raw to dst as one frame, which is proven to hold raw, and in it each member's content as it was
// when its CRC was taken.
func (p *prover) append(dst, raw []byte, members []Member) ([]byte, error) {
	out, err := p.enc.Append(dst, raw)
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	// Always the same limit, to which Decode cuts the buffer.
	if p.buf, err = p.dec.Decode(p.codec, p.buf[:0], out[len(dst):], max(len(raw), MaxFrame)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMispacked, err)
	}
	if len(p.buf) != len(raw) {
		return nil, fmt.Errorf("%w: %d bytes instead of %d", ErrMispacked, len(p.buf), len(raw))
	}
	table := crc32.MakeTable(crc32.Castagnoli) // made once by the library
	at := 0
	for _, m := range members {
		end := m.Skip + m.Len
		if !bytes.Equal(p.buf[at:m.Skip], raw[at:m.Skip]) || crc32.Checksum(p.buf[m.Skip:end], table) != m.crc {
			return nil, fmt.Errorf("%w: those of %q differ", ErrMispacked, m.path())
		}
		at = end
	}
	if !bytes.Equal(p.buf[at:], raw[at:]) {
		return nil, fmt.Errorf("%w: the end differs", ErrMispacked)
	}
	return out, nil
}

// names tells whose content a frame has.
func names(members []Member) string {
	if len(members) == 0 {
		return "its index"
	}
	first, last := members[0].path(), members[len(members)-1].path()
	if first == last {
		return fmt.Sprintf("%q", first)
	}
	return fmt.Sprintf("%q to %q", first, last)
}
