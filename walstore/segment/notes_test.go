package segment

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"reflect"
	"slices"
	"testing"
)

func words(v ...uint32) (data []byte) {
	for _, w := range v {
		data = binary.LittleEndian.AppendUint32(data, w)
	}
	return data
}

// notesOf writes segments, piece by piece.
func notesOf(t testing.TB, data []byte) Notes {
	t.Helper()
	var n Noter
	for piece := range slices.Chunk(data, 64<<10) {
		if _, err := n.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	return n.Notes()
}

func changeOf(conns, level uint32) []byte {
	return record(0, 0x60, words(conns, 8, 10, 0, 64, level, 1))
}

func TestNotes(t *testing.T) {
	for _, before := range []int{0, 160, 8192 - 40 - 24, 8192 - 40 - 16, 8192 - 40 - 8, 100000} {
		for _, rest := range []int{0, 13, 9000} {
			broken := changeOf(999, 1)
			broken[40] ^= 1
			begin := align8(int64(rest)) + int64(before)
			stream := slices.Concat(fill(before), changeOf(200, 0), broken, record(4, 0x01, words(5, 1663, 1, 1663)), record(4, 0x11, words(6, 1663)),
				record(4, 0x21, words(5, 2, 1663, 16400)), record(4, 0x01, words(1, 2)), record(0, 0x60, words(1, 2)))
			got := notesOf(t, segmentOf(rest, stream))
			want := []Parameters{{WALLevel: "minimal", MaxConnections: 200, MaxWorkerProcesses: 8, MaxWALSenders: 10, MaxLocksPerTransaction: 64}}
			dirs := []DirectoryChange{{Kind: DirectoryCopied, Database: 5, Tablespace: 1663, FromDatabase: 1, FromTablespace: 1663}, {Kind: DirectoryCreated, Database: 6, Tablespace: 1663},
				{Kind: DirectoryDropped, Database: 5, Tablespace: 1663}, {Kind: DirectoryDropped, Database: 5, Tablespace: 16400}}
			if len(got.Parameters) != 1 || len(got.Directories) != 4 || got.Cut != nil {
				t.Fatalf("before %d, rest %d: %+v", before, rest, got)
			}
			if at := got.Parameters[0].At; at != 5<<20+40+LSN(begin)+24*LSN((begin+40-1)/8192) && begin > 0 && begin < 8192-40 {
				t.Errorf("before %d, rest %d: it is at %s", before, rest, at)
			}
			got.Parameters[0].At = 0
			for i := range got.Directories {
				got.Directories[i].At = 0
			}
			if !reflect.DeepEqual(got.Parameters, want) || !reflect.DeepEqual(got.Directories, dirs) {
				t.Errorf("before %d, rest %d: %+v", before, rest, got)
			}
		}
	}
	if got := notesOf(t, []byte("no WAL")); !got.Empty() {
		t.Errorf("%+v", got)
	}
}

// TestNotesAcrossSegments: wherever the border is, exactly one of the two segments has the record, or the first one its beginning.
func TestNotesAcrossSegments(t *testing.T) {
	room := 1<<20 - 40 - 127*24
	for _, made := range [][]byte{changeOf(200, 1), record(4, 0x01, words(5, 1663, 1, 1663)), record(4, 0x21, words(5, 1, 1663))} {
		total := binary.LittleEndian.Uint32(made)
		for in := 8; in < int(total); in += 8 { // of it, in the first segment
			binary.LittleEndian.PutUint64(made[8:], 5<<20+1000) // the record before
			le := binary.LittleEndian
			le.PutUint32(made[20:], crcOf(made[:total]))
			stream := append(fill(room-in), made...)
			first := segmentOf(0, stream[:room])
			second := follows(segmentOf(0, append(bytes.Clone(stream[room:]), record(10, 0, make([]byte, 200))...)))
			le.PutUint32(second[16:], total-uint32(in))
			le.PutUint16(second[2:], 2|1)
			a, b := notesOf(t, first), notesOf(t, second)
			if cut := a.Cut != nil; cut != (in >= 24) || len(b.Parameters)+len(b.Directories) != map[bool]int{true: 0, false: 1}[cut] {
				t.Fatalf("%d bytes in the first segment: %+v, %+v", in, a, b)
			}
			a.Complete(second[:8192])
			all := Notes{Parameters: append(a.Parameters, b.Parameters...), Directories: append(a.Directories, b.Directories...)}
			if len(all.Parameters)+len(all.Directories) != 1 {
				t.Fatalf("%d bytes in the first segment: %+v", in, all)
			}
			at := LSN(6<<20 - in)
			if p := all.Parameters; len(p) == 1 && (p[0].At != at || p[0].MaxConnections != 200 || p[0].WALLevel != "replica") {
				t.Errorf("%d bytes in the first segment: %+v", in, p)
			}
			if d := all.Directories; len(d) == 1 && (d[0].At != at || d[0].Database != 5) {
				t.Errorf("%d bytes in the first segment: %+v", in, d)
			}
		}
	}
}

func crcOf(r []byte) uint32 {
	return crc32.Update(crc32.Checksum(r[recordHeader:], castagnoli()), castagnoli(), r[:20])
}

// TestNotesAfterARecordGivenUp: the page says where its first record begins, whatever one before promised.
func TestNotesAfterARecordGivenUp(t *testing.T) {
	stream := append(fill(8192-40-16), record(10, 0, make([]byte, 250))...)
	data := segmentOf(0, append(stream, fill(4000)...))
	copy(data[8192+24:], changeOf(200, 0))
	binary.LittleEndian.PutUint16(data[8192+2:], 0x0008)
	binary.LittleEndian.PutUint32(data[8192+16:], 0)
	clear(data[8192+24+len(changeOf(200, 0)) : 2*8192])
	if got := notesOf(t, data); len(got.Parameters) != 1 {
		t.Errorf("%+v", got)
	}
	if got, err := ReadFacts(bytes.NewReader(data)); err != nil || len(got.Parameters) != 1 || got.LastRecord != 5<<20+8192+24 {
		t.Errorf("%+v, %v: recovery passes over it, too", got, err)
	}
	binary.LittleEndian.PutUint16(data[8192+2:], 0)
	if got, err := ReadFacts(bytes.NewReader(data)); err != nil || got.LastRecord >= 5<<20+8192-16 {
		t.Errorf("%+v, %v: recovery does not pass over one that was not given up", got, err)
	}
}

func FuzzNotes(f *testing.F) {
	f.Add(segmentOf(13, changeOf(1, 1))[:16384], segmentOf(8, nil)[:8192])
	f.Fuzz(func(t *testing.T, data, next []byte) {
		var n Noter
		_, _ = n.Write(data)
		found := n.Notes()
		found.Complete(next)
		_ = Changes(bytes.NewReader(data), bytes.NewReader(next), 1<<62, func(uint32, LSN) {})
	})
}

func BenchmarkNotes(b *testing.B) {
	data := segmentOf(0, fill(1<<20-40-127*24))
	binary.LittleEndian.PutUint32(data[32:], 1<<20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		var n Noter
		_, _ = n.Write(data)
	}
}
