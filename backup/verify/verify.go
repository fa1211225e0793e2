// Package verify reads a stored backup as a restore does, and writes nothing.
package verify

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/content"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/backup/unpack"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

// Request says which backup to read, and how much of it.
type Request struct {
	Store   storage.Store // rooted at the server's directory
	Catalog *catalog.Catalog
	Entry   *catalog.Entry
	Workers int
	// Sample is the percentage of frames and WAL segments to read: 0 or 100 for all. Which ones they are,
	// Seed decides, so that the same seed reads the same again.
	Sample   float64
	Seed     uint64
	Progress *backup.Progress
}

// Verified is what Verify has looked at.
type Verified struct {
	Size    int64 // bytes that the files of the backup have; Progress.Bytes of them were checked
	Indexes int64 // parts that are there with a sound index: always all
	WAL     int64 // segments that the backup needs, and that are there: always all
	WALRead int64 // of these, checked
}

// Verify reads from the repository what a backup needs, and checks every hash: of backup.json and manifest, of
// each part's index, of the WAL from the backup's start to its end and the history files, of each frame as stored, and of each chunk
// as a restore would put it together. Of frames and WAL segments a sample may do.
// Progress.Stored over Progress.Bytes tells how much a restore has to fetch for the data.
func Verify(ctx context.Context, r Request) (v Verified, err error) {
	b, err := r.Catalog.Backup(ctx, r.Entry)
	if err != nil {
		return v, err
	}
	v.Size = b.Size
	r.Progress.TotalBytes.Add(b.Size)
	r.Progress.TotalFiles.Add(b.Files)
	f, err := content.FetchManifest(ctx, r.Store, b)
	if err != nil {
		return v, err
	}
	defer f.Close()
	if v.Indexes, err = r.indexes(ctx, b); err != nil {
		return v, f.Affected(err)
	}
	if err := r.wal(ctx, b, &v); err != nil {
		return v, err
	}
	u := unpack.NewUnpacker(ctx, r.Store, nil, r.Workers, r.Progress)
	if r.partly() {
		// By the frame in which a chunk begins: the small files that share one are read together.
		u.Skip = func(c manifest.Chunk) bool { return !r.Picks(c.Extents[0].Part, c.Extents[0].Off) }
	}
	return v, f.Affected(u.Unpack(f.All(), b.Size))
}

func (r *Request) partly() bool { return r.Sample > 0 && r.Sample < 100 }

// Picks says whether something belongs to the sample.
func (r *Request) Picks(name string, off int64) bool {
	h := xxhash.NewWithSeed(r.Seed)
	h.WriteString(name)
	h.Write(binary.LittleEndian.AppendUint64(nil, uint64(off)))
	const grain = 1 << 20
	return !r.partly() || float64(h.Sum64()%grain) < r.Sample/100*grain
}

// indexes reads the index of every part: so it is known that each part is there, and whole at its end.
func (r *Request) indexes(ctx context.Context, b *catalog.Backup) (int64, error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.Workers)
	for _, p := range b.Parts {
		g.Go(func() error {
			var want part.Hash
			if err := want.UnmarshalText([]byte(p.Index)); err != nil {
				return fmt.Errorf("%w: part %s: its description in the backup: %w", part.ErrDamaged, p.Name, err)
			}
			_, _, err := part.ReadIndex(ctx, r.Store, p.Name, p.Size, want)
			switch {
			case errors.Is(err, storage.ErrNotFound):
				return content.Missing(p.Name, err)
			case errors.Is(err, part.ErrDamaged):
				return &content.InPart{Name: p.Name, Off: -1, Err: err}
			}
			return err
		})
	}
	return int64(len(b.Parts)), g.Wait()
}

// wal looks for every segment from the backup's start to its end, without which it cannot be restored, and reads
// those of the sample.
func (r *Request) wal(ctx context.Context, b *catalog.Backup, v *Verified) error {
	if b.Offline() {
		return nil
	}
	if size := segment.Size(b.SegmentSize); !size.Valid() {
		return fmt.Errorf("%w: WAL segments of %d bytes are impossible", catalog.ErrDamaged, size)
	}
	// Every restore reads the history of each timeline, to find its path.
	tree, err := recovery.ReadTree(ctx, r.Store, b.SystemID)
	if err != nil {
		return fmt.Errorf("check the history of the timelines: %w", err)
	}
	if tree.Orphan(b.Timeline) {
		return fmt.Errorf("%w: %s, which the backup needs to be restored, is missing", walstore.ErrGap, segment.HistoryName(b.Timeline))
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.Workers)
	var read atomic.Int64
	defer func() { v.WALRead = read.Load() }()
	c := recovery.RangeScan{Size: segment.Size(b.SegmentSize), Each: func(o object.Object) {
		v.WAL++
		if r.Picks(o.Name, 0) {
			g.Go(func() error {
				read.Add(1)
				return walstore.Verify(ctx, r.Store, o)
			})
		}
	}}
	if _, err := c.Scan(ctx, r.Store, b.SystemID, tree.Path(b.Timeline).From(b.Timeline, b.StartLSN), b.StopLSN); err != nil {
		return errors.Join(g.Wait(), err)
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("check the WAL that the backup needs: %w", err)
	}
	if next := c.Next.Name(c.Size); next <= b.LastWAL {
		return fmt.Errorf("%w: %s, which the backup needs to be restored, is missing", walstore.ErrGap, next)
	}
	return nil
}
