package push

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/backup/content"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/backup/readback"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/segment"
)

// remember begins to note what the backup means, to read it back in the end.
func (p *push) remember() (err error) {
	p.meant = &readback.Meant{}
	p.meant.Require("PG_VERSION")
	if p.info.Shutdown != nil {
		for _, f := range p.info.Shutdown.WAL {
			p.meant.Require("pg_wal/" + f.Name)
		}
	}
	p.frames, err = readback.NewFrames(func(name string) (int64, bool) {
		x, ok := p.prev.Part(name)
		return x.Size, ok
	})
	return err
}

// forget gives back what that has taken.
func (p *push) forget() {
	if p.frames != nil {
		p.frames.Close()
	}
}

// settle returns when all that the backup needs is in the repository, and can be read there.
func (p *push) settle(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.waitForWAL(ctx) })
	g.Go(func() error { return refuse(p.readManifest(ctx)) })
	return g.Wait()
}

// refuse turns what a reader says of damage into what it means of a backup that was made this moment.
func refuse(err error) error {
	for _, damage := range []error{manifest.ErrDamaged, part.ErrDamaged, catalog.ErrDamaged, storage.ErrTooLarge} {
		if errors.Is(err, damage) {
			return fmt.Errorf("%w: read back, %w", readback.ErrRefused, err)
		}
	}
	return err
}

// readManifest reads the manifest from the repository, and compares it with what was meant. Sections that were read as
// those of the last backup are not fetched again.
func (p *push) readManifest(ctx context.Context) error {
	data, err := content.ReadList(ctx, p.Store, &p.backup)
	if err != nil {
		return err
	}
	sections, entries, err := manifest.ReadList(data, p.backup.ID)
	if err != nil {
		return err
	}
	check, err := readback.NewCheck(p.backup.ID, len(sections), entries, p.meant, p.frames)
	if err != nil {
		return err
	}
	next := 0
	known := func() error {
		for ; next < len(sections); next++ {
			edges, seen := p.prev.Seen.Edges(sections[next].SHA256)
			if !seen {
				return nil
			}
			if err := check.Known(edges); err != nil {
				return err
			}
		}
		return nil
	}
	var extents []manifest.Extent
	for _, s := range sections {
		if _, seen := p.prev.Seen.Edges(s.SHA256); !seen {
			extents = append(extents, s.Extent)
		}
	}
	err = content.ReadExtents(ctx, p.Store, extents, func(_ int, data []byte) error {
		if err := known(); err != nil {
			return err
		}
		if part.Sum(data) != sections[next].SHA256 {
			return fmt.Errorf("%w: the hash of section %d does not match the list", manifest.ErrDamaged, next+1)
		}
		next++
		return check.Section(data)
	})
	if err == nil {
		err = known()
	}
	if err != nil {
		return err
	}
	return check.End()
}

// readDescription reads backup.json from the repository, and compares it with what was meant.
func (p *push) readDescription(ctx context.Context, commit *catalog.Commit) error {
	b, n := &p.backup, 0
	same := true
	back, err := p.Catalog.Parts(ctx, &catalog.Entry{ID: b.ID, Commit: commit}, func(x catalog.Part) {
		same = same && n < len(b.Parts) && x == b.Parts[n]
		n++
	})
	if err != nil {
		return refuse(err)
	}
	size := p.info.SegmentSize
	first, last := segment.At(back.Timeline, back.StartLSN, size).Name(size), segment.Before(back.Timeline, back.StopLSN, size).Name(size)
	switch {
	case !same || n != len(b.Parts):
		err = errors.New("it does not list the parts that the backup refers to")
	case back.Manifest != b.Manifest || len(back.Tablespaces) != len(b.Tablespaces) || len(back.ConfigFiles) != len(b.ConfigFiles):
		err = errors.New("its manifest, tablespaces or configuration files differ")
	case back.Size != p.meant.Bytes || back.Files != p.meant.Files:
		err = fmt.Errorf("it declares %d bytes in %d files, but the manifest lists %d in %d", back.Size, back.Files, p.meant.Bytes, p.meant.Files)
	case back.FirstWAL != first || back.LastWAL != last:
		err = fmt.Errorf("it needs WAL from %s to %s, but names %s to %s", first, last, back.FirstWAL, back.LastWAL)
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", readback.ErrRefused, catalog.BackupKey(b.ID), err)
	}
	return nil
}
