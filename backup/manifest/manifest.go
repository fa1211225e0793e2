// Package manifest reads and writes the list of every file of one backup: JSON lines, one line a file, as a
// stream in both directions. It never holds a manifest in memory.
//
// The order of lines is the order of the paths' bytes, so that two manifests can be merged as streams;
// only what is made at the very end of a backup comes last, out of order: the files in Tail.
//
// The lines are grouped into sections, which are stored and reused as the data is: a backup of a
// database that has not changed stores no lines, only the list of sections (list.go).
package manifest

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/pgobj/pgobj/backup/part"
)

// MaxFileChunks is the most chunks that one line lists (256 MiB of a file). A larger file goes on in
// further lines with the same path and a later At, so that no line is long.
const MaxFileChunks = 256

// maxLine bounds a line in bytes, as a section is stored as one chunk: 256 chunks of nine extents each have
// half of it.
const maxLine = part.ChunkSize

// Tail are the files that come last in a manifest, in this order.
var Tail = []string{"backup_label", "tablespace_map", "backup_manifest", "global/pg_control"}

// Root is the path of the data directory itself, whose line is the first.
const Root = "."

// SectionPath is the name that sections of the manifest have in parts.
const SectionPath = ".pgobj-manifest.jsonl"

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
		return fmt.Errorf("%q is not a file mode", b)
	}
	*m = Mode(v)
	return nil
}

// Chunk is part.ChunkSize bytes of a file (the last one may be shorter), at an aligned offset.
type Chunk struct {
	// SHA256 and CRC32C are of the content. Both are missing (zero) where the WAL summaries told which
	// pages had changed, and the others were not read again.
	SHA256  part.Hash `json:"sha256,omitzero"`
	CRC32C  CRC       `json:"crc32c,omitzero"`
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

// SetPath sets the path from its bytes, whatever their encoding.
func (f *File) SetPath(raw string) { f.Path, f.Hex = part.Text(raw) }

// RawPath is the path's bytes.
func (f *File) RawPath() string { return part.Raw(f.Path, f.Hex) }

// SetLink sets the link's target from its bytes.
func (f *File) SetLink(raw string) { f.Link, f.LHex = part.Text(raw) }

// RawLink is the bytes of the link's target.
func (f *File) RawLink() string { return part.Raw(f.Link, f.LHex) }

// A section ends after sectionSize bytes, or after a path that its own hash chooses (one in sectionLines): so
// that the same lines make the same sections whatever comes and goes before them.
const (
	sectionSize  = 64 << 10
	sectionLines = 32
)

// Writer groups lines into sections.
type Writer struct {
	keep    func(section []byte, lines int) error
	section bytes.Buffer
	lines   int // in the section
	json    *json.Encoder
	entries int64
}

// NewWriter gives each section, and the number of its lines, to keep, which must not retain it.
func NewWriter(keep func(section []byte, lines int) error) *Writer {
	w := &Writer{keep: keep}
	w.json = json.NewEncoder(&w.section)
	w.json.SetEscapeHTML(false)
	return w
}

// Add writes one line.
func (w *Writer) Add(f *File) error {
	before := w.section.Len()
	if err := w.json.Encode(f); err != nil {
		return err
	}
	n := w.section.Len() - before
	if n > maxLine {
		return fmt.Errorf("the manifest's line for %q would have %d bytes, the limit is %d", f.RawPath(), n, maxLine)
	}
	if before > 0 && w.section.Len() > maxLine {
		line := bytes.Clone(w.section.Bytes()[before:])
		w.section.Truncate(before)
		if err := w.end(); err != nil {
			return err
		}
		w.section.Write(line)
	}
	w.entries++
	w.lines++
	if w.section.Len() >= sectionSize || crc32.ChecksumIEEE([]byte(f.RawPath()))%sectionLines == 0 {
		return w.end()
	}
	return nil
}

func (w *Writer) end() error {
	if w.section.Len() == 0 {
		return nil
	}
	err := w.keep(w.section.Bytes(), w.lines)
	w.section.Reset()
	w.lines = 0
	return err
}

// Close ends the last section and returns the number of lines.
func (w *Writer) Close() (entries int64, err error) { return w.entries, w.end() }

// ErrDamaged is the cause of every error about a manifest that is not what pgobj writes.
var ErrDamaged = errors.New("manifest is damaged")

// ErrNewer says that a newer pgobj has written a manifest.
var ErrNewer = errors.New("manifest was written by a newer pgobj")

// Reader reads the lines as a stream, and checks that every one makes sense by itself.
type Reader struct {
	lines   *bufio.Scanner
	backup  string
	want    int64 // lines that there have to be
	entries int64
	last    string // path of the line before
	lastEnd int64  // where the next line of that file has to begin
	tail    int    // how many of Tail have been seen
}

// NewReader reads the lines of a backup's manifest, of which there have to be entries. Without r they come by Section.
func NewReader(r io.Reader, backup string, entries int64) *Reader {
	return &Reader{lines: scan(r), backup: backup, want: entries}
}

func scan(r io.Reader) *bufio.Scanner {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxLine+1)
	return lines
}

// Section reads the lines of the next section, and gives each to use.
func (r *Reader) Section(data []byte, use func(*File) error) error {
	r.lines = scan(bytes.NewReader(data))
	for {
		f, err := r.line()
		if f == nil || err != nil {
			return err
		}
		if err := use(f); err != nil {
			return err
		}
	}
}

// Place is what of a line decides on what may come before and after it.
type Place struct {
	path    string
	at, end int64 // of the file's bytes that the line lists, the end on a border of chunks
}

// Place is that of a line.
func (f *File) Place() Place {
	return Place{f.RawPath(), f.At, f.At + int64(len(f.Chunks))*part.ChunkSize}
}

// Pass takes a section of n lines, from first to last, as read. None of the files in Tail may be in it.
func (r *Reader) Pass(first, last Place, n int) error {
	if err := r.checkOrder(first); err != nil {
		return r.damaged("%v", err)
	}
	r.entries += int64(n)
	if last.path != Root {
		r.last, r.lastEnd = last.path, last.end
	}
	return nil
}

// End says whether there were as many lines as there have to be.
func (r *Reader) End() error {
	if r.entries != r.want {
		return r.damaged("it has %d entries instead of %d", r.entries, r.want)
	}
	return nil
}

func (r *Reader) damaged(format string, args ...any) error {
	return fmt.Errorf("%w: backup %s, line %d: %s", ErrDamaged, r.backup, r.entries+1, fmt.Sprintf(format, args...))
}

// Next returns the next line, and io.EOF after the last one.
func (r *Reader) Next() (*File, error) {
	f, err := r.line()
	if f == nil && err == nil {
		err = cmp.Or(r.End(), io.EOF)
	}
	return f, err
}

// line returns the next line, and nil after the last one.
func (r *Reader) line() (*File, error) {
	if !r.lines.Scan() {
		if err := r.lines.Err(); err != nil {
			return nil, r.damaged("%v", err)
		}
		return nil, nil
	}
	f := new(File)
	if err := json.Unmarshal(r.lines.Bytes(), f); err != nil {
		return nil, r.damaged("%v", err)
	}
	if err := r.check(f); err != nil {
		return nil, r.damaged("%v", err)
	}
	r.entries++
	return f, nil
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
		return fmt.Errorf("%q has mode %04o, but PostgreSQL has no set-id or sticky files", path, f.Mode)
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
		return fmt.Errorf("%q has unknown type %q: a newer pgobj may have written it", path, f.Type)
	}
	if path == Root && f.Type != TypeDir {
		return fmt.Errorf("the data directory itself is a %s", f.Type)
	}
	return r.checkOrder(f.Place())
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
			if err := x.check(start, end); err != nil {
				return err
			}
			start += int64(x.Len)
		}
		if start != end {
			return fmt.Errorf("chunk before %d: its extents leave a gap", end)
		}
	}
	return nil
}

// check holds that the extent begins at start, does not go beyond end, and can exist.
func (x Extent) check(start, end int64) error {
	if x.At != start || x.Len <= 0 || int64(x.Len) > end-start {
		return fmt.Errorf("at %d: extents overlap, leave a gap or point outside", start)
	}
	if x.Off < 0 || x.Size <= 0 || x.Size > 2*part.MaxFrame || x.Skip < 0 || x.Len > part.MaxFrame || x.Skip > part.MaxFrame-x.Len {
		return fmt.Errorf("at %d: the frame of an extent is impossible", start)
	}
	_, _, err := part.ParseName(x.Part)
	return err
}

func (r *Reader) checkOrder(f Place) error {
	path := f.path
	if path == Root {
		if r.entries > 0 {
			return fmt.Errorf("the data directory itself must be the first line")
		}
		return nil
	}
	defer func() { r.last, r.lastEnd = path, f.end }()
	if f.at > 0 {
		if path != r.last || f.at != r.lastEnd {
			return fmt.Errorf("%q continues at %d without a beginning", path, f.at)
		}
		return nil
	}
	if i := slices.Index(Tail[r.tail:], path); i >= 0 {
		r.tail += i + 1
		return nil
	}
	if r.tail > 0 || r.last != "" && path <= r.last {
		return fmt.Errorf("%q comes after %q", path, r.last)
	}
	return nil
}
