package object

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/codec"
	"github.com/pgobj/pgobj/walstore/segment"
)

const (
	pieceSuffix = ".piece"
	// MaxPiece is the most that one piece holds.
	MaxPiece = 32 << 20
)

// Piece is a piece in the archive.
type Piece struct {
	Segment  string
	From, To int64
}

// ParsePiece is Piece.name backwards.
func ParsePiece(name string) (Piece, bool) {
	seg, rest, _ := strings.Cut(name, ".")
	rest, ok := strings.CutSuffix(rest, pieceSuffix)
	from, to, ok2 := strings.Cut(rest, "-")
	a, err1 := strconv.ParseUint(from, 16, 32)
	b, err2 := strconv.ParseUint(to, 16, 32)
	p := Piece{seg, int64(a), int64(b)}
	if !ok || !ok2 || err1 != nil || err2 != nil || a >= b || b-a > MaxPiece || segment.Classify(seg) != segment.Full || p.Name() != name {
		return Piece{}, false
	}
	return p, true
}

func (p Piece) Name() string {
	return fmt.Sprintf("%s.%08X-%08X%s", p.Segment, p.From, p.To, pieceSuffix)
}

// Key is the piece's object.
func (p Piece) Key(sysid uint64) string { return Key(sysid, p.Name()) }

func (p Piece) String() string { return p.Name() }

func (p Piece) Compress(content io.ReaderAt) ([]byte, [32]byte, error) {
	enc, err := codec.NewEncoder(codec.Default)
	if err != nil {
		return nil, [32]byte{}, err
	}
	sum := sha256.New()
	var body []byte
	buf := make([]byte, min(PieceSize, p.To-p.From))
	for at := p.From; at < p.To; at += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), p.To-at)]
		if n, err := content.ReadAt(buf, at); n < len(buf) {
			return nil, [32]byte{}, BadSource("%w", err)
		}
		sum.Write(buf)
		if body, err = enc.Append(body, buf); err != nil {
			return nil, [32]byte{}, err
		}
	}
	t := Trailer{p.To - p.From, [32]byte(sum.Sum(nil))}
	return append(body, t.Bytes()...), t.Sum, nil
}

func (p Piece) Compare(ctx context.Context, s storage.Store, sysid uint64, sum [32]byte) error {
	stored, err := p.Read(ctx, s, sysid, io.Discard)
	if err == nil && stored.Sum != sum {
		err = &ConflictError{Name: p.Name(), Key: p.Key(sysid), Source: sum, Stored: stored.Sum}
	}
	return err
}

// Read writes what a piece holds to w, checked.
func (p Piece) Read(ctx context.Context, s storage.Store, sysid uint64, w io.Writer) (Content, error) {
	return ReadInto(ctx, s, p.Key(sysid), &checked{w: w, name: p.Name(), sum: sha256.New(), limit: p.To - p.From, piece: true})
}
