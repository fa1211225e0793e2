package object

import (
	"strconv"
	"strings"

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
