package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"testing"
	"testing/iotest"
)

// creates is the record of a CREATE TABLESPACE.
func creates(oid uint32, location string) []byte {
	data := binary.LittleEndian.AppendUint32(nil, oid)
	return record(5, 0, append(append(data, location...), 0))
}

// fill is a stream of so many bytes.
func fill(size int) (stream []byte) {
	for size-len(stream) >= 400 {
		stream = append(stream, record(10, 0, make([]byte, 200))...)
	}
	for size-len(stream) > 0 { // the smallest one has 32 bytes, and they come in steps of 8
		n := size - len(stream)
		if n > 200 {
			n = (n / 2) &^ 7
		}
		stream = append(stream, record(10, 0, make([]byte, n-31))...)
	}
	return stream
}

// follows makes a segment the one after that of segmentOf.
func follows(b []byte) []byte {
	for at := 0; at < len(b); at += 8192 {
		if page := b[at:]; binary.LittleEndian.Uint16(page) != 0 {
			binary.LittleEndian.PutUint64(page[8:], binary.LittleEndian.Uint64(page[8:])+1<<20)
		}
	}
	return b
}

func TestNewTablespaces(t *testing.T) {
	want := []NewTablespace{{16384, "/srv/a b"}, {16385, ""}}
	for _, before := range []int{0, 8192 - 40 - 24, 8192 - 40 - 16, 8192 - 40 - 8, 100000} { // the record's header crosses the page, too
		stream := append(fill(before), creates(16384, "/srv/a b")...)
		stream = append(stream, record(5, 0x10, []byte{1, 2, 3, 4})...) // a drop
		broken := creates(16386, "/srv/broken")
		broken[40] ^= 1
		stream = append(append(stream, broken...), creates(16385, "")...)
		for _, rest := range []int{0, 13, 9000} {
			got, err := NewTablespaces(iotest.HalfReader(bytes.NewReader(segmentOf(rest, stream))), nil, 0)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("after %d bytes, rest %d: %v %v", before, rest, got, err)
			}
		}
	}
	ended := segmentOf(0, fill(1<<20-40-127*24))
	clear(ended[len(ended)-8192+24:]) // by a switch, as up to 10: the pages after it have headers
	second := follows(segmentOf(0, append(creates(16384, "/srv/a b"), creates(16385, "")...)))
	if got, err := NewTablespaces(bytes.NewReader(second), ended[len(ended)-8192:], 0); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("after a segment that ended early: %v %v", got, err)
	}
	trouble := errors.New("trouble")
	if _, err := NewTablespaces(iotest.ErrReader(trouble), nil, 0); !errors.Is(err, trouble) {
		t.Error(err)
	}
}

// A record that begins in one segment is replayed with the next one.
func TestNewTablespaceAcrossSegments(t *testing.T) {
	room := 1<<20 - 40 - 127*24
	made := creates(16384, "/srv/across")
	for in := 8; in < len(made); in += 8 { // of it, in the first segment
		stream := append(fill(room-in), made...)
		first := segmentOf(0, stream[:room])
		rest := binary.LittleEndian.Uint32(made) - uint32(in)
		second := follows(segmentOf(0, append(bytes.Clone(stream[room:]), creates(16385, "/srv/second")...)))
		binary.LittleEndian.PutUint32(second[16:], rest)
		if got, err := NewTablespaces(bytes.NewReader(first), nil, 0); err != nil || got != nil {
			t.Errorf("%d bytes of it: %v %v", in, got, err)
		}
		got, err := NewTablespaces(bytes.NewReader(second), first[len(first)-8192:], 0)
		if want := []NewTablespace{{16384, "/srv/across"}, {16385, "/srv/second"}}; err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%d bytes of it in the segment before: %v %v", in, got, err)
		}
		begin := LSN(6<<20 - in)
		for from, want := range map[LSN]int{begin: 2, begin + 8: 1, 6<<20 + 40: 1, 7 << 20: 0} {
			if got, err := NewTablespaces(bytes.NewReader(second), first[len(first)-8192:], from); err != nil || len(got) != want {
				t.Errorf("%d bytes of it in the segment before, from %s: %v %v", in, from, got, err)
			}
		}
		got, err = NewTablespaces(bytes.NewReader(second), second[:8192], 0) // which is not the page before
		if want := []NewTablespace{{16385, "/srv/second"}}; err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("without the segment before: %v %v", got, err)
		}
	}
}

func FuzzNewTablespaces(f *testing.F) {
	f.Add(segmentOf(13, creates(16384, "/srv"))[:16384], make([]byte, 8192))
	f.Fuzz(func(t *testing.T, data, before []byte) {
		if _, err := NewTablespaces(bytes.NewReader(data), before, 0); err != nil && !errors.Is(err, ErrHeader) {
			t.Error(err)
		}
	})
}

func BenchmarkNewTablespaces(b *testing.B) {
	data := segmentOf(0, fill(1<<20-40-127*24))
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := NewTablespaces(bytes.NewReader(data), nil, 0); err != nil {
			b.Fatal(err)
		}
	}
}
