package segment

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"slices"
	"testing"
)

// place is the LSN of a byte of the stream in segmentOf, which begins at 5 MiB.
func place(at int) LSN {
	if at < 8192-40 {
		return LSN(5<<20 + 40 + at)
	}
	at -= 8192 - 40
	return LSN(5<<20 + 8192 + at/(8192-24)*8192 + 24 + at%(8192-24))
}

// chain lets each record of a stream name the one before, as WAL does.
func chain(stream []byte) []byte {
	stream = bytes.Clone(stream)
	before := LSN(0)
	for at := 0; at < len(stream); {
		size := int(align8(int64(binary.LittleEndian.Uint32(stream[at:]))))
		r := stream[at : at+int(binary.LittleEndian.Uint32(stream[at:]))]
		binary.LittleEndian.PutUint64(r[8:], uint64(before))
		crc := crc32.Update(crc32.Checksum(r[24:], castagnoli()), castagnoli(), r[:20])
		binary.LittleEndian.PutUint32(r[20:], crc)
		before, at = place(at), at+size
	}
	return stream
}

// TestEnd: the WAL of a segment ends with the last record that recovery would read, whatever stands after it.
func TestEnd(t *testing.T) {
	const room = 1<<20 - 40 - (1<<20/8192-1)*24
	commit := record(1, 0x20, bytes.Repeat([]byte{7}, 20))
	some := chain(append(fill(20_000), commit...))
	page := chain(fill(8192 - 40)) // it ends with a page
	torn := chain(append(fill(room-40), commit...))
	next := segmentOf(len(commit)-40, nil)[:8192]
	binary.LittleEndian.PutUint64(next[8:], 6<<20)
	copy(next[40:], torn[room:])
	broken := bytes.Clone(some)
	broken[len(some)-30] ^= 1
	for name, c := range map[string]struct {
		stream, next []byte
		end          LSN
		complete     bool
	}{
		"with zeros after it":               {stream: some, end: place(len(some)-1) + 1},
		"an old record after it":            {stream: append(bytes.Clone(some), commit...), end: place(len(some)-1) + 1},
		"at the end of a page":              {stream: page, end: 5<<20 + 8192},
		"the last record damaged":           {stream: broken, end: place(20_000-1) + 1},
		"ended early":                       {stream: chain(slices.Concat(fill(160), record(0, 0x40, nil))), end: 6 << 20, complete: true},
		"full":                              {stream: chain(fill(room)), end: 6 << 20, complete: true},
		"its last record ends in the next":  {stream: torn, next: next, end: 6 << 20, complete: true},
		"its last record ends nowhere":      {stream: torn, end: place(room-40-1) + 1},
		"its last record ends in a bad one": {stream: torn, next: append(bytes.Clone(next[:40]), make([]byte, 8000)...), end: place(room-40-1) + 1},
		"nothing":                           {},
	} {
		var after *bytes.Reader
		data := segmentOf(0, c.stream)
		if c.stream == nil {
			data = segmentOf(0, make([]byte, 8))
		}
		end, complete, err := End(bytes.NewReader(data), nil)
		if c.next != nil {
			after = bytes.NewReader(c.next)
			end, complete, err = End(bytes.NewReader(data), after)
		}
		if err != nil || end != c.end || complete != c.complete {
			t.Errorf("%s: it ends at %s, complete: %v, %v; should be %s, %v", name, end, complete, err, c.end, c.complete)
		}
	}
}
