package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// HeaderSize is the number of bytes of a segment's first page that ParseHeader needs.
const HeaderSize = 40

// Header is the long page header that begins every WAL segment (XLogLongPageHeaderData in
// xlog_internal.h, unchanged since 9.3).
type Header struct {
	Magic    uint16   // differs with every major version
	Timeline Timeline // of the page, which may be older than the file name's: see Verify
	Address  LSN      // of the segment's first byte
	SystemID uint64   // of the cluster that wrote it
	Size     Size     // of this segment and all others of the cluster
	PageSize uint32   // of WAL pages (XLOG_BLCKSZ), 8192 unless built otherwise
}

const longHeader = 0x0002 // XLP_LONG_HEADER in xlp_info

// ErrHeader is in every error about a first page that is not a WAL segment's, or is another one's.
var ErrHeader = errors.New("the content does not match the name of the WAL segment")

// ParseHeader reads the long header at the start of page. Only little-endian machines write what it
// accepts. It fails for anything that PostgreSQL could not have written, all-zero pages included.
func ParseHeader(page []byte) (Header, error) {
	if len(page) < HeaderSize {
		return Header{}, fmt.Errorf("%w: %d bytes are too short for a page header", ErrHeader, len(page))
	}
	le := binary.LittleEndian
	info := le.Uint16(page[2:])
	h := Header{
		Magic:    le.Uint16(page[0:]),
		Timeline: Timeline(le.Uint32(page[4:])),
		Address:  LSN(le.Uint64(page[8:])),
		SystemID: le.Uint64(page[24:]),
		Size:     Size(le.Uint32(page[32:])),
		PageSize: le.Uint32(page[36:]),
	}
	switch {
	case h.Magic == 0:
		return Header{}, fmt.Errorf("%w: its first page is empty", ErrHeader)
	case info&longHeader == 0:
		return Header{}, fmt.Errorf("%w: the first page's flags are %#04x", ErrHeader, info)
	case !h.Size.Valid():
		return Header{}, fmt.Errorf("%w: a segment size of %d bytes is impossible", ErrHeader, h.Size)
	case h.PageSize < 1024 || h.PageSize > 65536 || h.PageSize&(h.PageSize-1) != 0:
		return Header{}, fmt.Errorf("%w: a WAL page size of %d bytes is impossible", ErrHeader, h.PageSize)
	case h.SystemID == 0:
		return Header{}, fmt.Errorf("%w: it has no system identifier", ErrHeader)
	case h.Timeline == 0:
		return Header{}, fmt.Errorf("%w: it has no timeline", ErrHeader)
	}
	return h, nil
}

// Verify reports whether this can be the header of the segment (or NAME.partial) called name in a file
// of size bytes. The page's timeline may be older than the name's: the first segment of a new timeline
// begins as a copy of the old one's bytes (XLogFileCopy in xlog.c), page headers included.
func (h Header) Verify(name string, size int64) error {
	if size != int64(h.Size) {
		return fmt.Errorf("%w: %d bytes, but its header has a segment size of %d", ErrHeader, size, h.Size)
	}
	if Classify(name) == Partial {
		name = name[:24]
	}
	seg, err := ParseName(name, h.Size)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrHeader, err)
	}
	if want := seg.Start(h.Size); h.Address != want {
		return fmt.Errorf("%w: it begins at %s, not at %s (a recycled segment?)", ErrHeader, h.Address, want)
	}
	if h.Timeline > seg.Timeline {
		return fmt.Errorf("%w: it was written on timeline %d, later than timeline %d of its name", ErrHeader, h.Timeline, seg.Timeline)
	}
	return nil
}

// Version is the PostgreSQL major version that writes this magic (9.6 counts as 9), and 0 for an
// unknown one, which is worth a warning only: a newer release must not stop archiving.
func (h Header) Version() int {
	switch h.Magic {
	case 0xD093:
		return 9
	case 0xD097:
		return 10
	case 0xD098:
		return 11
	case 0xD101:
		return 12
	case 0xD106:
		return 13
	case 0xD10D:
		return 14
	case 0xD110:
		return 15
	case 0xD113:
		return 16
	case 0xD116:
		return 17
	case 0xD118:
		return 18
	}
	return 0
}
