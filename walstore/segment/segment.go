// Package segment knows PostgreSQL's WAL coordinates and file names: LSN, timeline, segment number and
// size, the names of everything that archive_command may be given, the page header of a segment and
// history files. It is pure: no globals, no I/O, no fixed 16 MB.
package segment

import (
	"fmt"
	"strconv"
	"strings"
)

// LSN is a byte position in the WAL, printed as PostgreSQL prints it: two hexadecimal halves.
type LSN uint64

// ParseLSN reads "%X/%X", and "%X/%08X" as PostgreSQL 19 prints it.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	h, err1 := strconv.ParseUint(hi, 16, 32)
	l, err2 := strconv.ParseUint(lo, 16, 32)
	if !ok || err1 != nil || err2 != nil || len(hi) > 8 || len(lo) > 8 {
		return 0, fmt.Errorf("%q is not an LSN (such as 16/B374D848)", s)
	}
	return LSN(h<<32 | l), nil
}

func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// MarshalText and UnmarshalText make an LSN a JSON string in PostgreSQL's notation.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

func (l *LSN) UnmarshalText(b []byte) (err error) {
	*l, err = ParseLSN(string(b))
	return err
}

// Timeline is a timeline ID. File names and history files' names have it as eight hexadecimal digits,
// settings as a decimal number.
type Timeline uint32

// Hex is the timeline as file names have it.
func (t Timeline) Hex() string { return fmt.Sprintf("%08X", uint32(t)) }

// Size is the size of a WAL segment in bytes: a power of two from 1 MiB to 1 GiB.
type Size uint64

// Valid says whether PostgreSQL accepts the size (IsValidWalSegSize in xlog_internal.h).
func (s Size) Valid() bool { return s >= 1<<20 && s <= 1<<30 && s&(s-1) == 0 }

// perID is the number of segments in each 4 GiB of WAL ("xlogid").
func (s Size) perID() uint64 { return 0x1_0000_0000 / uint64(s) }

// Segment is one WAL segment's place: its timeline and number. The number times the segment size is
// the LSN of its first byte.
type Segment struct {
	Timeline Timeline
	No       uint64
}

// At is the segment that holds the byte at lsn.
func At(tli Timeline, lsn LSN, size Size) Segment { return Segment{tli, uint64(lsn) / uint64(size)} }

// Before is the segment that holds the last byte before lsn: the last one that is needed to replay up
// to lsn, as PostgreSQL's XLByteToPrevSeg. (pg_walfile_name differs between versions at a boundary.)
func Before(tli Timeline, lsn LSN, size Size) Segment { return At(tli, lsn-1, size) }

// Name is the segment's file name: 24 hexadecimal digits.
func (s Segment) Name(size Size) string {
	n := size.perID()
	return fmt.Sprintf("%08X%08X%08X", uint32(s.Timeline), s.No/n, s.No%n)
}

// Start is the LSN of the segment's first byte.
func (s Segment) Start(size Size) LSN { return LSN(s.No * uint64(size)) }

// Next is the following segment on the same timeline.
func (s Segment) Next() Segment { return Segment{s.Timeline, s.No + 1} }

// ParseName reads a segment's file name. It fails for any other name, and for one that cannot occur
// with segments of this size.
func ParseName(name string, size Size) (Segment, error) {
	if Classify(name) != Full {
		return Segment{}, fmt.Errorf("%q is not the name of a WAL segment", name)
	}
	tli, id, n := hex8(name[:8]), hex8(name[8:16]), hex8(name[16:24])
	if n >= size.perID() {
		return Segment{}, fmt.Errorf("%q cannot be a WAL segment of %d bytes: its last part is at most %08X", name, size, size.perID()-1)
	}
	return Segment{Timeline(tli), id*size.perID() + n}, nil
}

// Type is a kind of file that PostgreSQL archives.
type Type uint8

const (
	Invalid Type = iota // PostgreSQL never archives such a name
	Full                // a WAL segment
	Partial             // the last segment of a timeline that ended in a promotion: NAME.partial
	History             // a timeline's history: TTTTTTTT.history
	Backup              // a note on a finished base backup: NAME.OFFSET.backup

	// Received is what of a segment has been received and stored while it was not complete. PostgreSQL has no such
	// file, and Classify never returns it.
	Received
	// Noted is what was found in a segment when it was archived; PostgreSQL has no such file either. See Notes.
	Noted
)

// Classify tells what kind of file a name is, by PostgreSQL's own rules (IsXLogFileName and its
// neighbours in xlog_internal.h): upper-case hexadecimal digits only.
func Classify(name string) Type {
	switch {
	case isHex(name, 24):
		return Full
	case strings.HasSuffix(name, ".history") && isHex(strings.TrimSuffix(name, ".history"), 8):
		return History
	case strings.HasSuffix(name, ".partial") && isHex(strings.TrimSuffix(name, ".partial"), 24):
		return Partial
	case strings.HasSuffix(name, ".backup"):
		seg, off, ok := strings.Cut(strings.TrimSuffix(name, ".backup"), ".")
		if ok && isHex(seg, 24) && isHex(off, 8) {
			return Backup
		}
	}
	return Invalid
}

// TimelineOf is the timeline that any valid name begins with.
func TimelineOf(name string) (Timeline, error) {
	if Classify(name) == Invalid {
		return 0, fmt.Errorf("%q is not a name that PostgreSQL archives", name)
	}
	return Timeline(hex8(name[:8])), nil
}

func isHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for i := range n {
		if c := s[i]; !('0' <= c && c <= '9' || 'A' <= c && c <= 'F') {
			return false
		}
	}
	return true
}

func hex8(s string) uint64 {
	v, _ := strconv.ParseUint(s, 16, 32) // the callers have checked the digits
	return v
}
