package walstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/segment"
)

// ReadHistory is the archived history of a timeline. The error is storage.ErrNotFound when there is none
// (as for timeline 1), or a *DamagedError.
func ReadHistory(ctx context.Context, s storage.Store, sysid uint64, tli segment.Timeline) (segment.Lineage, error) {
	var data bytes.Buffer
	name := segment.HistoryName(tli)
	if _, err := read(ctx, s, name, sysid, &data); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return segment.ParseHistory(tli, data.Bytes())
}

// errEnough stops a download when its first bytes have told all.
var errEnough = errors.New("enough")

// sizeOf is the segment size as an archived segment's header has it.
func sizeOf(ctx context.Context, s storage.Store, sysid uint64, name string) (segment.Size, error) {
	var size segment.Size
	first := make([]byte, 0, segment.HeaderSize)
	_, err := read(ctx, s, name, sysid, writerFunc(func(p []byte) (int, error) {
		first = append(first, p[:min(len(p), segment.HeaderSize-len(first))]...)
		if len(first) < segment.HeaderSize {
			return len(p), nil
		}
		h, err := segment.ParseHeader(first)
		if err != nil {
			return 0, err
		}
		size = h.Size
		return 0, errEnough
	}))
	if size != 0 {
		return size, nil
	}
	return 0, err
}
