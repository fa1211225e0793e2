package wal

import (
	"encoding/binary"
	"hash/crc32"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pgobj/pgobj/test/site"
)

// parameterChange is the record of a server that starts with other settings (XLOG_PARAMETER_CHANGE): wal_level is minimal.
func parameterChange() []byte {
	le := binary.LittleEndian
	data := []byte{255, 28} // XLR_BLOCK_ID_DATA_SHORT and the size of xl_parameter_change
	for _, v := range []uint32{200, 8, 10, 0, 64, 0, 0} {
		data = le.AppendUint32(data, v)
	}
	head := make([]byte, 24)
	le.PutUint32(head, uint32(len(head)+len(data)))
	head[16] = 0x60
	table := crc32.MakeTable(crc32.Castagnoli)
	le.PutUint32(head[20:], crc32.Update(crc32.Checksum(data, table), table, head[:20]))
	return append(head, data...)
}

// A segment that the archive refuses, as it has another one under that name, leaves no note of what it says: a note of a clone's
// wal_level would end the windows of the server whose archive it is.
func TestNotesOfARefusedSegment(t *testing.T) {
	t.Parallel()
	r := site.NewWALRig(t, site.DirectoryStore(t))
	ours := site.WalSegment(site.Wal1, r.Sysid, site.Mib, 0)
	clones := slices.Clone(ours)
	copy(clones[40:], parameterChange())
	notes := func() int {
		names, err := filepath.Glob(filepath.Join(r.Repo, "main/wal/*/*/*.parameters"))
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	r.MustPush(t, site.Wal1, ours)
	if o := r.Push(t, site.Wal1, clones); o.Code != site.ExitConflict {
		t.Errorf("the clone's segment: %v", o)
	}
	if n := notes(); n != 0 {
		t.Errorf("the archive has %d notes of a segment that it has refused", n)
	}
	copy(clones, site.WalHeader(site.Wal2, r.Sysid, site.Mib))
	r.MustPush(t, site.Wal2, clones)
	r.MustPush(t, site.Wal2, clones) // again
	if n := notes(); n != 1 {
		t.Errorf("the archive has %d notes of the segment that it has, should have one", n)
	}
}
