package content

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/codec"
)

const (
	// joinGap is how many unneeded bytes are rather read than asked around: less than the latency of
	// one more request costs.
	joinGap = 256 << 10
	// maxRange bounds one request, so that workers get about the same amount of work. A part of the usual size,
	// which is a little over part.TargetSize, is one.
	maxRange = 12 << 20
)

// Joined is how many of the extents, from the first, one request should fetch: those that come in one part,
// by rising offset, close together. Several may be in the same frame.
func Joined(w []manifest.Extent) int {
	n, end := 1, w[0].Off+int64(w[0].Size)
	for ; n < len(w); n++ {
		next := w[n].Off + int64(w[n].Size)
		if w[n].Part != w[0].Part || w[n].Off < w[n-1].Off || w[n].Off > end+joinGap || next-w[0].Off > maxRange {
			break
		}
		end = max(end, next)
	}
	return n
}

// FrameReader reads frames; each worker has its own.
type FrameReader struct {
	store       storage.Store
	dec         *codec.Decoder
	stored, raw []byte
	Fetched     *atomic.Int64 // counts stored bytes
	Expanded    *atomic.Int64 // counts the bytes that they expand to
}

func NewFrameReader(s storage.Store) (*FrameReader, error) {
	dec, err := codec.NewDecoder()
	return &FrameReader{store: s, dec: dec, raw: make([]byte, 0, part.MaxFrame), Fetched: new(atomic.Int64), Expanded: new(atomic.Int64)}, err
}

// Open makes the request for joined extents. It may be called while take is at work on others.
func (r *FrameReader) Open(ctx context.Context, extents []manifest.Extent) (io.ReadCloser, error) {
	name, at, last := extents[0].Part, extents[0].Off, extents[len(extents)-1]
	body, err := r.store.Get(ctx, part.Key(name), storage.Range{Offset: at, Length: last.Off + int64(last.Size) - at})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, Missing(name, err)
	}
	return body, err
}

// Take reads what open has asked for, checks each frame's hash, and gives the content of each extent to use, by its index, which
// must not retain it. It closes body.
func (r *FrameReader) Take(body io.ReadCloser, extents []manifest.Extent, use func(i int, data []byte) error) error {
	defer body.Close()
	at := extents[0].Off
	codec, err := part.CodecOf(extents[0].Part)
	if err != nil {
		return err
	}
	for i, w := range extents {
		if i == 0 || w.Off != extents[i-1].Off {
			if err := r.frame(body, codec, w, w.Off-at); err != nil {
				return damagedFrame(w, err)
			}
			at = w.Off + int64(w.Size)
		} else if w.Size != extents[i-1].Size || w.SHA256 != extents[i-1].SHA256 {
			return fmt.Errorf("%w: it contradicts itself about the frame at %d of part %s", manifest.ErrDamaged, w.Off, w.Part)
		}
		if w.Skip+w.Len > len(r.raw) {
			return damagedFrame(w, fmt.Errorf("%w: part %s: the frame at %d holds fewer bytes than the manifest says", part.ErrDamaged, part.Key(w.Part), w.Off))
		}
		if err := use(i, r.raw[w.Skip:w.Skip+w.Len]); err != nil {
			return err
		}
	}
	return nil
}

// frame reads the next frame, skip bytes further on, checks and expands it.
func (r *FrameReader) frame(body io.Reader, codec codec.Codec, x manifest.Extent, skip int64) error {
	if skip < 0 {
		return fmt.Errorf("%w: frames of part %s overlap at %d", manifest.ErrDamaged, x.Part, x.Off)
	}
	_, err := io.CopyN(io.Discard, body, skip)
	if err == nil {
		r.stored = slices.Grow(r.stored[:0], x.Size)[:x.Size]
		_, err = io.ReadFull(body, r.stored)
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: part %s ends before byte %d", part.ErrDamaged, part.Key(x.Part), x.Off+int64(x.Size))
	}
	if err != nil {
		return err
	}
	r.Fetched.Add(skip + int64(x.Size))
	if part.Sum(r.stored) != x.SHA256 {
		return fmt.Errorf("%w: part %s: the hash of the frame at %d does not match", part.ErrDamaged, part.Key(x.Part), x.Off)
	}
	if r.raw, err = r.dec.Decode(codec, r.raw[:0], r.stored, part.MaxFrame); err != nil {
		return fmt.Errorf("%w: part %s: the frame at %d cannot be expanded: %w", part.ErrDamaged, part.Key(x.Part), x.Off, err)
	}
	r.Expanded.Add(int64(len(r.raw)))
	return nil
}
