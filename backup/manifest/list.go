package manifest

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/pgobj/pgobj/backup/part"
)

// MaxList bounds the list of sections in bytes as stored, and so what a hostile one can make a reader hold. With maxRaw,
// its bound when it is expanded, it is 100 TB of database.
const (
	MaxList = 64 << 20
	maxRaw  = 2 * MaxList
	// maxListLine bounds one line: a section's has about 300 bytes.
	maxListLine = 4096
)

// header is the first line of the list.
type header struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Backup  string `json:"backup"`
}

// footer is the last one; a list without it is cut off.
type footer struct {
	End     bool  `json:"end"`
	Entries int64 `json:"entries"` // lines in all sections
}

const format = "pgobj manifest"

// Section says where some lines of a manifest are stored: they are one chunk of a file that is the manifest.
type Section struct {
	SHA256 part.Hash `json:"sha256"` // of the lines
	Extent Extent    `json:"extent"` // At is where in the whole manifest they belong
}

// WriteList returns the stored form of the list: what stands for the manifest in the repository.
func WriteList(backup string, sections []Section, entries int64) ([]byte, error) {
	var buf bytes.Buffer
	zw, err := zstd.NewWriter(&buf, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, err
	}
	enc := json.NewEncoder(zw)
	err = enc.Encode(header{format, 1, backup})
	for _, s := range sections {
		err = cmp.Or(err, enc.Encode(s))
	}
	err = cmp.Or(err, enc.Encode(footer{true, entries}), zw.Close())
	return buf.Bytes(), err
}

// ReadList is WriteList backwards, and checks that every section makes sense by itself.
func ReadList(stored []byte, backup string) (sections []Section, entries int64, err error) {
	damaged := func(format string, args ...any) error {
		return fmt.Errorf("%w: backup %s, section %d: %s", ErrDamaged, backup, len(sections)+1, fmt.Sprintf(format, args...))
	}
	zr, err := zstd.NewReader(bytes.NewReader(stored), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return nil, 0, damaged("%v", err)
	}
	defer zr.Close()
	raw := &io.LimitedReader{R: zr, N: maxRaw}
	lines := bufio.NewScanner(raw)
	lines.Buffer(nil, maxListLine)
	next := func(v any) error {
		if lines.Scan() {
			return json.Unmarshal(lines.Bytes(), v)
		}
		if raw.N == 0 {
			return fmt.Errorf("it has more than %d bytes", maxRaw)
		}
		return cmp.Or(lines.Err(), io.ErrUnexpectedEOF)
	}
	var h header
	switch err := next(&h); {
	case err != nil || h.Format != format:
		return nil, 0, damaged("the list does not begin like a manifest's list (%v)", err)
	case h.Version < 1:
		return nil, 0, damaged("the list has format version %d", h.Version)
	case h.Version > 1:
		return nil, 0, fmt.Errorf("%w: the manifest of backup %s has format version %d, this pgobj reads version 1", ErrNewer, backup, h.Version)
	case h.Backup != backup:
		return nil, 0, damaged("the list belongs to backup %q", h.Backup)
	}
	at := int64(0)
	for {
		var l struct {
			Section
			footer
		}
		if err := next(&l); err != nil {
			return nil, 0, damaged("the list is truncated: %v", err)
		}
		if l.End {
			if lines.Scan() || lines.Err() != nil {
				return nil, 0, damaged("the list continues after its end")
			}
			return sections, l.Entries, nil
		}
		x := l.Extent
		if err := x.check(at, at+part.ChunkSize); err != nil {
			return nil, 0, damaged("%v", err)
		}
		at += int64(x.Len)
		if n := len(sections); n > 0 && sections[n-1].Extent.Part == x.Part {
			l.Extent.Part = sections[n-1].Extent.Part // neighbours share its memory
		}
		sections = append(sections, l.Section)
	}
}
