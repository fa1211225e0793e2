package part

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/codec"
)

// ErrDamaged is the cause of every error that says that stored bytes are not what was written.
var ErrDamaged = errors.New("stored object is damaged")

// Probe reads the end of a part, to see whether the storage gives it.
func Probe(ctx context.Context, s storage.Store, name string, size int64) error {
	_, err := readRange(ctx, s, name, max(0, size-trailerSize), trailerSize)
	return err
}

// ReadIndex reads the index of a part that is size bytes long, with two small range requests, and checks
// it against want (from the catalog) unless want is zero, as for a part that no backup refers to. It returns
// the index's hash, too.
func ReadIndex(ctx context.Context, s storage.Store, name string, size int64, want Hash) (lines []IndexLine, sum Hash, err error) {
	return readIndex(name, size, want, func(off int64, n int) ([]byte, error) { return readRange(ctx, s, name, off, n) })
}

// ParseIndex is ReadIndex of a part that is in memory.
func ParseIndex(name string, body []byte, want Hash) ([]IndexLine, error) {
	lines, _, err := readIndex(name, int64(len(body)), want, func(off int64, n int) ([]byte, error) { return body[off : off+int64(n)], nil })
	return lines, err
}

func readIndex(name string, size int64, want Hash, read func(off int64, n int) ([]byte, error)) (lines []IndexLine, sum Hash, err error) {
	c, err := CodecOf(name)
	if err != nil {
		return nil, sum, err
	}
	damaged := func(format string, args ...any) error {
		return fmt.Errorf("%w: part %s: %s", ErrDamaged, Key(name), fmt.Sprintf(format, args...))
	}
	if size < trailerSize {
		return nil, sum, damaged("%d bytes are too few for a part", size)
	}
	t, err := read(size-trailerSize, trailerSize)
	if err != nil {
		return nil, sum, err
	}
	le := binary.LittleEndian
	off, n := le.Uint64(t[24:]), le.Uint64(t[32:])
	copy(sum[:], t[40:])
	switch {
	case le.Uint32(t) != trailerMagic || le.Uint32(t[4:]) != trailerSize-8 || string(t[8:16]) != trailerMark:
		return nil, sum, damaged("it does not end like a part")
	case le.Uint64(t[16:]) != 1 && want != Hash{}: // backup.json would have another version, too
		return nil, sum, damaged("its trailer has format version %d", le.Uint64(t[16:]))
	case le.Uint64(t[16:]) != 1:
		return nil, sum, fmt.Errorf("part %s has format version %d, this pgobj reads version 1: use a newer pgobj", Key(name), le.Uint64(t[16:]))
	case off > uint64(size) || n > maxIndex || off+n != uint64(size-trailerSize):
		return nil, sum, damaged("its trailer points outside of the part")
	case want != Hash{} && sum != want:
		return nil, sum, damaged("its index is not the one that was written")
	}
	stored, err := read(int64(off), int(n))
	if err != nil {
		return nil, sum, err
	}
	if Sum(stored) != sum {
		return nil, sum, damaged("hash of its index does not match")
	}
	dec, err := codec.NewDecoder()
	if err != nil {
		return nil, sum, err
	}
	raw, err := dec.Decode(c, nil, stored, maxIndex)
	if err != nil {
		return nil, sum, damaged("its index cannot be expanded: %v", err)
	}
	tr := tar.NewReader(bytes.NewReader(raw))
	if h, err := tr.Next(); err != nil || h.Name != IndexName {
		return nil, sum, damaged("its index is not a tar member named %s", IndexName)
	}
	lines, err = parseIndex(tr, int64(off), damaged)
	return lines, sum, err
}

func parseIndex(r io.Reader, end int64, damaged func(string, ...any) error) ([]IndexLine, error) {
	var lines []IndexLine
	at := int64(0)
	for dec := json.NewDecoder(r); ; {
		var l IndexLine
		err := dec.Decode(&l)
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, damaged("its index: %v", err)
		}
		if l.Off != at || l.Size <= 0 || int64(l.Size) > end-at || l.Raw <= 0 || l.Raw > MaxFrame {
			return nil, damaged("its index has an impossible frame at %d", l.Off)
		}
		at += int64(l.Size)
		lines = append(lines, l)
	}
	if at != end {
		return nil, damaged("its index ends at %d of %d", at, end)
	}
	return lines, nil
}

func readRange(ctx context.Context, s storage.Store, name string, off int64, n int) ([]byte, error) {
	r, err := s.Get(ctx, Key(name), storage.Range{Offset: off, Length: int64(n)})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	buf := make([]byte, n)
	if _, err := io.ReadFull(r, buf); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			err = fmt.Errorf("%w: part %s ends before byte %d", ErrDamaged, Key(name), off+int64(n))
		}
		return nil, err
	}
	return buf, nil
}
