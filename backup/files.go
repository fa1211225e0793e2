package backup

import (
	"bytes"
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
	lines    []int // of each section
	entries  int64
	spool    *manifest.Spool
}

// fetchManifest brings the manifest to this host, and checks every hash before a line of it is believed.
func fetchManifest(ctx context.Context, s storage.Store, b *catalog.Backup) (*files, error) {
	data, err := readList(ctx, s, b)
	if err != nil {
		return nil, err
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

// readList fetches the list of a manifest's sections.
func readList(ctx context.Context, s storage.Store, b *catalog.Backup) ([]byte, error) {
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
	return data, nil
}

// fill fetches the sections into the spool file.
func (m *files) fill(ctx context.Context, s storage.Store) error {
	extents := make([]manifest.Extent, len(m.sections))
	for i, x := range m.sections {
		extents[i] = x.Extent
	}
	return readSections(ctx, s, extents, func(data []byte) error {
		i := len(m.lines)
		if part.Sum(data) != m.sections[i].SHA256 {
			return fmt.Errorf("%w: section %d has another hash than the list says", manifest.ErrDamaged, i+1)
		}
		m.lines = append(m.lines, bytes.Count(data, []byte("\n")))
		_, err := m.spool.Write(data)
		return err
	})
}

// readSections fetches sections of a manifest, neighbours with one request, and gives each to use.
func readSections(ctx context.Context, s storage.Store, extents []manifest.Extent, use func(data []byte) error) error {
	r, err := newFrameReader(s)
	if err != nil {
		return err
	}
	for done := 0; done < len(extents); {
		n := joined(extents[done:])
		if err := r.read(ctx, extents[done:done+n], func(_ int, data []byte) error { return use(data) }); err != nil {
			return err
		}
		done += n
	}
	return nil
}

// read begins to read the lines, from the first one.
func (m *files) read() (*manifest.Reader, error) { return m.spool.Read(m.backup, m.entries) }

func (m *files) close() { m.spool.Close() }
