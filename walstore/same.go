package walstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/partial"
)

// SameFile holds a complete file of the server's pg_wal against the archive's: other content is a *ConflictError, none is
// storage.ErrNotFound. It reads the file and the hash that is kept with the object. A file that is not there, or goes away
// (PostgreSQL recycles segments that are archived), says nothing.
func SameFile(ctx context.Context, s storage.Store, path string, sysid uint64) error {
	sum, ok, err := sumFile(path)
	if err != nil || !ok {
		return err
	}
	name := filepath.Base(path)
	key := object.Key(sysid, name)
	info, err := s.Stat(ctx, key)
	if err != nil {
		return err
	}
	body, err := s.Get(ctx, key, storage.Range{Offset: max(0, info.Size-object.TrailerSize), Length: object.TrailerSize})
	if err != nil {
		return err
	}
	defer body.Close()
	end, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	stored, err := object.ParseTrailer(end)
	if err != nil {
		return &object.DamagedError{Key: key, Store: s.String(), Err: err}
	}
	if stored.Sum != sum {
		return &object.ConflictError{Name: name, Key: key, Source: sum, Stored: stored.Sum}
	}
	return nil
}

// SameReceived holds the first n bytes of a segment against what has been received of it: storage.ErrNotFound when that is
// less, ErrConflict when it is something else.
func SameReceived(ctx context.Context, s storage.Store, path string, sysid uint64, n int64) error {
	name := filepath.Base(path)
	all, err := partial.Pieces(ctx, s, sysid, name)
	if err != nil {
		return err
	}
	chain, reach := partial.Chain(all)
	if reach < n {
		return fmt.Errorf("%s up to byte %d: %w", name, n, storage.ErrNotFound)
	}
	own := openLikeness(path)
	defer own.close()
	if err := partial.ReadChain(ctx, s, sysid, chain, own); err != nil {
		return err
	}
	if !own.same {
		return fmt.Errorf("%s: %w", name, object.ErrConflict)
	}
	return nil
}

// sumFile is the SHA-256 of a file; false when it is not there, or no longer when it has been read: what was read
// may then be what it was recycled for.
func sumFile(path string) (sum [32]byte, ok bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return sum, false, nil
	}
	if err != nil {
		return sum, false, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, false, err
	}
	read, err := f.Stat()
	if err != nil {
		return sum, false, err
	}
	now, err := os.Stat(path)
	return [32]byte(h.Sum(nil)), err == nil && os.SameFile(read, now), nil
}
