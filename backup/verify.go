package backup

import (
	"context"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
)

// Verify reads everything that a backup needs of its parts from the repository, and checks every hash: of
// backup.json and manifest, of each frame as stored, and of each chunk as a restore would put it together.
// Progress.Stored over Progress.Bytes tells how much a restore has to fetch for the data.
func Verify(ctx context.Context, s storage.Store, c *catalog.Catalog, e *catalog.Entry, workers int, progress *Progress) error {
	b, err := c.Backup(ctx, e)
	if err != nil {
		return err
	}
	progress.TotalBytes.Add(b.Size)
	progress.TotalFiles.Add(b.Files)
	f, err := fetchManifest(ctx, s, b)
	if err != nil {
		return err
	}
	defer f.close()
	m, err := f.read()
	if err != nil {
		return err
	}
	return newUnpacker(ctx, s, nil, workers, progress).unpack(m, b.Size)
}
