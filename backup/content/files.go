package content

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

// Files is the manifest of a backup, fetched and checked, in a spool file.
type Files struct {
	Backup   string
	Sections []manifest.Section
	Lines    []int // of each section
	Entries  int64
	Spool    *manifest.Spool
}

// FetchManifest brings the manifest to this host, and checks every hash before a line of it is believed.
func FetchManifest(ctx context.Context, s storage.Store, b *catalog.Backup) (*Files, error) {
	data, err := ReadList(ctx, s, b)
	if err != nil {
		return nil, err
	}
	m := &Files{Backup: b.ID}
	if m.Sections, m.Entries, err = manifest.ReadList(data, b.ID); err != nil {
		return nil, err
	}
	if m.Spool, err = manifest.NewSpool(); err != nil {
		return nil, err
	}
	if err := m.Fill(ctx, s); err != nil {
		m.Spool.Close()
		return nil, fmt.Errorf("fetch the manifest of backup %s: %w", b.ID, err)
	}
	return m, nil
}

// ReadList fetches the list of a manifest's sections.
func ReadList(ctx context.Context, s storage.Store, b *catalog.Backup) ([]byte, error) {
	key := catalog.ManifestKey(b.ID)
	data, err := storage.ReadAll(ctx, s, key, manifest.MaxList)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, fmt.Errorf("%w: %s is missing", manifest.ErrDamaged, key)
	}
	if err != nil {
		return nil, err
	}
	if part.Sum(data).String() != b.Manifest.SHA256 {
		return nil, fmt.Errorf("%w: %s: its hash does not match the catalog", manifest.ErrDamaged, key)
	}
	return data, nil
}

// Fill fetches the sections into the spool file.
func (m *Files) Fill(ctx context.Context, s storage.Store) error {
	extents := make([]manifest.Extent, len(m.Sections))
	for i, x := range m.Sections {
		extents[i] = x.Extent
	}
	return ReadSections(ctx, s, extents, func(data []byte) error {
		i := len(m.Lines)
		if part.Sum(data) != m.Sections[i].SHA256 {
			return fmt.Errorf("%w: the hash of section %d does not match the list", manifest.ErrDamaged, i+1)
		}
		m.Lines = append(m.Lines, bytes.Count(data, []byte("\n")))
		_, err := m.Spool.Write(data)
		return err
	})
}

// ReadSections fetches sections of a manifest, neighbours with one request, and gives each to use.
func ReadSections(ctx context.Context, s storage.Store, extents []manifest.Extent, use func(data []byte) error) error {
	r, err := NewFrameReader(s)
	if err != nil {
		return err
	}
	for done := 0; done < len(extents); {
		n := Joined(extents[done:])
		if err := r.Read(ctx, extents[done:done+n], func(_ int, data []byte) error { return use(data) }); err != nil {
			return err
		}
		done += n
	}
	return nil
}

// Read begins to read the lines, from the first one.
func (m *Files) Read() (*manifest.Reader, error) { return m.Spool.Read(m.Backup, m.Entries) }

func (m *Files) Close() { m.Spool.Close() }

func PartNumbers(parts []catalog.Part) (map[string][]int, error) {
	numbers := map[string][]int{}
	for _, p := range parts {
		backup, no, err := part.ParseName(p.Name)
		if err != nil {
			return nil, err
		}
		numbers[backup] = append(numbers[backup], no)
	}
	return numbers, nil
}
