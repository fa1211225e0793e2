package content

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

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
	spool    *manifest.Spool
}

// FetchManifest brings the manifest to this host, and checks every hash before a line of it is believed.
func FetchManifest(ctx context.Context, s storage.Store, b *catalog.Backup) (*Files, error) {
	data, err := ReadList(ctx, s, b)
	if err != nil {
		return nil, err
	}
	return FetchListed(ctx, s, b.ID, data)
}

// FetchListed is FetchManifest with the list of sections of a backup.
func FetchListed(ctx context.Context, s storage.Store, backup string, list []byte) (_ *Files, err error) {
	m := &Files{Backup: backup}
	if m.Sections, m.Entries, err = manifest.ReadList(list, backup); err != nil {
		return nil, err
	}
	if m.spool, err = manifest.NewSpool(); err != nil {
		return nil, err
	}
	if err := m.fill(ctx, s); err != nil {
		m.Close()
		return nil, fmt.Errorf("fetch the manifest of backup %s: %w", backup, err)
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

// fill fetches the sections into the spool file.
func (m *Files) fill(ctx context.Context, s storage.Store) error {
	extents := make([]manifest.Extent, len(m.Sections))
	for i, x := range m.Sections {
		extents[i] = x.Extent
	}
	return ReadExtents(ctx, s, extents, func(i int, data []byte) error {
		if part.Sum(data) != m.Sections[i].SHA256 {
			return fmt.Errorf("%w: the hash of section %d does not match the list", manifest.ErrDamaged, i+1)
		}
		m.Lines = append(m.Lines, bytes.Count(data, []byte("\n")))
		_, err := m.spool.Write(data)
		return err
	})
}

// ReadExtents fetches extents, neighbours with one request, and gives the content of each to use, by its index.
func ReadExtents(ctx context.Context, s storage.Store, extents []manifest.Extent, use func(i int, data []byte) error) error {
	r, err := NewFrameReader(s)
	if err != nil {
		return err
	}
	for done := 0; done < len(extents); {
		n := Joined(extents[done:])
		body, err := r.Open(ctx, extents[done:done+n])
		if err == nil {
			err = r.Take(body, extents[done:done+n], func(i int, data []byte) error { return use(done+i, data) })
		}
		if err != nil {
			return err
		}
		done += n
	}
	return nil
}

// Read begins to read the lines, from the first one.
func (m *Files) Read() (*manifest.Reader, error) { return m.spool.Read(m.Backup, m.Entries) }

// All are the lines, up to the first error.
func (m *Files) All() iter.Seq2[*manifest.File, error] {
	return func(yield func(*manifest.File, error) bool) {
		lines, err := m.Read()
		for err == nil {
			var f *manifest.File
			if f, err = lines.Next(); err == nil && !yield(f, nil) {
				return
			}
		}
		if err != io.EOF {
			yield(nil, err)
		}
	}
}

func (m *Files) Close() { m.spool.Close() }

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
