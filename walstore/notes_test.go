package walstore_test

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/storage/mem"
	"github.com/pgobj/pgobj/walstore/object"
)

// minimal puts into a segment the record of a server that was started with wal_level = minimal.
func minimal(data []byte) []byte {
	const total = 24 + 2 + 28
	le := binary.LittleEndian
	r := make([]byte, total)
	le.PutUint32(r, total)
	r[16], r[24], r[25] = 0x60, 255, 28
	for i, v := range []uint32{100, 8, 10, 0, 64, 0, 0} {
		le.PutUint32(r[26+4*i:], v)
	}
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	le.PutUint32(r[20:], crc32.Update(crc32.Checksum(r[24:], castagnoli), castagnoli, r[:20]))
	clear(data[40:8192])
	copy(data[40:], r)
	return data
}

// A copy of the server (a snapshot) archives to the same place: what its segments say is not what the archive's say.
func TestRefusedContentLeavesNoNotes(t *testing.T) {
	s := mem.New()
	theirs, ours := wal(seg1, sysid, segSize, 1), minimal(wal(seg1, sysid, segSize, 2))
	if _, err := push(t, s, seg1, theirs); err != nil {
		t.Fatal(err)
	}
	before := keys(t, s)
	if _, err := push(t, s, seg1, ours); !errors.Is(err, object.ErrConflict) {
		t.Errorf("other content: %v", err)
	}
	if after := keys(t, s); !slices.Equal(before, after) {
		t.Errorf("it has left %q", after)
	}
	s = mem.New()
	for _, there := range []bool{false, true} {
		if res, err := push(t, s, seg1, ours); err != nil || res.AlreadyThere != there {
			t.Errorf("%+v, %v", res, err)
		}
		if all := keys(t, s); len(all) != 2 || !strings.HasSuffix(all[0], "."+object.NoteOfParameters) {
			t.Errorf("stored: %q", all)
		}
	}
}
