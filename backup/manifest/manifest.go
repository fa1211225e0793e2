// Package manifest reads and writes the list of every file of one backup: JSON lines, compressed with
// zstd, one line a file, as a stream in both directions. It never holds a manifest in memory.
//
// The order of lines is the order of the paths' bytes, so that two manifests can be merged as streams;
// only what is made at the very end of a backup comes last, out of order: the files in Tail.
package manifest

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"

	"github.com/pgobj/pgobj/backup/part"
)

// MaxFileChunks is the most chunks that one line lists (1 GiB of a file, which is PostgreSQL's own
// limit for a relation file). A larger file goes on in further lines with the same path and a later At,
// so that no line is long.
const MaxFileChunks = 1024

// maxLine bounds a line in bytes, against hostile manifests: 1,024 chunks of nine extents have half of it.
const maxLine = 8 << 20

// Tail are the files that come last in a manifest, in this order.
var Tail = []string{"backup_label", "tablespace_map", "backup_manifest", "global/pg_control"}

// Root is the path of the data directory itself, whose line is the first.
const Root = "."

// Type is the kind of a directory entry.
type Type string

const (
	TypeFile Type = "file"
	TypeDir  Type = "dir"
	TypeLink Type = "link" // restored as a symbolic link; a tablespace's is pg_tblspc/OID
)

// File is one line: an entry of the data directory and how its bytes are put together.
type File struct {
	Path  string    `json:"path,omitempty"`     // relative to PGDATA, slash separated, when it is UTF-8
	Hex   string    `json:"path_hex,omitempty"` // the path's bytes in hexadecimal when they are no UTF-8
	Type  Type      `json:"type"`
	Link  string    `json:"link,omitempty"`     // where a link leads; of a dir or file: it was reached by that link
	LHex  string    `json:"link_hex,omitempty"` // the same when it is no UTF-8
	Mode  Mode      `json:"mode,omitempty"`     // permission bits
	UID   int       `json:"uid"`
	GID   int       `json:"gid"`
	Mtime time.Time `json:"mtime,omitzero"`
	Ctime time.Time `json:"ctime,omitzero"`
	Ino   uint64    `json:"ino,omitempty"`
	Dev   uint64    `json:"dev,omitempty"`
	// Hot says that ctime was less than two seconds old when the file was read, so that a change within
	// the clock's grain may have gone unseen: the next backup must not trust the attributes.
	Hot    bool    `json:"hot,omitempty"`
	Size   int64   `json:"size"`
	At     int64   `json:"at,omitempty"` // of a continuation: where in the file its first chunk begins
	Chunks []Chunk `json:"chunks,omitempty"`
}

// Mode is a permission in octal notation, "0600".
type Mode uint32

func (m Mode) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%04o", uint32(m)), nil }

func (m *Mode) UnmarshalText(b []byte) error {
	var v uint32
	if _, err := fmt.Sscanf(string(b), "%o", &v); err != nil || v > 0o7777 {
		return fmt.Errorf("%q is not a mode", b)
	}
	*m = Mode(v)
	return nil
}

// Chunk is part.ChunkSize bytes of a file (the last one may be shorter), at an aligned offset.
type Chunk struct {
	SHA256  part.Hash `json:"sha256"`
	CRC32C  CRC       `json:"crc32c"`
	Extents []Extent  `json:"extents"`
}

// CRC is a CRC-32C; in JSON it is eight hexadecimal digits of the number.
type CRC uint32

func (c CRC) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%08x", uint32(c)), nil }

func (c *CRC) UnmarshalText(b []byte) error {
	raw, err := hex.DecodeString(string(b))
	if err != nil || len(raw) != 4 {
		return fmt.Errorf("%q is not a CRC-32C", b)
	}
	*c = CRC(raw[0])<<24 | CRC(raw[1])<<16 | CRC(raw[2])<<8 | CRC(raw[3])
	return nil
}

// Extent says: Len bytes of the file from At are those from Skip on in the frame that is stored as Size
// bytes, hashed SHA256, from Off in Part.
type Extent struct {
	At     int64     `json:"at"`
	Len    int       `json:"len"`
	Part   string    `json:"part"`
	Off    int64     `json:"off"`
	Size   int       `json:"size"`
	SHA256 part.Hash `json:"sha256"`
	Skip   int       `json:"skip"`
}

// Header is the first line.
type Header struct {
	Format  string `json:"format"` // "pgobj manifest"
	Version int    `json:"version"`
	Backup  string `json:"backup"`
}

// Footer is the last line; a manifest without it is cut off.
type Footer struct {
	End     bool  `json:"end"`
	Entries int64 `json:"entries"`
}

const format = "pgobj manifest"

// SetPath sets the path from its bytes, whatever their encoding.
func (f *File) SetPath(raw string) { f.Path, f.Hex = encode(raw) }

// RawPath is the path's bytes.
func (f *File) RawPath() string { return decode(f.Path, f.Hex) }

// SetLink sets the link's target from its bytes.
func (f *File) SetLink(raw string) { f.Link, f.LHex = encode(raw) }

// RawLink is the bytes of the link's target.
func (f *File) RawLink() string { return decode(f.Link, f.LHex) }

func encode(raw string) (text, hexed string) {
	if utf8.ValidString(raw) {
		return raw, ""
	}
	return "", hex.EncodeToString([]byte(raw))
}

func decode(text, hexed string) string {
	if hexed == "" {
		return text
	}
	raw, _ := hex.DecodeString(hexed) // check has seen to it
	return string(raw)
}

// Writer writes a manifest as a stream.
type Writer struct {
	zw      *zstd.Encoder
	json    *json.Encoder
	entries int64
}

// NewWriter writes the manifest of a backup to w, compressed.
func NewWriter(w io.Writer, backup string) (*Writer, error) {
	// Hashes do not compress, and the rest compresses at any level: one goroutine and little memory do.
	zw, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, err
	}
	enc := json.NewEncoder(zw)
	enc.SetEscapeHTML(false)
	return &Writer{zw: zw, json: enc}, enc.Encode(Header{format, 1, backup})
}

// Add writes one line.
func (w *Writer) Add(f *File) error {
	w.entries++
	return w.json.Encode(f)
}

// Close writes the footer and ends the compressed stream.
func (w *Writer) Close() error {
	if err := w.json.Encode(Footer{true, w.entries}); err != nil {
		return err
	}
	return w.zw.Close()
}

// ErrDamaged is the cause of every error about a manifest that is not what pgobj writes.
var ErrDamaged = errors.New("manifest is damaged")

// Reader reads a manifest as a stream, and checks that every line makes sense by itself.
type Reader struct {
	zr      *zstd.Decoder
	lines   *bufio.Scanner
	backup  string
	entries int64
	last    string // path of the line before
	lastEnd int64  // where the next line of that file has to begin
	tail    int    // how many of Tail have been seen
}

// NewReader reads the manifest of the given backup from compressed r.
func NewReader(r io.Reader, backup string) (*Reader, error) {
	zr, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderMaxMemory(1<<62))
	if err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(zr)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	m := &Reader{zr: zr, lines: lines, backup: backup}
	var h Header
	if err := m.line(&h); err != nil {
		zr.Close()
		return nil, err
	}
	switch {
	case h.Format != format:
		err = m.damaged("it does not begin as a manifest does")
	case h.Version != 1:
		err = fmt.Errorf("manifest of backup %s has format version %d, this pgobj reads 1: use a newer one", backup, h.Version)
	case h.Backup != backup:
		err = m.damaged("it is that of backup %q", h.Backup)
	}
	if err != nil {
		zr.Close()
		return nil, err
	}
	return m, nil
}

// Close frees the decoder. It does not close the reader given to NewReader.
func (r *Reader) Close() { r.zr.Close() }

func (r *Reader) damaged(format string, args ...any) error {
	return fmt.Errorf("%w: backup %s, line %d: %s", ErrDamaged, r.backup, r.entries+1, fmt.Sprintf(format, args...))
}

func (r *Reader) line(v any) error {
	if !r.lines.Scan() {
		if err := r.lines.Err(); err != nil {
			return r.damaged("%v", err)
		}
		return r.damaged("it is cut off")
	}
	if err := json.Unmarshal(r.lines.Bytes(), v); err != nil {
		return r.damaged("%v", err)
	}
	return nil
}

// Next returns the next line, and io.EOF after the last one, when the footer has been seen and agrees.
func (r *Reader) Next() (*File, error) {
	var l struct {
		File
		Footer
	}
	if err := r.line(&l); err != nil {
		return nil, err
	}
	if l.End {
		if l.Entries != r.entries {
			return nil, r.damaged("it has %d entries and says %d", r.entries, l.Entries)
		}
		if r.lines.Scan() {
			return nil, r.damaged("it goes on after its end")
		}
		return nil, io.EOF
	}
	if err := r.check(&l.File); err != nil {
		return nil, r.damaged("%v", err)
	}
	r.entries++
	return &l.File, nil
}

// check refuses what pgobj never writes: the manifest comes from outside, and what it says decides where
// bytes are written.
func (r *Reader) check(f *File) error {
	for _, h := range []string{f.Hex, f.LHex} {
		if _, err := hex.DecodeString(h); err != nil {
			return fmt.Errorf("%q is not hexadecimal", h)
		}
	}
	path := f.RawPath()
	if !fs.ValidPath(strings.ToValidUTF8(path, "?")) || strings.ContainsRune(path, 0) {
		return fmt.Errorf("%q is not a path below the data directory", path)
	}
	if f.Mode&^0o777 != 0 {
		return fmt.Errorf("%q has mode %04o: PostgreSQL has no set-id or sticky files", path, f.Mode)
	}
	switch f.Type {
	case TypeDir, TypeLink:
		if len(f.Chunks) > 0 || f.At != 0 || f.Type == TypeLink && f.RawLink() == "" {
			return fmt.Errorf("%q is a %s with content, or a link to nowhere", path, f.Type)
		}
	case TypeFile:
		if err := checkChunks(f); err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
	default:
		return fmt.Errorf("%q has unknown type %q: written by a newer pgobj?", path, f.Type)
	}
	return r.checkOrder(f, path)
}

func checkChunks(f *File) error {
	if f.Size < 0 || f.At < 0 || f.At%(MaxFileChunks*part.ChunkSize) != 0 || f.At > 0 && f.At >= f.Size {
		return fmt.Errorf("size %d or offset %d is impossible", f.Size, f.At)
	}
	want := (min(f.Size-f.At, MaxFileChunks*part.ChunkSize) + part.ChunkSize - 1) / part.ChunkSize
	if int64(len(f.Chunks)) != want {
		return fmt.Errorf("it lists %d chunks for %d bytes from %d", len(f.Chunks), f.Size, f.At)
	}
	for i, c := range f.Chunks {
		start := f.At + int64(i)*part.ChunkSize
		end := min(start+part.ChunkSize, f.Size)
		for _, x := range c.Extents {
			if x.At != start || x.Len <= 0 || int64(x.Len) > end-start {
				return fmt.Errorf("chunk at %d: its extents overlap, leave a gap or lead outside", start)
			}
			start += int64(x.Len)
			if _, _, err := part.ParseName(x.Part); err != nil {
				return err
			}
			if x.Off < 0 || x.Size <= 0 || x.Size > 2*part.MaxFrame || x.Skip < 0 || x.Skip+x.Len > part.MaxFrame {
				return fmt.Errorf("extent at %d: its frame is impossible", x.At)
			}
		}
		if start != end {
			return fmt.Errorf("chunk before %d: its extents leave a gap", end)
		}
	}
	return nil
}

func (r *Reader) checkOrder(f *File, path string) error {
	if path == Root {
		if r.entries > 0 || f.Type != TypeDir {
			return fmt.Errorf("the data directory itself has to be the first line")
		}
		return nil
	}
	defer func() { r.last, r.lastEnd = path, f.At+int64(len(f.Chunks))*part.ChunkSize }()
	if f.At > 0 {
		if path != r.last || f.At != r.lastEnd {
			return fmt.Errorf("%q goes on at %d without its beginning", path, f.At)
		}
		return nil
	}
	for i := r.tail; i < len(Tail); i++ {
		if Tail[i] == path {
			r.tail = i + 1
			return nil
		}
	}
	if r.tail > 0 || r.last != "" && path <= r.last {
		return fmt.Errorf("%q comes after %q", path, r.last)
	}
	return nil
}
