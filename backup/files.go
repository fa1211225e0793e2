package backup

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
)

// files is the manifest of a backup, fetched and checked, in a spool file.
type files struct {
	backup   string
	sections []manifest.Section
	entries  int64
	spool    *manifest.Spool
}

// fetchManifest brings the manifest to this host, and checks every hash before a line of it is believed.
func fetchManifest(ctx context.Context, s storage.Store, b *catalog.Backup) (*files, error) {
	key := catalog.ManifestKey(b.ID)
	data, err := storage.ReadAll(ctx, s, key, manifest.MaxList)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, fmt.Errorf("%w: %s is missing", manifest.ErrDamaged, key)
	}
	if err != nil {
		return nil, err
	}
	if part.Sum(data).String() != b.Manifest.SHA256 {
		return nil, fmt.Errorf("%w: %s: its hash is not the one in the catalog", manifest.ErrDamaged, key)
	}
	m := &files{backup: b.ID}
	if m.sections, m.entries, err = manifest.ReadList(data, b.ID); err != nil {
		return nil, err
	}
	if m.spool, err = manifest.NewSpool(); err != nil {
		return nil, err
	}
	if err := m.fill(ctx, s); err != nil {
		m.spool.Close()
		return nil, fmt.Errorf("fetch the manifest of backup %s: %w", b.ID, err)
	}
	return m, nil
}

// fill fetches the sections into the spool file, neighbours with one request.
func (m *files) fill(ctx context.Context, s storage.Store) error {
	r, err := newFrameReader(s)
	if err != nil {
		return err
	}
	extents := make([]manifest.Extent, len(m.sections))
	for i, x := range m.sections {
		extents[i] = x.Extent
	}
	for done := 0; done < len(extents); {
		n := joined(extents[done:])
		err := r.read(ctx, extents[done:done+n], func(i int, data []byte) error {
			if part.Sum(data) != m.sections[done+i].SHA256 {
				return fmt.Errorf("%w: section %d has another hash than the list says", manifest.ErrDamaged, done+i+1)
			}
			_, err := m.spool.Write(data)
			return err
		})
		if err != nil {
			return err
		}
		done += n
	}
	return nil
}

// read begins to read the lines, from the first one.
func (m *files) read() (*manifest.Reader, error) { return m.spool.Read(m.backup, m.entries) }

func (m *files) close() { m.spool.Close() }
