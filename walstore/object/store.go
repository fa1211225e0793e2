package object

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/pgobj/pgobj/storage"
)

func ReadInto(ctx context.Context, s storage.Store, key string, dst *checked) (Content, error) {
	body, err := s.Get(ctx, key, storage.All)
	if err != nil {
		return Content{}, err
	}
	defer body.Close()
	c, err := decodeInto(dst, body)
	if err == nil {
		return c, nil
	}
	if e, ok := errors.AsType[errRead](err); ok {
		return c, e.error
	}
	if e, ok := errors.AsType[errWrite](err); ok {
		return c, fmt.Errorf("%w: %w", ErrDest, e.error)
	}
	return c, &DamagedError{Key: key, Store: s.String(), Err: err}
}

// Create puts the object, or else finds out, by same, that the one that is there holds the same. Some stores refuse
// a Put because of another one that they are still working on, so that what exists cannot be read yet: then
// both are tried again. So they are, too, when somebody deletes the object in between.
func Create(ctx context.Context, s storage.Store, key string, body io.ReaderAt, size int64, same func() error) (there bool, err error) {
	for try := range 6 {
		err = s.Put(ctx, key, body, size)
		if !errors.Is(err, storage.ErrExists) {
			return false, err
		}
		if err = same(); !errors.Is(err, storage.ErrNotFound) {
			return true, err
		}
		select {
		case <-ctx.Done():
			return false, err
		case <-time.After(50 * time.Millisecond << try):
		}
	}
	return false, err
}

func BadSource(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrSource, fmt.Errorf(format, args...))
}
