package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"time"
)

// Mark is a record at which recovery can be told to end: the end of a transaction, or a restore point.
type Mark struct {
	At    LSN       // where the record begins
	Time  time.Time // by the server's clock
	XID   uint32    // of the transaction
	Point bool      // it is a restore point
	Name  string    // of that
}

// Marks reads a whole segment and yields its marks (xact.h, xlog_internal.h; the same from 10 to 18, but for preparedXID). It stops, without an error, where the WAL stops being valid. after is the beginning of the next segment, in which the
// last record may end; nil: that one is passed over. The error is r's own.
func Marks(r, after io.Reader, each func(Mark)) error {
	s, err := NewScan(r, nil, after)
	if errors.Is(err, ErrHeader) { // no WAL has no records
		return nil
	}
	if err != nil {
		return err
	}
	for r := range s.Sound() {
		if m, ok := mark(r, s.head.Version()); ok {
			each(m)
		}
	}
	return s.err
}

// mark reads a record, if it is one. The main data of each kind begins with the time.
func mark(r Record, major int) (m Mark, ok bool) {
	const restorePoint, opMask, hasInfo = 0x70, 0x70, 0x80
	op := r.data[16] & opMask
	switch {
	case r.is(rmXLOG, restorePoint):
		m.Point = true
	case r.data[17] != rmXact || op != 0x00 && op != 0x20 && op != 0x30 && op != 0x40: // (commit | abort) [prepared]
		return m, false
	}
	data := mainData(r.body())
	if len(data) < 8 {
		return m, false
	}
	micros := int64(binary.LittleEndian.Uint64(data))
	m.At = r.At
	m.Time = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(micros/1e6) * time.Second).Add(time.Duration(micros%1e6) * time.Microsecond)
	switch data = data[8:]; {
	case m.Point:
		name, _, _ := bytes.Cut(data, []byte{0})
		m.Name = string(name)
	case op == 0x00 || op == 0x20:
		m.XID = binary.LittleEndian.Uint32(r.data[4:])
	case r.data[16]&hasInfo != 0:
		m.XID = preparedXID(data, major)
	}
	return m, true
}

// preparedXID is the transaction that COMMIT PREPARED or ROLLBACK PREPARED ends, from what follows the time in its record
// (ParseCommitRecord in xactdesc.c); 0 when it cannot be found.
func preparedXID(data []byte, major int) uint32 {
	const hasTwophase = 1 << 4
	next := func(n int) []byte {
		if n < 0 || n > len(data) {
			data = nil
			return make([]byte, 4)
		}
		b := data[:n]
		data = data[n:]
		return b
	}
	number := func() uint32 { return binary.LittleEndian.Uint32(next(4)) }
	stats := 12 // xl_xact_stats_item
	if major >= 18 {
		stats = 16
	}
	info := number()
	for _, part := range []struct {
		flag  uint32
		item  int
		fixed bool
	}{{1 << 0, 8, true}, {1 << 1, 4, false}, {1 << 2, 12, false}, {1 << 8, stats, false}, {1 << 3, 16, false}} { // dbinfo, subxacts, relations, stats, invals
		if info&part.flag == 0 {
			continue
		}
		n := uint32(1)
		if !part.fixed {
			n = number()
		}
		next(int(n) * part.item)
	}
	if info&hasTwophase == 0 {
		return 0
	}
	return number()
}
