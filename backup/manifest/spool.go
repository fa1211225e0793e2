package manifest

import (
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

// TempFile is a file without a name: it vanishes with the process, however that ends.
func TempFile() (*os.File, error) {
	f, err := os.CreateTemp("", "pgobj-spool-*")
	if err != nil {
		return nil, fmt.Errorf("create a temporary file (TMPDIR sets the directory): %w", err)
	}
	return f, os.Remove(f.Name())
}

// Spool holds the lines of a manifest on this host, compressed, in a file without a name.
type Spool struct {
	file *os.File
	zw   *zstd.Encoder
	zr   *zstd.Decoder
}

// NewSpool returns an empty spool.
func NewSpool() (*Spool, error) {
	f, err := TempFile()
	if err != nil {
		return nil, err
	}
	zw, err := zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	return &Spool{file: f, zw: zw}, err
}

// Write appends lines.
func (s *Spool) Write(lines []byte) (int, error) { return s.zw.Write(lines) }

// Read begins to read the lines of a backup, of which there have to be entries, from the first one. It ends
// the writing; a reader that it has returned before is void.
func (s *Spool) Read(backup string, entries int64) (*Reader, error) {
	err := s.zw.Close()
	if err == nil {
		_, err = s.file.Seek(0, io.SeekStart)
	}
	if err == nil && s.zr == nil {
		s.zr, err = zstd.NewReader(s.file, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	} else if err == nil {
		err = s.zr.Reset(s.file)
	}
	if err != nil {
		return nil, fmt.Errorf("read the manifest from the temporary file: %w", err)
	}
	return NewReader(s.zr, backup, entries), nil
}

// Close gives the disk space back.
func (s *Spool) Close() {
	if s.zr != nil {
		s.zr.Close()
	}
	s.file.Close()
}
