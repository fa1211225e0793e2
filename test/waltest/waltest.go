// Package waltest makes archived WAL segments that no server has written, for tests whose server is a stand-in. They
// have the header that PostgreSQL 15 gives them and nothing else: their hashes hold, and nobody can recover from
// them.
package waltest

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/mem"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/segment"
)

// Object is the key and the body of a segment as wal-push stores it.
func Object(sysid uint64, seg segment.Segment, size segment.Size) (key string, body []byte, err error) {
	b := make([]byte, size)
	le := binary.LittleEndian // XLogLongPageHeaderData
	le.PutUint16(b[0:], 0xD110)
	le.PutUint16(b[2:], 2)
	le.PutUint32(b[4:], uint32(seg.Timeline))
	le.PutUint64(b[8:], uint64(seg.Start(size)))
	le.PutUint64(b[24:], sysid)
	le.PutUint32(b[32:], uint32(size))
	le.PutUint32(b[36:], 8192)
	dir, err := os.MkdirTemp("", "pgobj-waltest-*")
	if err != nil {
		return "", nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, seg.Name(size))
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return "", nil, err
	}
	ctx, s := context.Background(), mem.New()
	r, err := walstore.Push(ctx, s, walstore.PushRequest{Path: path})
	if err != nil {
		return "", nil, err
	}
	body, err = storage.ReadAll(ctx, s, r.Key, 1<<30)
	return r.Key, body, err
}

// Minimal puts into a segment the record of a server that was started with wal_level = minimal.
func Minimal(data []byte) []byte {
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
