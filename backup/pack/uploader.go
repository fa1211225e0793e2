package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/backup/readback"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/codec"
)

// uploader stores parts while the workers pack the next ones. It owns the buffers, and so the memory of a
// backup: each worker fills one while one of its parts is on the way.
type uploader struct {
	store    storage.Store
	backup   string
	codec    codec.Codec
	progress *backup.Progress
	prev     *DedupIndex
	frames   *readback.Frames
	group    *errgroup.Group
	Ctx      context.Context
	buffers  chan []byte

	mu    sync.Mutex
	last  int // number of the newest part
	parts UsedParts
}

// UsedParts are the parts that a backup refers to, by name.
type UsedParts map[string]*UsedPart

// Part is one of them, from now on.
func (u UsedParts) Part(name string) *UsedPart {
	if u[name] == nil {
		u[name] = &UsedPart{Part: catalog.Part{Name: name}}
	}
	return u[name]
}

// Refer counts what is referred to in each part.
func (u UsedParts) Refer(extents []manifest.Extent) {
	for _, x := range extents {
		u.Part(x.Part).usage.Refer(x.Off, x.Size, x.Len)
	}
}

// List describes the parts for backup.json, in the order of their names.
func (u UsedParts) List() (all []catalog.Part) {
	for _, name := range slices.Sorted(maps.Keys(u)) {
		c := u[name].Part
		c.Live = u[name].usage.Live(c.Size, c.Raw)
		all = append(all, c)
	}
	return all
}

// UsedPart is a part that this backup refers to.
type UsedPart struct {
	catalog.Part
	usage part.Usage
}

// NewUploader is for the parts of a backup, packed by a number of workers. frames is told where the frames are.
func NewUploader(ctx context.Context, s storage.Store, backup string, codec codec.Codec, workers int, prev *DedupIndex, frames *readback.Frames, progress *backup.Progress) *uploader {
	u := &uploader{store: s, backup: backup, codec: codec, progress: progress, prev: prev, frames: frames, parts: UsedParts{}}
	u.group, u.Ctx = errgroup.WithContext(ctx)
	u.buffers = make(chan []byte, 2*workers+1)
	for range 2*workers + 1 {
		u.buffers <- nil // made when first used: a small backup needs only one
	}
	return u
}

// Writers are the part writers of the workers.
func (u *uploader) Writers(n int) ([]*part.Writer, error) {
	var out []*part.Writer
	for range n {
		buf, err := u.buffer()
		if err != nil {
			return nil, err
		}
		w, err := part.NewWriter(u.codec, buf, u.next, u.keep)
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, nil
}

func (u *uploader) buffer() ([]byte, error) {
	select {
	case b := <-u.buffers:
		if b == nil {
			b = make([]byte, 0, part.MaxStored)
		}
		return b, nil
	case <-u.Ctx.Done():
		return nil, context.Cause(u.Ctx)
	}
}

// next names a new part.
func (u *uploader) next() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.last++
	return part.Name(u.backup, u.last, u.codec)
}

// keep begins to store a full part and returns a buffer for the next one, as soon as there is one.
func (u *uploader) keep(f part.Full) ([]byte, error) {
	u.mu.Lock()
	p := u.parts.Part(f.Name)
	p.Size, p.Index, p.Raw = int64(len(f.Body)), f.Index.String(), f.Raw
	u.mu.Unlock()
	u.group.Go(func() error {
		err := u.frames.Add(f.Name, f.Body, f.Index)
		if err == nil {
			err = storage.PutOwn(u.Ctx, u.store, part.Key(f.Name), bytes.NewReader(f.Body), int64(len(f.Body)))
		}
		if err == nil && f.Name == part.Name(u.backup, 1, u.codec) {
			err = u.heldTo(part.Key(f.Name))
		}
		if err != nil {
			return fmt.Errorf("store part %s: %w", f.Name, err)
		}
		u.progress.Stored.Add(int64(len(f.Body)))
		u.buffers <- f.Body
		return nil
	})
	return u.buffer()
}

// heldTo makes sure, once in a backup, that the storage refuses to replace an object: servers that do not know that condition
// ignore it, and then nothing in the repository is safe. If it does replace this one, the backup has failed anyway.
func (u *uploader) heldTo(key string) error {
	err := u.store.Put(u.Ctx, key, strings.NewReader("?"), 1)
	switch {
	case errors.Is(err, storage.ErrExists):
		return nil
	case err == nil:
		return backup.ErrReplaces
	}
	return err
}

// Refer counts what is referred to in each part.
func (u *uploader) Refer(extents []manifest.Extent) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.parts.Refer(extents)
}

// Used describes the parts that the backup refers to, once all are stored.
func (u *uploader) Used() []catalog.Part {
	for name, p := range u.parts {
		if old, ok := u.prev.Part(name); ok {
			p.Part = old
		}
	}
	return u.parts.List()
}

// Wait returns when every part is stored.
func (u *uploader) Wait() error { return u.group.Wait() }
