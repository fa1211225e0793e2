package walstore

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/frames"
	"github.com/pgobj/pgobj/walstore/segment"
)

// A piece is what has been received so far of a segment that is not complete: the bytes from From to To of it, as an
// object NAME.FROM-TO.piece.zst (offsets as 8 hexadecimal digits) with a body as every WAL file's. Pieces never stand
// for a whole segment: only Fetch with FetchRequest.Received joins them, at the end of the archive. When the
// segment is archived they are of no more use.
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

func (p Piece) name() string {
	return fmt.Sprintf("%s.%08X-%08X%s", p.Segment, p.From, p.To, pieceSuffix)
}

// Key is the piece's object.
func (p Piece) Key(sysid uint64) string { return Key(sysid, p.name()) }

func (p Piece) String() string { return p.name() }

// parsePiece is Piece.name backwards.
func parsePiece(name string) (Piece, bool) {
	seg, rest, _ := strings.Cut(name, ".")
	rest, ok := strings.CutSuffix(rest, pieceSuffix)
	from, to, ok2 := strings.Cut(rest, "-")
	a, err1 := strconv.ParseUint(from, 16, 32)
	b, err2 := strconv.ParseUint(to, 16, 32)
	p := Piece{seg, int64(a), int64(b)}
	if !ok || !ok2 || err1 != nil || err2 != nil || a >= b || b-a > MaxPiece || segment.Classify(seg) != segment.Full || p.name() != name {
		return Piece{}, false
	}
	return p, true
}

// PutPiece stores a piece for good. content is the segment's, from its offset 0 on. As with Push, what is there already
// has to be the same.
func PutPiece(ctx context.Context, s storage.Store, sysid uint64, p Piece, content io.ReaderAt) error {
	body, sum, err := p.compress(content)
	if err == nil {
		_, err = create(ctx, s, p.Key(sysid), bytes.NewReader(body), int64(len(body)), func() error { return p.compare(ctx, s, sysid, sum) })
	}
	if err != nil {
		return fmt.Errorf("store %s: %w", p.name(), err)
	}
	return nil
}

// PushOpen stores the first n bytes of a segment that is not complete, in pieces: so they never stand in the way of the segment, which
// its server goes on with when it is started again. there: the archive has the whole file under its own name.
func PushOpen(ctx context.Context, s storage.Store, path string, n int64, sysid uint64) (there bool, err error) {
	name := filepath.Base(path)
	if err := SameFile(ctx, s, path, sysid); !errors.Is(err, storage.ErrNotFound) {
		return err == nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return false, badSource("%w", err)
	}
	defer f.Close()
	if _, err := inspect(f, name, func() (uint64, error) { return sysid, nil }); err != nil {
		return false, fmt.Errorf("push %s: %w", name, err)
	}
	for _, p := range OpenPieces(name, n) {
		if err := PutPiece(ctx, s, sysid, p, f); err != nil {
			return false, err
		}
	}
	return false, nil
}

// OpenPieces are the pieces in which PushOpen stores the first n bytes of a segment.
func OpenPieces(name string, n int64) (all []Piece) {
	for at := int64(0); at < n; at += MaxPiece {
		all = append(all, Piece{name, at, min(n, at+MaxPiece)})
	}
	return all
}

func (p Piece) compress(content io.ReaderAt) ([]byte, [32]byte, error) {
	enc := frames.NewZstd(0)
	sum := sha256.New()
	var body []byte
	buf := make([]byte, min(pieceSize, p.To-p.From))
	for at := p.From; at < p.To; at += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), p.To-at)]
		if n, err := content.ReadAt(buf, at); n < len(buf) {
			return nil, [32]byte{}, badSource("%w", err)
		}
		sum.Write(buf)
		body = enc.Append(body, buf)
	}
	t := trailer{p.To - p.From, [32]byte(sum.Sum(nil))}
	return append(body, t.bytes()...), t.sum, nil
}

func (p Piece) compare(ctx context.Context, s storage.Store, sysid uint64, sum [32]byte) error {
	stored, err := p.read(ctx, s, sysid, io.Discard)
	if err == nil && stored.sum != sum {
		err = &ConflictError{Name: p.name(), Key: p.Key(sysid), Source: sum, Stored: stored.sum}
	}
	return err
}

// read writes what a piece holds to w, checked.
func (p Piece) read(ctx context.Context, s storage.Store, sysid uint64, w io.Writer) (content, error) {
	return readInto(ctx, s, p.Key(sysid), &checked{w: w, name: p.name(), sum: sha256.New(), limit: p.To - p.From, piece: true})
}

// Pieces lists the pieces of a segment by offset, the longer of two with the same first.
func Pieces(ctx context.Context, s storage.Store, sysid uint64, name string) ([]Piece, error) {
	var all []Piece
	for info, err := range s.List(ctx, timelineDir(sysid, name[:8])+name+".", "") {
		if err != nil {
			return nil, fmt.Errorf("list pieces of %s: %w", name, err)
		}
		if o, ok := ParseKey(info.Key); ok && o.Type == segment.Received {
			all = append(all, o.Piece)
		}
	}
	return sortPieces(all), nil
}

func sortPieces(all []Piece) []Piece {
	slices.SortFunc(all, func(a, b Piece) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(b.To, a.To)) })
	return all
}

// Chain picks, of the pieces that Pieces lists, those that make up the beginning of the segment, as far as they reach
// without a gap.
func Chain(all []Piece) (chain []Piece, reach int64) {
	for i := 0; i < len(all); {
		best := -1
		for ; i < len(all) && all[i].From <= reach; i++ {
			if all[i].To > reach && (best < 0 || all[i].To > all[best].To) {
				best = i
			}
		}
		if best < 0 {
			break
		}
		chain, reach = append(chain, all[best]), all[best].To
	}
	return chain, reach
}

// ReadChain writes what the pieces of a chain hold. One that has gone meanwhile is storage.ErrNotFound.
func ReadChain(ctx context.Context, s storage.Store, sysid uint64, chain []Piece, w io.Writer) error {
	at := int64(0)
	for _, p := range chain {
		skip := at - p.From // overlaps are left when a receiver was killed
		_, err := p.read(ctx, s, sysid, writerFunc(func(b []byte) (int, error) {
			drop := min(skip, int64(len(b)))
			skip -= drop
			if drop == int64(len(b)) {
				return len(b), nil
			}
			n, err := w.Write(b[drop:])
			return int(drop) + n, err
		}))
		if err != nil {
			return fmt.Errorf("read %s: %w", p.name(), err)
		}
		at = p.To
	}
	return nil
}

// DropPiece removes a piece that others, or the whole segment, stand in for.
func DropPiece(ctx context.Context, s storage.Store, sysid uint64, p Piece) error {
	if err := s.Delete(ctx, p.Key(sysid)); err != nil {
		return fmt.Errorf("remove %s: %w", p.name(), err)
	}
	return nil
}

// Received lets Fetch make do with what has been received of a segment that is not in the archive.
type Received struct {
	Target segment.Timeline // that is recovered to; 0: the latest
	Own    string           // path at which PostgreSQL would look for a copy of its own
}

// fetchReceived writes a segment that the archive proves not to have, as far as it has been received, with zeros
// behind: PostgreSQL then replays what is there, and finds the end of the WAL where the zeros begin, as in a segment
// that it was writing when it crashed. It is ErrAbsent when nothing was received, or nothing that this recovery may have.
//
// It must neither make a recovery shorter nor lead it to another branch of history. So:
//   - absence has been proven: nothing of the timeline comes after the segment, or it would be a hole;
//   - no more is given than belongs to the way to the timeline that is recovered to: what was received may reach
//     beyond the point where that way leaves this timeline;
//   - a copy in pg_wal that begins with the same is left to PostgreSQL: it may reach further, and the archive's is preferred.
func fetchReceived(ctx context.Context, s storage.Store, r FetchRequest) error {
	all, err := Pieces(ctx, s, r.SystemID, r.Name)
	if err != nil {
		return err
	}
	chain, reach := Chain(all)
	if reach < segment.HeaderSize {
		return ErrAbsent
	}
	limit, err := onTheWay(ctx, s, r, chain[0])
	if err != nil {
		return err
	}
	return throughTemp(r.Dest, func(w io.Writer) error {
		dst := newChecked(w, r.Name, r.SystemID, sha256.New())
		own := openLikeness(r.Received.Own)
		defer own.close()
		if err := ReadChain(ctx, s, r.SystemID, chain, &upTo{io.MultiWriter(dst, own), limit}); err != nil {
			return err
		}
		if own.same || dst.header.Size == 0 {
			return ErrAbsent
		}
		if _, err := io.CopyN(dst, zeros{}, int64(dst.header.Size)-dst.length); err != nil {
			return err
		}
		return dst.finish()
	})
}

// onTheWay is how many bytes of a segment the recovery may have.
func onTheWay(ctx context.Context, s storage.Store, r FetchRequest, first Piece) (int64, error) {
	tli, err := segment.TimelineOf(r.Name)
	if err != nil {
		return 0, err
	}
	target := r.Received.Target
	if target == 0 { // as findNewestTimeLine (timeline.c)
		all, err := Timelines(ctx, s, r.SystemID)
		if err != nil {
			return 0, err
		}
		target = slices.Max(append(all, tli))
	}
	if target == tli {
		return MaxPiece * 64, nil // more than any segment has
	}
	line, err := ReadHistory(ctx, s, r.SystemID, target)
	if err != nil {
		return 0, err
	}
	left, ok := line.Left(tli)
	if !ok {
		return 0, ErrAbsent
	}
	size, err := sizeIn(func(w io.Writer) error {
		_, err := first.read(ctx, s, r.SystemID, w)
		return err
	})
	if err != nil {
		return 0, err
	}
	seg, err := segment.ParseName(r.Name, size)
	if err != nil {
		return 0, err
	}
	return max(0, int64(left)-int64(seg.Start(size))), nil
}

// upTo passes on the first n bytes.
type upTo struct {
	w io.Writer
	n int64
}

func (u *upTo) Write(p []byte) (int, error) {
	pass := p[:min(u.n, int64(len(p)))]
	u.n -= int64(len(pass))
	if n, err := u.w.Write(pass); err != nil {
		return n, err
	}
	return len(p), nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// likeness finds out whether a file begins with what is written to it.
type likeness struct {
	f    *os.File
	same bool
}

func openLikeness(path string) *likeness {
	f, err := os.Open(path)
	return &likeness{f, err == nil}
}

func (l *likeness) Write(p []byte) (int, error) {
	if l.same {
		own := make([]byte, len(p))
		_, err := io.ReadFull(l.f, own)
		l.same = err == nil && bytes.Equal(own, p)
	}
	return len(p), nil
}

func (l *likeness) close() {
	if l.f != nil {
		l.f.Close()
	}
}
