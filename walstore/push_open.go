package walstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/partial"
)

// PushOpen stores the first n bytes of a segment that is not complete, in pieces: so they never stand in the way of the segment, which
// its server goes on with when it is started again. there: the archive has the whole file under its own name.
func PushOpen(ctx context.Context, s storage.Store, path string, n int64, sysid uint64) (there bool, err error) {
	name := filepath.Base(path)
	if err := SameFile(ctx, s, path, sysid); !errors.Is(err, storage.ErrNotFound) {
		return err == nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return false, object.BadSource("%w", err)
	}
	defer f.Close()
	if _, err := Inspect(f, name, func() (uint64, error) { return sysid, nil }); err != nil {
		return false, fmt.Errorf("push %s: %w", name, err)
	}
	for _, p := range partial.Split(name, 0, n) {
		if err := partial.PutPiece(ctx, s, sysid, p, f); err != nil {
			return false, err
		}
	}
	return false, nil
}
