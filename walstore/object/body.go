package object

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/pgobj/pgobj/walstore/segment"
)

const (
	TrailerSize    = 64
	trailerMagic   = 0x184D2A5E
	trailerVersion = 1
	// NoteLimit bounds .history and .backup files, which PostgreSQL writes with a few hundred bytes.
	NoteLimit = 1 << 20
	// maxWindow is what every zstd decoder must support, and more than Push uses.
	maxWindow = 8 << 20
)

// Trailer is the skippable frame at the end of an object.
type Trailer struct {
	Length int64
	Sum    [32]byte
}

func (t Trailer) Bytes() []byte {
	b := make([]byte, 0, TrailerSize)
	b = binary.LittleEndian.AppendUint32(b, trailerMagic)
	b = binary.LittleEndian.AppendUint32(b, TrailerSize-8)
	b = append(b, "PGOBJWAL\x01\x00\x00\x00\x00\x00\x00\x00"...)
	b = binary.LittleEndian.AppendUint64(b, uint64(t.Length))
	return append(b, t.Sum[:]...)
}

func ParseTrailer(b []byte) (Trailer, error) {
	var t Trailer
	if len(b) != TrailerSize || binary.LittleEndian.Uint32(b) != trailerMagic ||
		binary.LittleEndian.Uint32(b[4:]) != TrailerSize-8 || string(b[8:16]) != "PGOBJWAL" {
		return t, errors.New("it does not end like an object of this archive")
	}
	if b[16] != trailerVersion {
		return t, fmt.Errorf("its format version %d is unknown to this pgobj", b[16])
	}
	t.Length = int64(binary.LittleEndian.Uint64(b[24:]))
	copy(t.Sum[:], b[32:])
	if !bytes.Equal(t.Bytes(), b) {
		return t, errors.New("its last frame has bytes that must be zero")
	}
	return t, nil
}

// holdBack reads all of a source but its last n bytes, which are in tail after io.EOF. err is the source's
// own error, if it had one: so a broken download is told from bytes that are wrong.
type holdBack struct {
	r    *bufio.Reader
	n    int
	tail []byte
	err  error
}

func (h *holdBack) Read(p []byte) (int, error) {
	ahead, err := h.r.Peek(h.n + 1)
	if err == io.EOF {
		h.tail = ahead
		return 0, io.EOF
	}
	if err != nil {
		h.err = err
		return 0, err
	}
	return h.r.Read(p[:min(len(p), h.r.Buffered()-h.n)])
}

// Content is what an object holds, as far as decode has found out.
type Content struct {
	Length int64
	Sum    [32]byte
}

// Decode writes the file that an object holds to w, and checks everything on the way: the header of a
// segment before any of it is written, so that a hostile object cannot fill the disk; length and
// SHA-256 at the end. Trouble with w is an errWrite, trouble with reading body an errRead; any other
// error means that the object is damaged.
func Decode(w io.Writer, body io.Reader, name string, sysid uint64) (Content, error) {
	return decodeInto(NewChecked(w, name, sysid, sha256.New()), body)
}

func decodeInto(dst *checked, body io.Reader) (Content, error) {
	src := &holdBack{r: bufio.NewReaderSize(body, 128<<10), n: TrailerSize}
	err := decompress(dst, src)
	switch {
	case src.err != nil:
		return Content{}, errRead{src.err}
	case err != nil:
		return Content{}, err
	}
	t, err := ParseTrailer(src.tail)
	if err != nil {
		return Content{}, err
	}
	c := Content{dst.Length, [32]byte(dst.sum.Sum(nil))}
	if t != Trailer(c) {
		return c, fmt.Errorf("it has %d bytes with SHA-256 %x, but declares %d bytes with %x", c.Length, c.Sum, t.Length, t.Sum)
	}
	return c, dst.Finish()
}

func decompress(w io.Writer, r io.Reader) error {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow),
		zstd.WithDecoderMaxMemory(1<<30), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	defer z.Close()
	_, err = z.WriteTo(w)
	return err
}

// errRead and errWrite mark whose fault it was.
type (
	errRead  struct{ error }
	errWrite struct{ error }
)

func (e errRead) Unwrap() error { return e.error }

func (e errWrite) Unwrap() error { return e.error }

// checked hashes and counts what is written, and stops at the first byte that cannot be right.
type checked struct {
	w      io.Writer
	name   string
	sysid  uint64
	sum    hash.Hash
	Length int64
	limit  int64
	first  []byte // a segment's header, or all of another file
	Header segment.Header
	piece  bool // limit bytes of a segment, from anywhere in it
}

func NewChecked(w io.Writer, name string, sysid uint64, sum hash.Hash) *checked {
	return &checked{w: w, name: name, sysid: sysid, sum: sum, limit: NoteLimit}
}

func (c *checked) Write(p []byte) (int, error) {
	if c.Length+int64(len(p)) > c.limit && (c.Header.Size != 0 || !IsWAL(c.name)) {
		return 0, fmt.Errorf("it has more than the maximum of %d bytes", c.limit)
	}
	if c.piece {
		// it has no header of its own
	} else if !IsWAL(c.name) {
		c.first = append(c.first, p...)
	} else if c.Header.Size == 0 {
		c.first = append(c.first, p[:min(len(p), segment.HeaderSize-len(c.first))]...)
		if len(c.first) == segment.HeaderSize {
			if err := c.checkHeader(); err != nil {
				return 0, err
			}
		}
	}
	c.sum.Write(p)
	c.Length += int64(len(p))
	n, err := c.w.Write(p)
	if err != nil {
		return n, errWrite{err}
	}
	return n, nil
}

func (c *checked) checkHeader() error {
	h, err := segment.ParseHeader(c.first)
	if err != nil {
		return err
	}
	if h.SystemID != c.sysid {
		return fmt.Errorf("it is WAL of system identifier %d, not %d", h.SystemID, c.sysid)
	}
	c.Header, c.limit = h, int64(h.Size)
	return h.Verify(c.name, c.limit)
}

// Finish is the last check, when everything has been written.
func (c *checked) Finish() error {
	if c.piece {
		if c.Length != c.limit {
			return fmt.Errorf("it has %d bytes instead of %d", c.Length, c.limit)
		}
		return nil
	}
	if !IsWAL(c.name) {
		return CheckNote(c.name, c.first)
	}
	if c.Header.Size == 0 {
		return fmt.Errorf("%w: %d bytes are too short for a page header", segment.ErrHeader, c.Length)
	}
	return c.Header.Verify(c.name, c.Length)
}

func IsWAL(name string) bool {
	t := segment.Classify(name)
	return t == segment.Full || t == segment.Partial
}

// CheckNote says whether data can be the .history or .backup file called name.
func CheckNote(name string, data []byte) error {
	if len(data) == 0 {
		return errors.New("it is empty")
	}
	if segment.Classify(name) != segment.History {
		return nil
	}
	tli, err := segment.TimelineOf(name)
	if err != nil {
		return err
	}
	_, err = segment.ParseHistory(tli, data)
	return err
}

// WriterFunc is a function as an io.Writer.
type WriterFunc func(p []byte) (int, error)

func (f WriterFunc) Write(p []byte) (int, error) { return f(p) }

// ErrEnough stops a download when its first bytes have told all.
var ErrEnough = errors.New("enough")

// First is how what read writes begins: n bytes, or less where there is no more. The error is read's.
func First(n int, read func(io.Writer) error) ([]byte, error) {
	first := make([]byte, 0, n)
	err := read(WriterFunc(func(p []byte) (int, error) {
		if first = append(first, p[:min(len(p), n-len(first))]...); len(first) == n {
			return 0, ErrEnough
		}
		return len(p), nil
	}))
	if len(first) == n {
		err = nil
	}
	return first, err
}

// PieceSize is what one frame holds: enough pieces to keep two workers busy to the end of a 16 MiB segment,
// at a price of 0.6 % in size against one frame. See BenchmarkCompress.
const PieceSize = 1 << 20
