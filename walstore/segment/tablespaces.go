package segment

import (
	"bytes"
	"encoding/binary"
	"io"
)

// NewTablespace is a tablespace that a CREATE TABLESPACE in the WAL makes.
type NewTablespace struct {
	OID      uint32
	Location string // empty: in the data directory itself
}

// NewTablespaces reads a segment and returns the tablespaces that replaying it from an LSN on makes (xl_tblspc_create_rec in
// tablespace.h; the same from 10 to 18). before is the last page of the segment before, in which one of the records may
// begin; nil where nothing from before is replayed. What follows the end of the WAL in a segment is looked at too, as
// PostgreSQL alone knows that end. The error is r's own, or ErrHeader.
func NewTablespaces(r io.Reader, before []byte, from LSN) (all []NewTablespace, err error) {
	s, err := NewScan(r, before, nil)
	if err != nil {
		return nil, err
	}
	const create = 0x00
	for r := range s.Records() {
		if r.At < from || r.End == 0 || !r.is(rmTablespace, create) || !r.sound() {
			continue
		}
		if data := mainData(r.body()); len(data) > 4 {
			location, _, _ := bytes.Cut(data[4:], []byte{0})
			all = append(all, NewTablespace{binary.LittleEndian.Uint32(data), string(location)})
		}
	}
	return all, s.err
}
