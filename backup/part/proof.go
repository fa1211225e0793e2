package part

import (
	"bytes"
	"fmt"

	"github.com/pgobj/pgobj/storage/codec"
)

// proven says whether what a frame expands to is, in each member, the content whose CRC was taken when it was hashed, and
// between them what was packed. So the frame holds what was read, and not what a fault of the memory has made of it since.
func proven(expanded, raw []byte, members []Member) error {
	at := 0
	for _, m := range members {
		end := m.Skip + m.Len
		if !bytes.Equal(expanded[at:m.Skip], raw[at:m.Skip]) || Checksum(expanded[m.Skip:end]) != m.crc {
			return fmt.Errorf("%w: the data of %q differs", codec.ErrMispacked, m.path())
		}
		at = end
	}
	if !bytes.Equal(expanded[at:], raw[at:]) {
		return fmt.Errorf("%w: the end differs", codec.ErrMispacked)
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
