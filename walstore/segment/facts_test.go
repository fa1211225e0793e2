package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"slices"
	"testing"
	"testing/iotest"
	"time"
)

// record is a WAL record with main data only, as XLogRecordAssemble makes it.
func record(rmid, info byte, data []byte) []byte {
	b := make([]byte, 24, 64+len(data))
	b = append(b, 252, 1, 2, 3, 4, 255, byte(len(data)))
	b = append(b, data...)
	binary.LittleEndian.PutUint32(b, uint32(len(b)))
	b[16], b[17] = info, rmid
	crc := crc32.Update(crc32.Checksum(b[24:], castagnoli()), castagnoli(), b[:20])
	binary.LittleEndian.PutUint32(b[20:], crc)
	return append(b, make([]byte, align8(int64(len(b)))-int64(len(b)))...)
}

// segmentOf lays a stream of records out in pages of 8 kB, after rest bytes of an earlier record.
func segmentOf(rest int, stream []byte) []byte {
	begin := int(align8(int64(rest))) // of the next record that does not begin before a page
	records := stream
	stream = append(bytes.Repeat([]byte{0xEE}, begin), stream...)
	laid := 0 // bytes of the stream
	out := make([]byte, 0, 1<<20)
	le := binary.LittleEndian
	for at := 0; at < 1<<20 && len(stream) > 0; at += 8192 {
		page := make([]byte, 8192)
		le.PutUint16(page, 0xD110)
		le.PutUint32(page[4:], 1)
		le.PutUint64(page[8:], uint64(5<<20+at))
		for begin < laid && len(records) >= 4 {
			size := int(align8(int64(le.Uint32(records))))
			begin, records = begin+size, records[min(size, len(records)):]
		}
		head := 24
		le.PutUint32(page[16:], uint32(max(0, begin-laid)))
		if at == 0 {
			head = 40
			le.PutUint16(page[2:], 2)
			le.PutUint32(page[16:], uint32(rest))
			le.PutUint64(page[24:], 99)
			le.PutUint32(page[32:], 1<<20)
			le.PutUint32(page[36:], 8192)
		}
		n := copy(page[head:], stream)
		stream, laid = stream[n:], laid+n
		out = append(out, page...)
	}
	return append(out, make([]byte, 1<<20-len(out))...)
}

func at(t time.Time) []byte {
	b := make([]byte, 20)
	binary.LittleEndian.PutUint64(b, uint64(t.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Microseconds()))
	return b
}

func lastCommit(r io.Reader) (last time.Time, found bool, err error) {
	f, err := ReadFacts(r)
	last, found = f.LastCommit(0)
	return last, found, err
}

func TestLastCommit(t *testing.T) {
	first := time.Date(2026, 11, 21, 1, 45, 0, 123456000, time.UTC)
	last := first.Add(time.Hour)
	var stream []byte
	for range 2000 { // over many pages
		stream = append(stream, record(10, 0, make([]byte, 200))...)
	}
	stream = append(stream, record(1, 0x80, at(first))...)
	stream = append(stream, record(1, 0x20, at(last))...)                // an abort counts
	stream = append(stream, record(1, 0x10, at(last.Add(time.Hour)))...) // a prepare does not
	for _, rest := range []int{0, 13, 9000} {
		got, found, err := lastCommit(iotest.HalfReader(bytes.NewReader(segmentOf(rest, stream))))
		if err != nil || !found || !got.Equal(last) {
			t.Errorf("rest %d: %v %v %v", rest, got, found, err)
		}
	}
	broken := bytes.Clone(stream)
	broken[len(broken)-100] ^= 1 // in the abort's record
	if got, found, err := lastCommit(bytes.NewReader(segmentOf(0, broken))); err != nil || !found || !got.Equal(first) {
		t.Errorf("broken: %v %v %v", got, found, err)
	}
	if _, found, err := lastCommit(bytes.NewReader(segmentOf(0, nil))); err != nil || found {
		t.Errorf("empty: %v %v", found, err)
	}
	trouble := errors.New("trouble")
	if _, _, err := lastCommit(iotest.ErrReader(trouble)); !errors.Is(err, trouble) {
		t.Error(err)
	}
}

func TestLastRecord(t *testing.T) {
	for _, before := range []int{0, 160, 8192 - 40, 8192 - 40 + 8192 - 24, 100000} {
		for _, rest := range []int{0, 13, 9000} {
			data := segmentOf(rest, append(append(fill(before), record(1, 0x20, at(time.Now()))...), record(1, 0x20, at(time.Now()))[:40]...))
			got, err := ReadFacts(bytes.NewReader(data))
			begin := data[got.LastRecord-5<<20:]
			if err != nil || begin[17] != 1 || binary.LittleEndian.Uint32(begin) != 51 {
				t.Errorf("after %d bytes, rest %d: %s %v", before, rest, got.LastRecord, err)
			}
		}
	}
	if got, err := ReadFacts(bytes.NewReader(segmentOf(2<<20, nil))); err != nil || got.LastRecord != 0 {
		t.Errorf("no record begins in it: %s %v", got.LastRecord, err)
	}
}

// Restore points and transactions, also a prepared one's, and a record that ends in the next segment.
func TestMarks(t *testing.T) {
	when := time.Date(2026, 11, 21, 1, 45, 0, 0, time.UTC)
	stream := fill(160)
	stream = append(stream, record(0, 0x70, append(at(when)[:8], "before_release\x00junk"...))...)
	stream = append(stream, record(1, 0x80, at(when))...)
	prepared := append(at(when)[:8], 1|2|4|8|16, 1, 0, 0) // xinfo
	prepared = append(prepared, make([]byte, 8)...)       // dbinfo
	for _, size := range []int{4, 12, 12, 16} {
		prepared = append(append(prepared, 1, 0, 0, 0), make([]byte, size)...)
	}
	stream = append(stream, record(1, 0xB0, append(prepared, 77, 0, 0, 0))...)
	const room = 1<<20 - 40 - (1<<20/8192-1)*24
	stream = append(stream, fill(room-40-len(stream))...)
	torn := record(0, 0x70, append(at(when)[:8], "torn\x00"...))
	data, next := segmentOf(0, append(stream, torn...)), segmentOf(4, nil)[:8192]
	binary.LittleEndian.PutUint64(next[8:], 6<<20)
	copy(next[40:], torn[40:])
	for _, after := range []io.Reader{nil, bytes.NewReader(next)} {
		var got []Mark
		if err := Marks(bytes.NewReader(data), after, func(m Mark) { got = append(got, m) }); err != nil {
			t.Fatal(err)
		}
		want := []Mark{{At: 5<<20 + 40 + 160, Time: when, Point: true, Name: "before_release"}, {Time: when}, {Time: when, XID: 77}}
		if after != nil {
			want = append(want, Mark{At: 6<<20 - 40, Time: when, Point: true, Name: "torn"})
		}
		if len(got) != len(want) {
			t.Fatalf("%+v, want %+v", got, want)
		}
		for i, m := range got {
			if want[i].At == 0 {
				m.At = 0
			}
			if m != want[i] {
				t.Errorf("%+v, want %+v", m, want[i])
			}
		}
	}
}

func TestLastChange(t *testing.T) {
	commit := record(1, 0x20, at(time.Now()))
	last := func(data []byte) LSN {
		got, err := ReadFacts(bytes.NewReader(data))
		if err != nil || got.LastChange == 0 {
			t.Errorf("%s %v", got.LastChange, err)
		}
		return got.LastChange
	}
	alone := last(segmentOf(0, slices.Concat(fill(160), commit)))
	if got := last(segmentOf(0, slices.Concat(fill(160), commit, record(0, 0x40, nil)))); got != alone {
		t.Errorf("with a switch after it the last change is at %s, without it is at %s", got, alone)
	}
	if got := last(segmentOf(0, slices.Concat(fill(160), commit, record(0, 0x10, nil)))); got <= alone {
		t.Errorf("a checkpoint after it does not count: %s, %s", got, alone)
	}
}

func FuzzMarks(f *testing.F) {
	f.Add(segmentOf(13, record(1, 0, at(time.Unix(1e9, 0))))[:16384])
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, _, err := lastCommit(bytes.NewReader(data)); err != nil {
			t.Error(err)
		}
		if err := Marks(bytes.NewReader(data), nil, func(Mark) {}); err != nil {
			t.Error(err)
		}
	})
}
