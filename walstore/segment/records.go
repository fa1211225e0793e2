package segment

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"iter"
)

const (
	recordHeader = 24 // sizeof(XLogRecord)
	shortHeader  = 24 // SizeOfXLogShortPHD
	opMask       = 0xF0

	rmXLOG, rmXact, rmStorage, rmDatabase, rmTablespace = 0, 1, 2, 4, 5
)

func align8[T ~int | ~int64 | ~uint64](n T) T { return (n + 7) &^ 7 }

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // made once by the library

// Record is a record of the WAL, as much of it as there is. Its bytes are valid until the walk yields the next one.
type Record struct {
	At   LSN // where it begins
	End  LSN // the byte after it, where the next one may begin or a page ends; 0 where it is not whole
	data []byte
}

func (r Record) total() int { return int(binary.LittleEndian.Uint32(r.data)) }

func (r Record) previous() LSN { return LSN(binary.LittleEndian.Uint64(r.data[8:])) }

func (r Record) is(rm, op byte) bool { return r.data[17] == rm && r.data[16]&opMask == op }

// isSwitch says whether a record ends its segment early (XLOG_SWITCH).
func (r Record) isSwitch() bool { return r.is(rmXLOG, 0x40) }

func (r Record) body() []byte { return r.data[recordHeader:] }

// sound says whether the record is whole and has its CRC (ValidXLogRecord in xlogreader.c).
func (r Record) sound() bool { return r.End > 0 && soundRecord(r.data) }

func soundRecord(r []byte) bool {
	crc := crc32.Update(crc32.Checksum(r[recordHeader:], castagnoli()), castagnoli(), r[:20])
	return crc == binary.LittleEndian.Uint32(r[20:])
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

// walk goes over the pages of a segment, one after the other, and yields the records that begin in it.
type walk struct {
	head  Header
	at    LSN                                // of the next page
	next  LSN                                // where the next record begins
	ended bool                               // what follows is no WAL, or in the next segment
	keep  func(begin []byte, total int) bool // whether a record is put together that goes on in the next page
	open  Record                             // that record; it has no data when there is none
	room  []byte                             // for its data
	tail  []byte                             // the end of the record that the segment begins with, if that is short
}

func (w *walk) border() LSN { return w.head.Address + LSN(w.head.Size) }

func (w *walk) headerOf(page LSN) int {
	if page%LSN(w.head.Size) == 0 {
		return HeaderSize
	}
	return shortHeader
}

func (w *walk) isPage(p []byte, at LSN) bool {
	return len(p) >= HeaderSize && binary.LittleEndian.Uint16(p) == w.head.Magic && LSN(binary.LittleEndian.Uint64(p[8:])) == at
}

// page yields the records that end in a page, false when no more are wanted. Where its first record begins the page says itself, so
// one that a crash has cut and recovery passes over (XLP_FIRST_IS_OVERWRITE_CONTRECORD) does not matter.
func (w *walk) page(p []byte, yield func(Record) bool) bool {
	if !w.isPage(p, w.at) {
		w.ended = true
		return true
	}
	const overwritten = 0x0008
	size, rest := w.headerOf(w.at), int(binary.LittleEndian.Uint32(p[16:]))
	data, at := p[size:], w.at+LSN(size)
	if w.open.data == nil && size == HeaderSize && rest <= min(maxNoted, len(data)) {
		w.tail = bytes.Clone(data[:rest])
	}
	if w.open.data != nil && !w.goOn(data, rest, at, p[2]&overwritten != 0, yield) {
		return false
	}
	w.at += LSN(w.head.PageSize)
	w.next = w.at + LSN(w.headerOf(w.at))
	return w.records(data, align8(rest), at, yield)
}

// goOn adds to the record that began in a page before.
func (w *walk) goOn(data []byte, rest int, at LSN, overwritten bool, yield func(Record) bool) bool {
	r, missing := w.open, w.open.total()-len(w.open.data)
	w.open = Record{}
	if align8(rest) != align8(missing) {
		return overwritten || yield(r)
	}
	r.data = append(r.data, data[:min(missing, len(data))]...)
	w.room = r.data
	if missing > len(data) {
		w.open = r
		return true
	}
	r.End = at + LSN(align8(missing))
	return yield(r)
}

// records yields those that begin in a page's data from i on.
func (w *walk) records(data []byte, i int, at LSN, yield func(Record) bool) bool {
	for i+8 <= len(data) {
		r := Record{At: at + LSN(i), data: data[i:]}
		total := r.total()
		if w.next = r.At; total < recordHeader || r.At >= w.border() { // 0: it was never written
			w.ended = true
			return true
		}
		w.next = w.at + LSN(w.headerOf(w.at))
		switch i += align8(total); {
		case total <= len(r.data):
			if r.data, r.End = r.data[:total], at+LSN(i); i < len(data) {
				w.next = r.End
			}
		case w.keep(r.data, total):
			r.data = append(w.room[:0], r.data...)
			w.open = r
			return true
		}
		if !yield(r) {
			return false
		}
	}
	return true
}

// Scan is one walk over a segment, that answers what is asked about its records.
type Scan struct {
	walk
	in  *bufio.Reader
	err error // of the reader
}

// NewScan reads the header of a segment. before is the last page of the segment before: with it the walk begins there, where a
// record goes on in this segment. after is the beginning of the next segment, in which the last record may end. Both may be nil.
// The error is r's own, or ErrHeader.
func NewScan(r io.Reader, before []byte, after io.Reader) (*Scan, error) {
	if after != nil {
		r = io.MultiReader(r, after)
	}
	s := &Scan{in: bufio.NewReaderSize(r, 128<<10)}
	first, err := s.in.Peek(HeaderSize)
	if err != nil && !ends(err) {
		return nil, err
	}
	if s.head, err = ParseHeader(first); err != nil {
		return nil, err
	}
	s.at, s.keep = s.head.Address, func(_ []byte, total int) bool { return total <= int(s.head.Size) } // more does not end in the next segment either
	// Where nothing goes on in this segment, the one before may have ended early, and the records in its last page with it.
	page := LSN(s.head.PageSize)
	if binary.LittleEndian.Uint32(first[16:]) > 0 && LSN(len(before)) == page && s.isPage(before, s.at-page) {
		s.at -= page
		s.in = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(before), s.in), 128<<10)
	}
	return s, nil
}

func ends(err error) bool { return err == io.EOF || err == io.ErrUnexpectedEOF }

// Records yields the records that begin in the segment, in order, up to the first page that is not valid; whether they are sound is
// not checked. An error of the reader ends them, and is in err then.
func (s *Scan) Records() iter.Seq[Record] {
	return func(yield func(Record) bool) {
		for !s.ended && (s.at < s.border() || s.open.data != nil) {
			page, err := s.in.Peek(int(s.head.PageSize))
			if err != nil && !ends(err) {
				s.err = err
				return
			}
			if !s.page(page, yield) {
				return
			}
			_, _ = s.in.Discard(len(page))
			s.ended = s.ended || err != nil
		}
		if s.open.data != nil {
			yield(s.open)
		}
	}
}

// Sound yields the records that recovery would read: up to the first one that is not sound.
func (s *Scan) Sound() iter.Seq[Record] {
	return func(yield func(Record) bool) {
		for r := range s.Records() {
			if !r.sound() || !yield(r) {
				return
			}
		}
	}
}
