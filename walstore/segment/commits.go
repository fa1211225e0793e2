package segment

import (
	"bufio"
	"encoding/binary"
	"hash/crc32"
	"io"
	"time"
)

// LastCommit reads a whole segment and returns the time of the last transaction in it that committed or
// aborted, by the server's clock: what recovery_target_time is compared with (xactdesc.h, getRecordTimestamp in
// xlogrecovery.c; the same from 9.5 to 18). False when there is none. It stops, without an error, where the WAL stops
// being valid, and passes over a record that goes on in the next segment. The error is r's own.
func LastCommit(r io.Reader) (last time.Time, found bool, err error) {
	src := &pages{r: bufio.NewReaderSize(r, 128<<10)}
	if err := src.begin(); err != nil {
		return last, false, src.err
	}
	records := bufio.NewReaderSize(src, 64<<10)
	if _, err := records.Discard(int(align8(src.rest))); err != nil {
		return last, false, src.err
	}
	head := make([]byte, recordHeader)
	var body []byte
	for {
		if _, err := io.ReadFull(records, head); err != nil {
			return last, found, src.err
		}
		total := int64(binary.LittleEndian.Uint32(head))
		if total < recordHeader || total > int64(src.head.Size) { // 0: what follows was never written; more: it does not end here
			return last, found, nil
		}
		body = append(body[:0], make([]byte, total-recordHeader)...)
		if _, err := io.ReadFull(records, body); err != nil {
			return last, found, src.err
		}
		crc := crc32.Update(crc32.Checksum(body, castagnoli()), castagnoli(), head[:20])
		if crc != binary.LittleEndian.Uint32(head[20:]) {
			return last, found, nil
		}
		if at, ok := endOfTransaction(head, body); ok {
			last, found = at, true
		}
		if _, err := records.Discard(int(align8(total) - total)); err != nil {
			return last, found, src.err
		}
	}
}

const recordHeader = 24 // sizeof(XLogRecord)

func align8(n int64) int64 { return (n + 7) &^ 7 }

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // made once by the library

// endOfTransaction is the time in a commit or abort record. Its main data, at the record's end, begins with it.
func endOfTransaction(head, body []byte) (time.Time, bool) {
	const rmXact, opMask = 1, 0x70
	op := head[16] & opMask
	if head[17] != rmXact || op != 0x00 && op != 0x20 && op != 0x30 && op != 0x40 { // (abort | commit) [prepared]
		return time.Time{}, false
	}
	for i := 0; i < len(body); {
		size := 0
		switch body[i] {
		case 253: // replication origin
			i += 1 + 2
			continue
		case 252: // top-level transaction
			i += 1 + 4
			continue
		case 255:
			if i+2 <= len(body) {
				size = int(body[i+1])
			}
		case 254:
			if i+5 <= len(body) {
				size = int(binary.LittleEndian.Uint32(body[i+1:]))
			}
		}
		if size < 8 || size > len(body) {
			break
		}
		micros := int64(binary.LittleEndian.Uint64(body[len(body)-size:]))
		return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(micros/1e6) * time.Second).Add(time.Duration(micros%1e6) * time.Microsecond), true
	}
	return time.Time{}, false
}

// pages yields what is in the pages of a segment, without their headers, up to the first page that is not valid.
type pages struct {
	r     *bufio.Reader
	head  Header
	at    LSN
	left  int   // of the current page
	rest  int64 // of a record that began in the segment before
	ended bool
	err   error
}

func (p *pages) begin() error {
	first, err := p.r.Peek(HeaderSize)
	if err != nil {
		return p.fail(err)
	}
	if p.head, err = ParseHeader(first); err != nil {
		return err
	}
	p.rest, p.at = int64(binary.LittleEndian.Uint32(first[16:])), p.head.Address
	p.left = int(p.head.PageSize) - HeaderSize
	_, err = p.r.Discard(HeaderSize)
	return err
}

// fail remembers an error that is not just the end.
func (p *pages) fail(err error) error {
	p.ended = true
	if err != io.EOF && err != io.ErrUnexpectedEOF {
		p.err = err
	}
	return io.EOF
}

func (p *pages) Read(b []byte) (int, error) {
	if p.ended {
		return 0, io.EOF
	}
	if p.left == 0 {
		p.at += LSN(p.head.PageSize)
		head, err := p.r.Peek(recordHeader) // a short page header has 24 bytes, too
		if err != nil {
			return 0, p.fail(err)
		}
		if binary.LittleEndian.Uint16(head) != p.head.Magic || LSN(binary.LittleEndian.Uint64(head[8:])) != p.at {
			return 0, p.fail(io.EOF)
		}
		_, _ = p.r.Discard(recordHeader) // it has been peeked at
		p.left = int(p.head.PageSize) - recordHeader
	}
	n, err := p.r.Read(b[:min(len(b), p.left)])
	p.left -= n
	if err != nil {
		return n, p.fail(err)
	}
	return n, nil
}
