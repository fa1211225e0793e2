package walstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"os"
	"slices"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/partial"
	"github.com/pgobj/pgobj/walstore/segment"
)

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
//   - absence has been proven: nothing of the timeline comes after the segment, or it would be a gap;
//   - no more is given than belongs to the path to the timeline that is recovered to: what was received may reach
//     beyond the point where the path leaves this timeline;
//   - a copy in pg_wal that begins with the same is left to PostgreSQL: it may reach further, and the archive's is preferred.
func fetchReceived(ctx context.Context, s storage.Store, r FetchRequest) error {
	all, err := partial.Pieces(ctx, s, r.SystemID, r.Name)
	if err != nil {
		return err
	}
	chain, reach := partial.Chain(all)
	if reach < segment.HeaderSize {
		return ErrAbsent
	}
	limit, err := bytesOnPath(ctx, s, r, chain[0])
	if err != nil {
		return err
	}
	return ThroughTemp(r.Dest, func(w io.Writer) error {
		dst := object.NewChecked(w, r.Name, r.SystemID, sha256.New())
		own := openLikeness(r.Received.Own)
		defer own.close()
		if err := partial.ReadChain(ctx, s, r.SystemID, chain, &limitWriter{io.MultiWriter(dst, own), limit}); err != nil {
			return err
		}
		if own.same || dst.Header.Size == 0 {
			return ErrAbsent
		}
		if _, err := io.CopyN(dst, zeros{}, int64(dst.Header.Size)-dst.Length); err != nil {
			return err
		}
		return dst.Finish()
	})
}

// bytesOnPath is how many bytes of a segment the recovery may have.
func bytesOnPath(ctx context.Context, s storage.Store, r FetchRequest, first object.Piece) (int64, error) {
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
		return object.MaxPiece * 64, nil // more than any segment has
	}
	path, err := ReadPath(ctx, s, r.SystemID, target)
	if err != nil {
		return 0, err
	}
	left, on := path.Left(tli)
	if !on {
		return 0, ErrAbsent
	}
	size, err := SizeOf(ctx, s, object.Object{SystemID: r.SystemID, Type: segment.Received, Piece: first})
	if err != nil {
		return 0, err
	}
	seg, err := segment.ParseName(r.Name, size)
	if err != nil {
		return 0, err
	}
	return max(0, int64(left)-int64(seg.Start(size))), nil
}

// limitWriter passes on the first n bytes.
type limitWriter struct {
	w io.Writer
	n int64
}

func (u *limitWriter) Write(p []byte) (int, error) {
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

// prefixComparer finds out whether a file begins with what is written to it.
type prefixComparer struct {
	f    *os.File
	same bool
}

func openLikeness(path string) *prefixComparer {
	f, err := os.Open(path)
	return &prefixComparer{f, err == nil}
}

func (l *prefixComparer) Write(p []byte) (int, error) {
	if l.same {
		own := make([]byte, len(p))
		_, err := io.ReadFull(l.f, own)
		l.same = err == nil && bytes.Equal(own, p)
	}
	return len(p), nil
}

func (l *prefixComparer) close() {
	if l.f != nil {
		l.f.Close()
	}
}
