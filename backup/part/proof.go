package part

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
)

// ErrMispacked is the cause of every error that says that packed data does not expand to the original data.
var ErrMispacked = errors.New("packed data does not expand to the original data")

// prover looks at what an encoder was given and has made, before anybody relies on it: what a fault of this host's memory
// or of the compressor has spoiled should not be stored, since its hash would be right.
type prover struct {
	enc   Encoder
	dec   *Decoder
	codec Codec
	buf   []byte // a frame, expanded
}

// proveEvery is of how many frames one is expanded again; the first and the last of a full part are, and its index.
// All of them would cost a full backup an eighth of its time. A compressor that has a fault does not have it once, and
// backup-verify holds every chunk against the hash of what was read.
const proveEvery = 4

// append appends raw to dst as one frame, in which each member's content is as it was when its CRC was taken. With expand
// the frame is proven to hold that.
func (p *prover) append(dst, raw []byte, members []Member, expand bool) ([]byte, error) {
	out := p.enc.Append(dst, raw)
	if !expand && len(out) < TargetSize {
		return out, p.compare(raw, raw, members)
	}
	// Always the same limit, to which Decode cuts the buffer.
	var err error
	if p.buf, err = p.dec.Decode(p.codec, p.buf[:0], out[len(dst):], max(len(raw), MaxFrame)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMispacked, err)
	}
	if len(p.buf) != len(raw) {
		return nil, fmt.Errorf("%w: %d bytes instead of %d", ErrMispacked, len(p.buf), len(raw))
	}
	return out, p.compare(p.buf, raw, members)
}

// compare holds what a frame expands to against the CRC of each member, and what is between them against raw.
func (p *prover) compare(got, raw []byte, members []Member) error {
	table := crc32.MakeTable(crc32.Castagnoli) // made once by the library
	at := 0
	for _, m := range members {
		end := m.Skip + m.Len
		if !bytes.Equal(got[at:m.Skip], raw[at:m.Skip]) || crc32.Checksum(got[m.Skip:end], table) != m.crc {
			return fmt.Errorf("%w: the data of %q differs", ErrMispacked, m.path())
		}
		at = end
	}
	if !bytes.Equal(got[at:], raw[at:]) {
		return fmt.Errorf("%w: the end differs", ErrMispacked)
	}
	return nil
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
