// Package codec is the compression and the hash of what is stored: zstd and lz4 frames, each proven before anybody relies on
// it, and SHA-256 of two things at a time. It speaks to nothing of ours. What of it is written by hand, and what that earns,
// is in docs/decisions/codecs.md.
package codec

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Codec is a compression. The stock command-line tool of either format reads a concatenation of frames from end to end.
type Codec struct {
	Name  string // "zstd" or "lz4": also the tool that reads it
	Level int    // zstd's level as its command-line tool has it; 0 for lz4
}

// Default is zstd's fastest level: on database pages it is about as small as level 3 of the program zstd, and faster than
// the library's level 1.
var Default = Codec{Name: "zstd", Level: 1}

// Parse reads a setting: "zstd", "zstd:LEVEL" (1 to 19) or "lz4".
func Parse(s string) (Codec, error) {
	name, level, hasLevel := strings.Cut(s, ":")
	switch {
	case name == "lz4" && !hasLevel:
		return Codec{Name: name}, nil
	case name == "zstd" && !hasLevel:
		return Default, nil
	case name == "zstd":
		if n, err := strconv.Atoi(level); err == nil && 1 <= n && n <= 19 {
			return Codec{name, n}, nil
		}
	}
	return Codec{}, fmt.Errorf("%q is not a compression: use zstd, zstd:LEVEL (1 to 19) or lz4", s)
}

func (c Codec) String() string {
	if c.Level > 0 {
		return c.Name + ":" + strconv.Itoa(c.Level)
	}
	return c.Name
}

// ErrMispacked says that a frame does not expand to what was packed: the host's memory or the compressor has a fault, and
// what it spoils must not be stored, as its hash would be right.
var ErrMispacked = errors.New("packed data does not expand to the original data")

// Encoder makes frames, and expands each again before anybody relies on it. Each worker has its own, since it keeps its
// tables; it is not safe for concurrent use.
type Encoder struct {
	Codec  Codec
	frames interface {
		append(dst, raw []byte) ([]byte, error)
	}
	decoder  *Decoder
	expanded []byte
}

// NewEncoder returns an encoder.
func NewEncoder(c Codec) (*Encoder, error) {
	dec, err := NewDecoder()
	if err != nil {
		return nil, fmt.Errorf("start compression %s: %w", c, err)
	}
	e := &Encoder{Codec: c, decoder: dec}
	switch {
	case c.Name == "lz4":
		e.frames, err = newLZ4()
	case zstd.EncoderLevelFromZstd(c.Level) < zstd.SpeedBetterCompression:
		e.frames = &ownZstd{fast: newFast()}
	default:
		e.frames = libraryZstd{newLibrary(c.Level)}
	}
	return e, err
}

// Append appends raw to dst as one frame, which has been expanded and compared: else the error is ErrMispacked. The frame
// has no checksum: those who store frames keep better ones.
func (e *Encoder) Append(dst, raw []byte) ([]byte, error) {
	return e.AppendChecked(dst, raw, func(expanded []byte) error {
		if !bytes.Equal(expanded, raw) {
			return ErrMispacked
		}
		return nil
	})
}

// AppendChecked is Append for a caller that has its own way to compare what the frame expands to. Expanded is valid until
// the next call, and as long as raw.
func (e *Encoder) AppendChecked(dst, raw []byte, same func(expanded []byte) error) ([]byte, error) {
	out, err := e.frames.append(dst, raw)
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	got, err := e.decoder.Decode(e.Codec, e.expanded, out[len(dst):], len(raw))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrMispacked, err)
	case len(got) != len(raw):
		return nil, fmt.Errorf("%w: %d bytes instead of %d", ErrMispacked, len(got), len(raw))
	case cap(got) > cap(e.expanded):
		e.expanded = got
	}
	return out, same(got)
}

// lz4Frames makes lz4 frames of independent blocks.
type lz4Frames struct {
	writer *lz4.Writer
	out    bytes.Buffer
}

func newLZ4() (*lz4Frames, error) {
	w := lz4.NewWriter(nil)
	return &lz4Frames{writer: w}, w.Apply(lz4.ChecksumOption(false), lz4.BlockSizeOption(lz4.Block4Mb))
}

func (l *lz4Frames) append(dst, raw []byte) ([]byte, error) {
	l.out.Reset()
	l.writer.Reset(&l.out)
	_, err := l.writer.Write(raw)
	err = cmp.Or(err, l.writer.Close())
	return append(dst, l.out.Bytes()...), err
}

// maxExpanded bounds what one frame may expand to.
const maxExpanded = 64 << 20

// Decoder reads frames; one for each worker.
type Decoder struct {
	zstd *zstd.Decoder
	lz4  *lz4.Reader
}

// NewDecoder returns a decoder for frames of either codec.
func NewDecoder() (*Decoder, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxExpanded), zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true))
	return &Decoder{z, lz4.NewReader(nil)}, err
}

// Decode expands one stored frame into dst's capacity. It fails when the frame is damaged or holds more
// than limit bytes.
func (d *Decoder) Decode(c Codec, dst, stored []byte, limit int) ([]byte, error) {
	if c.Name != "lz4" {
		size := limit
		var h zstd.Header
		if err := h.Decode(stored); err == nil && h.HasFCS {
			if h.FrameContentSize > uint64(limit) {
				return nil, fmt.Errorf("the frame declares %d bytes, the limit is %d", h.FrameContentSize, limit)
			}
			size = int(h.FrameContentSize)
		}
		// The decoder stops where the buffer ends: a hostile frame gets no more memory than an honest one.
		buf := slices.Grow(dst[:0], size)
		return d.zstd.DecodeAll(stored, buf[:0:min(cap(buf), limit)])
	}
	d.lz4.Reset(bytes.NewReader(stored))
	out := slices.Grow(dst[:0], limit+1)
	n, err := io.ReadFull(d.lz4, out[:limit+1])
	if err == nil {
		return nil, fmt.Errorf("the frame has more than %d bytes", limit)
	}
	if err == io.ErrUnexpectedEOF || err == io.EOF {
		err = nil
	}
	return out[:n], err
}
