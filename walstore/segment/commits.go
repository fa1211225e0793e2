package segment

import (
	"io"
)

// LastRecord reads a whole segment and returns where the last record begins that is whole in it: recovery with the target
// recovery_target_lsn needs a record at the target or behind it. False when there is none. The error is r's own, or ErrHeader.
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
