package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
	last  int                  // number of the newest part
	Parts map[string]*UsedPart // by name
}

// UsedPart is a part that this backup refers to.
type UsedPart struct {
	catalog.Part
	Usage part.Usage
}

// Used describes the part for backup.json.
func (p *UsedPart) Used() catalog.Part {
	c := p.Part
	c.Live = p.Usage.Live(c.Size, c.Raw)
	return c
}

// NewUploader is for the parts of a backup, packed by a number of workers. frames is told where the frames are.
func NewUploader(ctx context.Context, s storage.Store, backup string, codec codec.Codec, workers int, prev *DedupIndex, frames *readback.Frames, progress *backup.Progress) *uploader {
	u := &uploader{store: s, backup: backup, codec: codec, progress: progress, prev: prev, frames: frames, Parts: map[string]*UsedPart{}}
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
	p := u.part(f.Name)
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

func (u *uploader) part(name string) *UsedPart {
	p := u.Parts[name]
	if p == nil {
		p = &UsedPart{Part: catalog.Part{Name: name}}
		if old, ok := u.prev.Parts[name]; ok {
			p.Part = old
		} else if old, ok := u.prev.OrphanParts[name]; ok {
			p.Part = old
		}
		u.Parts[name] = p
	}
	return p
}

// Refer counts what is referred to in each part.
func (u *uploader) Refer(extents []manifest.Extent) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, x := range extents {
		u.part(x.Part).Usage.Refer(x.Off, x.Size, x.Len)
	}
}

// SizeOf is the size of a part that another backup has stored.
func (p *DedupIndex) SizeOf(name string) (int64, bool) {
	x, ok := p.Parts[name]
	if !ok {
		x, ok = p.OrphanParts[name]
	}
	return x.Size, ok
}

// Wait returns when every part is stored.
func (u *uploader) Wait() error { return u.group.Wait() }
