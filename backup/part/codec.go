package part

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/pgobj/pgobj/storage/frames"
)

// Codec is a compression that parts may have. Both are formats whose stock command-line tool reads a
// part from end to end, because their streams are concatenations of independent frames.
type Codec struct {
	Name  string // "zstd" or "lz4": also the tool that reads it
	Level int    // zstd's level as its command-line tool has it; 0 for lz4
}

// Default is zstd's fastest level: on database pages it is about as small as level 3 of the program zstd, and faster than
// the library's level 1.
var Default = Codec{Name: "zstd", Level: 1}

// ParseCodec reads a setting: "zstd", "zstd:LEVEL" (1 to 19) or "lz4".
func ParseCodec(s string) (Codec, error) {
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

// Ext is the suffix of a part's name, by which its reader knows the codec.
func (c Codec) Ext() string {
	if c.Name == "lz4" {
		return ".tar.lz4"
	}
	return ".tar.zst"
}

// CodecOf is the codec of a part by its name.
func CodecOf(name string) (Codec, error) {
	for _, c := range []Codec{Default, {Name: "lz4"}} {
		if strings.HasSuffix(name, c.Ext()) {
			return c, nil
		}
	}
	return Codec{}, fmt.Errorf("part %q has an unknown compression: a newer pgobj may have written it", name)
}

// Encoder makes frames; one for each worker, since it keeps its tables. It is not safe for concurrent use.
type Encoder interface {
	// Append appends raw to dst as one frame.
	Append(dst, raw []byte) []byte
}

// NewEncoder returns an encoder.
func NewEncoder(c Codec) Encoder {
	if c.Name == "lz4" {
		return frames.NewLZ4()
	}
	return frames.NewZstd(c.Level)
}

// Decoder reads frames; one for each worker.
type Decoder struct {
	zstd *zstd.Decoder
	lz4  *lz4.Reader
}

// NewDecoder returns a decoder for frames of either codec.
func NewDecoder() (*Decoder, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxIndex), zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true))
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
