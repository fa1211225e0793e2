package segment

import (
	"encoding/binary"
	"io"
)

// LastRecord reads a whole segment and returns where the last record begins that is whole in it: recovery with the target
// recovery_target_lsn needs a record at the target or after it. False when there is none. The error is r's own, or ErrHeader.
func LastRecord(r io.Reader) (last LSN, found bool, err error) {
	return lastRecord(r, func([]byte) bool { return true })
}

// LastChange is LastRecord without the record that ends a segment early (XLOG_SWITCH), which says nothing else.
func LastChange(r io.Reader) (last LSN, found bool, err error) {
	return lastRecord(r, func(head []byte) bool { return !isSwitch(head) })
}

func lastRecord(r io.Reader, counts func(head []byte) bool) (last LSN, found bool, err error) {
	records, err := readRecords(r, nil)
	if err != nil {
		return 0, false, err
	}
	for {
		head, ok := records.next()
		if !ok {
			return last, found, records.pages.err
		}
		if _, ok := records.body(); !ok {
			return last, found, records.pages.err
		}
		if counts(head) {
			last, found = records.pages.lsn(records.at), true
		}
	}
}

// End reads a segment of a server that does not run, and returns where its WAL ends as far as recovery would read it: the byte
// after the last record that is whole, has its CRC, and follows the one before (ValidXLogRecord and ReadRecord in xlogreader.c).
// complete says that the segment goes on in the next one, or was ended early (XLOG_SWITCH): end is then the end of the segment. after is the beginning of
// the next segment, in which the last record may end; nil: there is none. 0: no whole record begins in it. The error is r's own, or ErrHeader.
func End(r, after io.Reader) (end LSN, complete bool, err error) {
	if after != nil {
		r = io.MultiReader(r, after)
	}
	records, err := readRecords(r, nil)
	if err != nil {
		return 0, false, err
	}
	p := records.pages
	border := p.head.Address + LSN(p.head.Size)
	for before := LSN(0); ; {
		head, ok := records.next()
		at := p.lsn(records.at)
		if !ok || at >= border || before > 0 && LSN(binary.LittleEndian.Uint64(head[8:])) != before {
			return end, end >= border, p.err
		}
		if _, ok := records.body(); !ok {
			return end, false, p.err
		}
		if isSwitch(head) {
			return border, true, nil
		}
		// The next record begins after the header of a page, if this one ends with the page before.
		before, end = at, min(p.lsn(records.end-8)+8, border)
	}
}
