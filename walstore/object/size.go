package object

import (
	"errors"
	"io"

	"github.com/pgobj/pgobj/walstore/segment"
)

// ErrEnough stops a download when its first bytes have told all.
var ErrEnough = errors.New("enough")

// SizeIn is the segment size in the header that read begins with.
func SizeIn(read func(io.Writer) error) (segment.Size, error) {
	var size segment.Size
	first := make([]byte, 0, segment.HeaderSize)
	err := read(WriterFunc(func(p []byte) (int, error) {
		first = append(first, p[:min(len(p), segment.HeaderSize-len(first))]...)
		if len(first) < segment.HeaderSize {
			return len(p), nil
		}
		h, err := segment.ParseHeader(first)
		if err != nil {
			return 0, err
		}
		size = h.Size
		return 0, ErrEnough
	}))
	if size != 0 {
		return size, nil
	}
	return 0, err
}
