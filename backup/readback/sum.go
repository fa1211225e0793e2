package readback

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"github.com/pgobj/pgobj/backup/manifest"
)

// sum stands for some lines: as many, and with what in them, in this order.
type sum struct {
	lines  int
	digest uint64
}

func (s *sum) add(f *manifest.File) { s.join(sum{1, digest(f)}) }

func (s *sum) join(next sum) {
	s.lines += next.lines
	s.digest = s.digest*0x9E3779B97F4A7C15 + next.digest
}

// digest is a hash of all that a line says, by its meaning and not by how it is written.
func digest(f *manifest.File) uint64 {
	b := make([]byte, 0, 1<<10)
	text := func(s string) { b = append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...) }
	number := func(n int64) { b = binary.LittleEndian.AppendUint64(b, uint64(n)) }
	text(f.RawPath())
	text(f.RawLink())
	text(string(f.Type))
	hot := int64(0)
	if f.Hot {
		hot = 1
	}
	for _, n := range []int64{int64(f.Mode), int64(f.UID), int64(f.GID), f.Mtime.Unix(), int64(f.Mtime.Nanosecond()), f.Ctime.Unix(), int64(f.Ctime.Nanosecond()),
		int64(f.Ino), int64(f.Dev), hot, f.Size, f.At, int64(len(f.Chunks))} {
		number(n)
	}
	for _, c := range f.Chunks {
		b = append(b, c.SHA256[:]...)
		number(int64(c.CRC32C))
		number(int64(len(c.Extents)))
		for _, x := range c.Extents {
			number(x.At)
			number(int64(x.Len))
			text(x.Part)
			number(x.Off)
			number(int64(x.Size))
			b = append(b, x.SHA256[:]...)
			number(int64(x.Skip))
		}
	}
	return xxhash.Sum64(b)
}
