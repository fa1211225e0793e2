package part

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/pgobj/pgobj/storage/codec"
)

// PageSize is the unit of page hashes, in bytes. Every PostgreSQL package is built with this block size; a
// cluster with another one still gets hashes that are right, only of other units.
const PageSize = 8192

// Writer packs members into frames and frames into parts. Each worker has its own; it is not safe for
// concurrent use.
type Writer struct {
	enc  *codec.Encoder
	next func() string              // names the next part
	emit func(Full) ([]byte, error) // takes a full part, gives an empty buffer to go on with

	name   string
	buf    []byte // the part so far
	raw    []byte // the open frame, expanded
	line   IndexLine
	open   *Frame
	index  bytes.Buffer
	bytes  int64
	header bytes.Buffer
}

// NewWriter returns a writer of parts compressed with c. next names each part as it is begun; emit
// is given each full part and returns a buffer for the next one.
func NewWriter(c codec.Codec, buf []byte, next func() string, emit func(Full) ([]byte, error)) (*Writer, error) {
	enc, err := codec.NewEncoder(c)
	return &Writer{enc: enc, next: next, emit: emit, buf: buf, raw: make([]byte, 0, MaxFrame)}, err
}

// Content is what Add stores: Data of the file Path from offset At; Whole when it is all of the file.
type Content struct {
	Path     string
	At       int64
	Data     []byte
	SHA256   Hash
	CRC32C   uint32 // taken when SHA256 was: what is stored has to have it
	Whole    bool
	Relation bool // keep page hashes
	Mode     fs.FileMode
	UID, GID int
	Mtime    time.Time
}

// Add puts content of at most ChunkSize bytes into the open frame and tells which frame that is and
// where in it, expanded, the content begins. The frame's place is known after it has been sealed:
// by a later Add, Seal or Close.
func (w *Writer) Add(c Content) (*Frame, int, error) {
	header, err := w.tarHeader(c)
	if err != nil {
		return nil, 0, fmt.Errorf("pack %q: %w", c.Path, err)
	}
	need := len(header) + len(c.Data) + padding(len(c.Data))
	if need > MaxFrame {
		return nil, 0, fmt.Errorf("pack %q: the member has %d bytes, a frame can have %d", c.Path, need, MaxFrame)
	}
	if len(w.raw)+need > MaxFrame {
		if err := w.Seal(); err != nil {
			return nil, 0, err
		}
	}
	if w.open == nil {
		w.open = &Frame{sealed: make(chan struct{})}
	}
	frame := w.open
	w.raw = append(w.raw, header...)
	skip := len(w.raw)
	w.raw = append(w.raw, c.Data...)
	w.raw = append(w.raw, zeros[:padding(len(c.Data))]...)
	m := Member{At: c.At, Len: len(c.Data), Skip: skip, SHA256: c.SHA256, crc: c.CRC32C}
	m.Path, m.Hex = Text(c.Path)
	if c.Relation {
		m.Pages = hashPages(c.Data)
	}
	w.line.Members = append(w.line.Members, m)
	w.bytes += int64(len(c.Data))
	if len(w.raw) >= ChunkSize {
		return frame, skip, w.Seal()
	}
	return frame, skip, nil
}

// append makes a frame, which has been proven to hold the members.
func (w *Writer) append(raw []byte, members []Member) ([]byte, error) {
	buf, err := w.enc.AppendChecked(w.buf, raw, func(expanded []byte) error { return proven(expanded, raw, members) })
	if err != nil {
		return nil, fmt.Errorf("pack %s into part %s: %w", names(members), w.name, err)
	}
	return buf, nil
}

// Seal compresses the open frame, if there is one, and so settles the place of all that it holds. It is
// codec.ErrMispacked when what that made does not hold what was added.
func (w *Writer) Seal() error {
	if w.open == nil {
		return nil
	}
	if w.name == "" {
		w.name = w.next()
	}
	off := len(w.buf)
	buf, err := w.append(w.raw, w.line.Members)
	if err != nil {
		return err
	}
	w.buf = buf
	f := w.open
	f.Part, f.Off, f.Size, f.SHA256 = w.name, int64(off), len(buf)-off, Sum(buf[off:])
	w.line.Off, w.line.Size, w.line.Raw, w.line.SHA256 = f.Off, f.Size, len(w.raw), f.SHA256
	if err := json.NewEncoder(&w.index).Encode(w.line); err != nil {
		return fmt.Errorf("index a frame: %w", err)
	}
	w.line = IndexLine{Members: w.line.Members[:0]}
	w.raw, w.open = w.raw[:0], nil
	close(f.sealed)
	if len(w.buf) >= TargetSize || w.index.Len() >= targetIndex {
		return w.finish()
	}
	return nil
}

// Close seals the open frame and hands over the last part.
func (w *Writer) Close() error {
	if err := w.Seal(); err != nil {
		return err
	}
	if w.name == "" {
		return nil
	}
	return w.finish()
}

func (w *Writer) finish() error {
	h := tar.Header{Typeflag: tar.TypeReg, Name: IndexName, Size: int64(w.index.Len()), Mode: 0o600, Format: tar.FormatUSTAR}
	var raw bytes.Buffer
	tw := tar.NewWriter(&raw)
	if err := tw.WriteHeader(&h); err != nil {
		return fmt.Errorf("write index of part %s: %w", w.name, err)
	}
	raw.Write(w.index.Bytes())
	raw.Write(zeros[:padding(w.index.Len())])
	raw.Write(make([]byte, 1024)) // tar's end of archive
	off := len(w.buf)
	buf, err := w.append(raw.Bytes(), nil)
	if err != nil {
		return err
	}
	index := Sum(buf[off:])
	buf = appendTrailer(buf, int64(off), len(buf)-off, index)
	next, err := w.emit(Full{Name: w.name, Body: buf, Index: index, Raw: w.bytes})
	if err != nil {
		return err
	}
	w.buf, w.name, w.bytes = next[:0], "", 0
	w.index.Reset()
	return nil
}

// tarHeader returns the header blocks of a member, valid until the next call.
func (w *Writer) tarHeader(c Content) ([]byte, error) {
	h := tar.Header{Typeflag: tar.TypeReg, Name: c.Path, Size: int64(len(c.Data)), Mode: int64(c.Mode.Perm()), Uid: c.UID, Gid: c.GID, ModTime: c.Mtime.Truncate(time.Second)}
	if !c.Whole {
		h.Name = fmt.Sprintf("%s@%d+%d", c.Path, c.At, len(c.Data))
	}
	w.header.Reset()
	err := tar.NewWriter(&w.header).WriteHeader(&h)
	return w.header.Bytes(), err
}

func hashPages(b []byte) PageHashes {
	hashes := make(PageHashes, 0, len(b)/PageSize)
	for ; len(b) >= PageSize; b = b[PageSize:] {
		hashes = append(hashes, xxhash.Sum64(b[:PageSize]))
	}
	return hashes
}

var zeros [512]byte

// padding is what tar puts after n bytes of content.
func padding(n int) int { return -n & 511 }
