package unpack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgobj/pgobj/backup/target"
)

const (
	// directLeast is the size of a file from which on its content goes past the page cache. A copy there of all that is
	// restored costs more time than everything else together, and pushes out what the host has there for others.
	directLeast = 1 << 20
	// directBlock is what such writes have to be aligned to: no disk has larger blocks.
	directBlock = 4096
	// flushEvery is how much else of a file is written before the disk begins with it, lest it has a gigabyte to
	// write when the fsync comes.
	flushEvery = 8 << 20
	// compareSize is how much of what is there is read at a time to be compared: what stays in the CPU's own cache is
	// read at four times the speed.
	compareSize = 256 << 10
)

// output is a file of a restore that several workers write: opened by the first, completed by the last.
type output struct {
	path   string
	mode   fs.FileMode
	mtime  time.Time
	size   int64
	empty  bool // it gets its size and no content
	once   sync.Once
	file   *os.File
	direct *os.File // the same, past the page cache; nil: not this file, or the file system cannot
	err    error
	left   atomic.Int64 // extents still to be written, and one for the plan that is not complete
	dirty  atomic.Int64 // bytes written since the disk was last told to begin
}

func (o *output) open(t *target.Target) error {
	o.once.Do(func() {
		root, name := t.Place(o.path)
		flags := os.O_CREATE | os.O_EXCL | os.O_RDWR
		if t.Delta {
			flags &^= os.O_EXCL
		}
		if o.file, o.err = root.OpenFile(name, flags, 0o600); o.err != nil || t.Delta || o.empty || o.size < directLeast {
			return
		}
		if f, err := root.OpenFile(name, os.O_WRONLY|unix.O_DIRECT, 0); err == nil && goodPast(f) {
			o.direct = f
			_ = unix.Fallocate(int(f.Fd()), 0, 0, o.size) // so that it lies in one piece; writes tell of errors
		} else if err == nil {
			f.Close()
		}
	})
	return o.err
}

// goodPast says whether a file's file system gains by writes past the page cache. With others they may be slow, or what
// is written so is not compressed (Btrfs).
func goodPast(f *os.File) bool {
	var s unix.Statfs_t
	err := unix.Fstatfs(int(f.Fd()), &s)
	return err == nil && (int64(s.Type) == unix.EXT4_SUPER_MAGIC || int64(s.Type) == unix.XFS_SUPER_MAGIC)
}

// write puts data at its place.
func (o *output) write(data []byte, at int64) error {
	_, err := o.file.WriteAt(data, at)
	if err == nil && o.dirty.Add(int64(len(data))) >= flushEvery {
		o.dirty.Store(0)
		// Only advice: the fsync at the end tells of errors.
		_ = unix.SyncFileRange(int(o.file.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	return err
}

// diskBlock is content that is to be written past the page cache.
type diskBlock struct {
	file *output
	data []byte
	at   int64
}

// aligned says whether a write can go past the page cache.
func aligned(at int64, n int) bool { return at%directBlock == 0 && n%directBlock == 0 }

// startWriters starts those who write past the page cache, n at a time: each waits for the disk.
func (u *unpacker) startWriters(n int) {
	for range n {
		u.writing.Add(1)
		u.group.Go(func() error {
			defer u.writing.Done()
			for b := range u.blocks {
				if err := u.writeBlock(b); err != nil {
					return fmt.Errorf("restore %q: %w", b.file.path, err)
				}
			}
			return nil
		})
	}
}

// writeLater copies data for a writer. A worker that waited for the disk itself would leave its CPU idle, and the
// memory that a disk has just read is slow to be written to again.
func (u *unpacker) writeLater(o *output, data []byte, at int64) error {
	buf, err := u.buffer()
	if err != nil {
		return err
	}
	select {
	case u.blocks <- diskBlock{o, buf[:copy(buf, data)], at}:
		return nil
	case <-u.ctx.Done():
		return context.Cause(u.ctx)
	}
}

// buffer waits for one of bufferSize, which has to be given back.
func (u *unpacker) buffer() ([]byte, error) {
	select {
	case buf := <-u.buffers:
		if buf == nil {
			buf = make([]byte, u.bufferSize) // which Go aligns to its pages
		}
		return buf, nil
	case <-u.ctx.Done():
		return nil, context.Cause(u.ctx)
	}
}

func (u *unpacker) writeBlock(b diskBlock) error {
	_, err := b.file.direct.WriteAt(b.data, b.at)
	if errors.Is(err, unix.EINVAL) { // not on this disk
		err = b.file.write(b.data, b.at)
	}
	u.buffers <- b.data[:cap(b.data)]
	if err != nil {
		return err
	}
	return u.done(b.file)
}

// overwrite puts data into a file, page by page where that has something else. To read costs less than to write: the
// disk is spared, and the fsync need not wait for it.
func (u *unpacker) overwrite(o *output, data []byte, at int64) error {
	now, err := u.buffer()
	if err != nil {
		return err
	}
	defer func() { u.buffers <- now }()
	for done := 0; done < len(data) && err == nil; done += len(now) {
		err = o.overwrite(data[done:min(done+len(now), len(data))], at+int64(done), now)
	}
	return err
}

// overwrite does that with as much as now, where what is there is read to, has room for.
func (o *output) overwrite(data []byte, at int64, now []byte) error {
	const page = 8 << 10
	there, _ := o.file.ReadAt(now[:len(data)], at) // what cannot be read is written
	for i := 0; i < len(data); {
		end := i
		for end < len(data) {
			next := min(end+page, len(data))
			if next <= there && bytes.Equal(now[end:next], data[end:next]) {
				break
			}
			end = next
		}
		if end > i {
			if err := o.write(data[i:end], at+int64(i)); err != nil {
				return err
			}
		}
		i = end + page
	}
	return nil
}

// complete gives the file its size, mode, owner and time, makes it durable and closes it.
func (o *output) complete(t *target.Target) error {
	err := o.settle(t)
	if o.direct != nil {
		err = errors.Join(err, o.direct.Close())
	}
	return errors.Join(err, o.file.Close())
}

// settle changes only what is not as it should be: most files have their owner and mode already, and after a delta
// restore of a file that was the same all the rest, so that the fsync has nothing to write.
func (o *output) settle(t *target.Target) error {
	if o.empty {
		if err := o.file.Truncate(0); err != nil {
			return err
		}
	}
	st, err := o.file.Stat()
	if err != nil {
		return err
	}
	if st.Size() != o.size {
		if err := o.file.Truncate(o.size); err != nil {
			return err
		}
	}
	if st.Mode() != o.mode {
		if err := o.file.Chmod(o.mode); err != nil {
			return err
		}
	}
	owner, known := st.Sys().(*syscall.Stat_t)
	if t.Uid >= 0 && !(known && int(owner.Uid) == t.Uid && int(owner.Gid) == t.Gid) {
		if err := o.file.Chown(t.Uid, t.Gid); err != nil {
			return err
		}
	}
	if !st.ModTime().Equal(o.mtime) {
		root, name := t.Place(o.path)
		if err := root.Chtimes(name, o.mtime, o.mtime); err != nil {
			return err
		}
	}
	return o.file.Sync()
}
