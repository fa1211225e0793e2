package segment

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
)

const (
	recordHeader = 24 // sizeof(XLogRecord)
	shortHeader  = 24 // SizeOfXLogShortPHD
)

func align8(n int64) int64 { return (n + 7) &^ 7 }

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // made once by the library

// records reads those of a segment, one after the other, and passes over one that goes on in the next segment.
type records struct {
	pages *pages
	in    *bufio.Reader
	head  []byte
	data  []byte
	at    int64 // where the record begins, in what pages yields
	end   int64 // and the next one
	skip  int64 // what has not been read of the bytes between
}

// readRecords begins with the first record that begins in the segment. With the last page of the segment before, it is
// the first one in that: a record that goes on in this segment is whole then. The error is r's own, or of the header.
func readRecords(r io.Reader, before []byte) (*records, error) {
	p := &pages{r: bufio.NewReaderSize(r, 128<<10)}
	if err := p.begin(before); err != nil {
		return nil, err
	}
	return &records{pages: p, in: bufio.NewReaderSize(p, 64<<10), head: make([]byte, recordHeader), end: align8(p.rest), skip: align8(p.rest)}, nil
}

// next is the header of the next record; false where there is no more of the segment, or none that could be one.
func (r *records) next() (head []byte, ok bool) {
	if _, err := r.in.Discard(int(r.skip)); err != nil {
		return nil, false
	}
	if _, err := io.ReadFull(r.in, r.head); err != nil {
		return nil, false
	}
	r.at = r.end
	total := r.total()
	r.skip, r.end = align8(total)-recordHeader, r.at+align8(total)
	return r.head, total >= recordHeader && total <= int64(r.pages.head.Size) // 0: what follows was never written; more: it does not end here
}

func (r *records) total() int64 { return int64(binary.LittleEndian.Uint32(r.head)) }

// isSwitch says whether a record ends its segment early (XLOG_SWITCH).
func isSwitch(head []byte) bool { return head[17] == rmXLOG && head[16]&opMask == 0x40 }

// body is the rest of the record; false if it is not whole.
func (r *records) body() ([]byte, bool) {
	size := r.total() - recordHeader
	r.data = append(r.data[:0], make([]byte, size)...)
	if _, err := io.ReadFull(r.in, r.data); err != nil {
		return nil, false
	}
	r.skip -= size
	crc := crc32.Update(crc32.Checksum(r.data, castagnoli()), castagnoli(), r.head[:20])
	return r.data, crc == binary.LittleEndian.Uint32(r.head[20:])
}

// mainData is what a record without blocks has to say, at its end (XLogRecordAssemble).
func mainData(body []byte) []byte {
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
		if size > len(body) {
			return nil
		}
		return body[len(body)-size:]
	}
	return nil
}

// pages yields what is in the pages of a segment, without their headers, up to the first page that is not valid.
type pages struct {
	r     *bufio.Reader
	head  Header
	at    LSN   // of the current page
	left  int   // of it
	rest  int64 // of a record that began before
	ended bool

	before bool // they begin with the last one of the segment before
	err    error
}

// begin reads the segment's header. The pages begin with the last one of the segment before, where a record goes on in
// this one and that page is given.
func (p *pages) begin(before []byte) error {
	first, err := p.r.Peek(HeaderSize)
	if err != nil {
		_ = p.fail(err)
		return p.err
	}
	if p.head, err = ParseHeader(first); err != nil {
		return err
	}
	rest := func(page []byte) int64 { return int64(binary.LittleEndian.Uint32(page[16:])) }
	p.at, p.rest = p.head.Address-LSN(p.head.PageSize), rest(first)
	// Where nothing goes on in this segment, the one before may have ended early, and the records in its last page with it.
	if p.rest > 0 && len(before) == int(p.head.PageSize) && p.isPage(before, p.at) {
		p.at, p.rest, p.before = p.at-LSN(p.head.PageSize), rest(before), true
		p.r = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(before), p.r), 128<<10)
	}
	return nil
}

// isPage says whether this is the header of the page at an LSN.
func (p *pages) isPage(head []byte, at LSN) bool {
	return isPage(head, p.head.Magic, at)
}

// lsn is the place of a byte that Read yields.
func (p *pages) lsn(at int64) LSN {
	page := int64(p.head.PageSize)
	if p.before {
		if at < page-shortHeader {
			return p.head.Address - LSN(page-shortHeader-at)
		}
		at -= page - shortHeader
	}
	if at < page-HeaderSize {
		return p.head.Address + LSN(HeaderSize+at)
	}
	at -= page - HeaderSize
	return p.head.Address + LSN(page+at/(page-shortHeader)*page+shortHeader+at%(page-shortHeader))
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
		head, err := p.r.Peek(shortHeader)
		if err != nil {
			return 0, p.fail(err)
		}
		if !p.isPage(head, p.at) {
			return 0, p.fail(io.EOF)
		}
		size := shortHeader
		if (p.at-p.head.Address)%LSN(p.head.Size) == 0 {
			size = HeaderSize
		}
		if _, err := p.r.Discard(size); err != nil {
			return 0, p.fail(err)
		}
		p.left = int(p.head.PageSize) - size
	}
	n, err := p.r.Read(b[:min(len(b), p.left)])
	p.left -= n
	if err != nil {
		return n, p.fail(err)
	}
	return n, nil
}
