package segment

import (
	"encoding/binary"
	"errors"
	"io"
	"time"
)

// LastCommit reads a whole segment and returns the time of the last transaction in it that committed or
// aborted, by the server's clock: what recovery_target_time is compared with (xactdesc.h, getRecordTimestamp in
// xlogrecovery.c; the same from 9.5 to 18). False when there is none. It stops, without an error, where the WAL stops
// being valid, and passes over a record that goes on in the next segment. The error is r's own.
func LastCommit(r io.Reader) (last time.Time, found bool, err error) {
	records, err := readRecords(r, nil)
	if errors.Is(err, ErrHeader) { // no WAL has no records
		return last, false, nil
	}
	if err != nil {
		return last, false, err
	}
	for {
		head, ok := records.next()
		if !ok {
			return last, found, records.pages.err
		}
		body, ok := records.body()
		if !ok {
			return last, found, records.pages.err
		}
		if at, ok := endOfTransaction(head, body); ok {
			last, found = at, true
		}
	}
}

// LastRecord reads a whole segment and returns where the last record begins that is whole in it: recovery with the target
// recovery_target_lsn needs a record at the target or behind it. False when there is none. The error is r's own, or ErrHeader.
func LastRecord(r io.Reader) (last LSN, found bool, err error) {
	return lastRecord(r, func([]byte) bool { return true })
}

// LastChange is LastRecord without the record that ends a segment early (XLOG_SWITCH), which says nothing else.
func LastChange(r io.Reader) (last LSN, found bool, err error) {
	const rmXLOG, opMask, opSwitch = 0, 0xF0, 0x40
	return lastRecord(r, func(head []byte) bool { return head[17] != rmXLOG || head[16]&opMask != opSwitch })
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

// endOfTransaction is the time in a commit or abort record. Its main data begins with it.
func endOfTransaction(head, body []byte) (time.Time, bool) {
	const rmXact, opMask = 1, 0x70
	op := head[16] & opMask
	if head[17] != rmXact || op != 0x00 && op != 0x20 && op != 0x30 && op != 0x40 { // (abort | commit) [prepared]
		return time.Time{}, false
	}
	data := mainData(body)
	if len(data) < 8 {
		return time.Time{}, false
	}
	micros := int64(binary.LittleEndian.Uint64(data))
	return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(micros/1e6) * time.Second).Add(time.Duration(micros%1e6) * time.Microsecond), true
}
