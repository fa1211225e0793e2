package content

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
)

// ErrNoFile says that a backup has no file of that path.
var ErrNoFile = errors.New("no such file in the backup")

// Cat writes one file of a backup: by its path in the data directory, or by the absolute path of a configuration
// file from outside of it. Each chunk is written when all of it has been checked.
func Cat(ctx context.Context, s storage.Store, b *catalog.Backup, name string, to io.Writer) error {
	if path.IsAbs(name) {
		for _, f := range b.ConfigFiles {
			if f.Path == name {
				_, err := to.Write(f.Content)
				return err
			}
		}
		if name = strings.TrimPrefix(name, strings.TrimSuffix(b.PGDATA, "/")+"/"); path.IsAbs(name) {
			return fmt.Errorf("%w: backup %[3]s does not contain the configuration file %[2]s", ErrNoFile, name, b.ID)
		}
	}
	m, err := FetchManifest(ctx, s, b)
	if err != nil {
		return err
	}
	defer m.Close()
	name = path.Clean(name)
	found := false
	for f, err := range m.All() {
		if err != nil {
			return err
		}
		if f.RawPath() != name {
			continue
		}
		if f.Type != manifest.TypeFile {
			return fmt.Errorf("%w: in backup %s %q is a %s", ErrNoFile, b.ID, name, f.Type)
		}
		found = true
		if err := writeContent(ctx, s, f, to); err != nil {
			return fmt.Errorf("read %q of backup %s: %w", name, b.ID, err)
		}
	}
	if !found {
		return fmt.Errorf("%w: backup %s has no %q", ErrNoFile, b.ID, name)
	}
	return nil
}

// writeContent fetches what one line of the manifest lists, neighbours with one request, and writes chunk by chunk.
func writeContent(ctx context.Context, s storage.Store, f *manifest.File, to io.Writer) error {
	var extents []manifest.Extent
	last := map[int]manifest.Chunk{} // the chunk that an extent is the last one of
	for _, c := range f.Chunks {
		extents = append(extents, c.Extents...)
		last[len(extents)-1] = c
	}
	data := make([]byte, 0, part.ChunkSize)
	return ReadExtents(ctx, s, extents, func(i int, content []byte) error {
		data = append(data, content...)
		c, whole := last[i]
		if !whole {
			return nil
		}
		if c.SHA256 != (part.Hash{}) && part.Sum(data) != c.SHA256 {
			return fmt.Errorf("%w: the hash of the chunk at %d does not match the manifest", part.ErrDamaged, extents[i].At/part.ChunkSize*part.ChunkSize)
		}
		_, err := to.Write(data)
		data = data[:0]
		return err
	})
}

// ReadContent fetches a small file.
func ReadContent(ctx context.Context, s storage.Store, f *manifest.File) ([]byte, error) {
	var data bytes.Buffer
	err := writeContent(ctx, s, f, &data)
	return data.Bytes(), err
}
