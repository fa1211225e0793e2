package segment

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Changes reads a whole segment and yields the database (its OID) whose files a record changes, and where that begins, of the
// records before until. Hint bits alone do not count. after is the beginning of the next segment, in which the last record may
// end. An error, ErrHeader too, says that not all of these records could be read.
func Changes(r, after io.Reader, until LSN, each func(database uint32, at LSN)) error {
	s, err := NewScan(r, nil, after)
	if err != nil {
		return err
	}
	unread, ended := func(at LSN) error { return fmt.Errorf("%w: the record at %s cannot be read", ErrHeader, at) }, false
	for r := range s.Records() {
		if r.At >= until {
			return nil
		}
		if !r.sound() {
			return unread(r.At)
		}
		if db, ok := changedDatabase(r, s.head.Version()); ok {
			each(db, r.At)
		}
		ended = r.isSwitch()
	}
	if s.err == nil && !ended && s.next < min(until, s.border()) {
		return unread(s.next)
	}
	return s.err
}

// changedDatabase is that of the first block which a record refers to (DecodeXLogRecord in xlogreader.c): all are in one
// database. Records of the storage manager name a relation without a block (storage_xlog.h).
func changedDatabase(r Record, major int) (uint32, bool) {
	const create, truncate, hint = 0x10, 0x20, 0xA0
	body := r.body()
	at, data := 4, body
	switch {
	case r.is(rmXLOG, hint):
		return 0, false
	case r.is(rmStorage, create):
		data = mainData(body)
	case r.is(rmStorage, truncate):
		at, data = 8, mainData(body)
	default:
		const maxBlockID, hasImage = 32, 0x10
		if len(body) < 9 || body[0] > maxBlockID {
			return 0, false
		}
		at = 4 + 4
		if body[1]&hasImage != 0 {
			if at += 5; squeezed(body[8], major) {
				at += 2
			}
		}
	}
	if len(data) < at+4 {
		return 0, false
	}
	return binary.LittleEndian.Uint32(data[at:]), true
}

// squeezed says whether a page's image has a gap and is compressed: then the gap's length stands there, too.
func squeezed(info byte, major int) bool {
	const hasGap, compressed, compressedFrom15 = 0x01, 0x02, 0x04 | 0x08 | 0x10
	if major != 0 && major < 15 {
		return info&hasGap != 0 && info&compressed != 0
	}
	return info&hasGap != 0 && info&compressedFrom15 != 0
}
