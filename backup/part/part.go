// Package part owns the objects that hold a backup's bytes: every key below parts/, and what is inside.
// It refuses PostgreSQL and the network.
//
// A part is a tar archive compressed as a sequence of independent frames, so that stock tools list it and
// a range request of one frame is enough to read it:
//
//	frame    whole tar members: header, content, padding; at most MaxFrame bytes in all
//	…
//	frame    the index: a tar member IndexName with one JSON line for each frame, then tar's end
//	trailer  a skippable frame of fixed size that tells where the index begins
//
// A member is a whole small file under its own name, or a run of bytes of a larger one under
// PATH@OFFSET+LENGTH. No member spans frames.
package part

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/codec"
)

const (
	// ChunkSize is the unit of reuse: files are cut at its multiples. 1 MiB is 128 pages: small enough
	// that one changed chunk is cheap, large enough that its 32-byte hash costs 0.003 %.
	ChunkSize = 1 << 20

	// MaxFrame bounds what a frame expands to: one whole chunk with a tar header of the longest name
	// that PostgreSQL or a file system allows. It is also what a reader's buffer must hold.
	MaxFrame = ChunkSize + 64<<10

	// TargetSize is the stored size at which a part is full. Each worker has one part in memory and one
	// on its way to the store, so this, not the database, sets the memory that a backup needs: with two
	// workers 8 MiB parts need 40 MB, and 32 MiB parts 150 MB, while requests cost little either way.
	TargetSize = 8 << 20

	// MaxStored bounds a part as stored: a full one, the frame that filled it, and its index.
	MaxStored = TargetSize + 2*MaxFrame + 1<<20

	// targetIndex is the size of an index, expanded, at which a part is full, too: with many small files it
	// would need more memory than the part.
	targetIndex = 2 << 20

	// IndexName is the name of the last member.
	IndexName = ".pgobj-index.jsonl"

	// maxIndex bounds the expanded index, and so what a hostile part can make a reader hold.
	maxIndex = 64 << 20

	// maxNumber bounds a part's number, at 1 PB of parts: who makes a set of numbers needs a bit for each up to the highest.
	maxNumber = 1 << 27

	trailerMagic = 0x184D2A5D // a skippable frame, to zstd and lz4 alike
	trailerMark  = "PGOBJPRT"
	trailerSize  = 8 + 64
)

// Hash is a SHA-256; in JSON it is hexadecimal, as sha256sum prints it.
type Hash [sha256.Size]byte

// Sum is the SHA-256 of b.
func Sum(b []byte) Hash { return sha256.Sum256(b) }

// Sum2 are the SHA-256 of a and of b. Where both are about as long it takes little more time than one.
func Sum2(a, b []byte) (Hash, Hash) {
	x, y := codec.Sum2(a, b)
	return x, y
}

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

func (h *Hash) UnmarshalText(b []byte) error {
	if len(b) != 2*len(h) {
		return fmt.Errorf("%q is not a SHA-256", b)
	}
	_, err := hex.Decode(h[:], b)
	return err
}

// PageHashes are the 64-bit xxHash of each 8 kB page of a member, in order, little-endian; base64 in JSON.
type PageHashes []uint64

func (p PageHashes) MarshalText() ([]byte, error) {
	raw := make([]byte, 0, 8*len(p))
	for _, h := range p {
		raw = binary.LittleEndian.AppendUint64(raw, h)
	}
	return base64.StdEncoding.AppendEncode(nil, raw), nil
}

func (p *PageHashes) UnmarshalText(b []byte) error {
	raw, err := base64.StdEncoding.AppendDecode(nil, b)
	if err != nil || len(raw)%8 != 0 {
		return fmt.Errorf("page hashes are not base64 of 8-byte numbers")
	}
	*p = make(PageHashes, len(raw)/8)
	for i := range *p {
		(*p)[i] = binary.LittleEndian.Uint64(raw[8*i:])
	}
	return nil
}

// Key is the object of a part by its name in manifests, BACKUP/NUMBER.EXT.
func Key(name string) string { return "parts/" + name }

// Name is the name of a backup's part.
func Name(backup string, no int, c codec.Codec) string {
	return fmt.Sprintf("%s/%05d%s", backup, no, extension(c))
}

// ParseName splits a part's name. Manifests and keys come from outside, so it accepts nothing that Name does not
// make of the numbers that a backup gives its parts, from 1 on: the catalog has no sign for others.
func ParseName(name string) (backup string, no int, err error) {
	backup, file, ok := strings.Cut(name, "/")
	c, err := CodecOf(name)
	if err != nil {
		return "", 0, err
	}
	no, err = strconv.Atoi(strings.TrimSuffix(file, extension(c)))
	if !ok || err != nil || no < 1 || no > maxNumber || Name(backup, no, c) != name || storage.CheckKey(Key(name)) != nil {
		return "", 0, fmt.Errorf("%q is not a part name", name)
	}
	return backup, no, nil
}

// Member is what the index knows of one tar member.
type Member struct {
	Path   string     `json:"path,omitempty"`     // of the file, relative to PGDATA
	Hex    string     `json:"path_hex,omitempty"` // the same when it is no UTF-8
	At     int64      `json:"at"`                 // where in the file the content belongs, in bytes
	Len    int        `json:"len"`                // bytes of content
	Skip   int        `json:"skip"`               // where in the expanded frame the content begins
	SHA256 Hash       `json:"sha256"`             // of the content
	Pages  PageHashes `json:"pages,omitempty"`    // of relation files only

	crc uint32 // of the content, while it is being packed
}

// Text splits a path, or what a link says, into text and, when it is no UTF-8, its bytes in hexadecimal: JSON has no others.
func Text(raw string) (text, hexed string) {
	if utf8.ValidString(raw) {
		return raw, ""
	}
	return "", hex.EncodeToString([]byte(raw))
}

// Raw joins them again. A reader has checked that they are hexadecimal.
func Raw(text, hexed string) string {
	if hexed == "" {
		return text
	}
	raw, _ := hex.DecodeString(hexed)
	return string(raw)
}

func (m *Member) path() string { return Raw(m.Path, m.Hex) }

// IndexLine describes one frame in a part's index.
type IndexLine struct {
	Off     int64    `json:"off"`    // where in the part the frame begins
	Size    int      `json:"size"`   // stored bytes
	Raw     int      `json:"raw"`    // expanded bytes
	SHA256  Hash     `json:"sha256"` // of the stored bytes
	Members []Member `json:"members"`
}

// Frame is a frame's place. That of a frame which is being filled is known when it has been sealed.
type Frame struct {
	Part   string // name of the part
	Off    int64
	Size   int
	SHA256 Hash // of the stored bytes

	sealed chan struct{} // nil: the place was always known
}

// Fresh says whether the frame is one that this process has packed.
func (f *Frame) Fresh() bool { return f.sealed != nil }

// Wait returns when the frame's place is known.
func (f *Frame) Wait(ctx context.Context) error {
	if f.sealed == nil {
		return nil
	}
	select {
	case <-f.sealed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Full is a part that is complete and waits to be stored.
type Full struct {
	Name  string
	Body  []byte
	Index Hash  // SHA-256 of the index's stored frame
	Raw   int64 // content bytes of its members
}

// trailer is the fixed-size skippable frame at a part's very end: mark, version, where the index frame
// is, and its hash.
func appendTrailer(dst []byte, indexOff int64, indexSize int, index Hash) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, trailerMagic)
	dst = binary.LittleEndian.AppendUint32(dst, trailerSize-8)
	dst = append(dst, trailerMark...)
	dst = binary.LittleEndian.AppendUint64(dst, 1)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(indexOff))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(indexSize))
	return append(dst, index[:]...)
}
