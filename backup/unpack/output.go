package unpack

import (
	"bytes"
	"errors"
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
	// flushEvery is how much of a file is written before the disk begins with it, lest it has a gigabyte to
	// write when the fsync comes.
	flushEvery = 8 << 20
	// compareSize is how much of what is there is read at a time to be compared: what stays in the CPU's own cache is
	// read at four times the speed.
	compareSize = 256 << 10
)

// output is a file of a restore that several workers write: opened by the first, completed by the last.
type output struct {
	path  string
	mode  fs.FileMode
	mtime time.Time
	size  int64
	empty bool // it gets its size and no content
	once  sync.Once
	file  *os.File
	err   error
	left  atomic.Int64 // extents still to be written, and one for the plan that is not complete
	dirty atomic.Int64 // bytes written since the disk was last told to begin
}

func (o *output) open(t *target.Target) error {
	o.once.Do(func() {
		root, name := t.Place(o.path)
		flags := os.O_CREATE | os.O_EXCL | os.O_RDWR
		if t.Delta {
			flags &^= os.O_EXCL
		}
		o.file, o.err = root.OpenFile(name, flags, 0o600)
	})
	return o.err
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

// overwriteAll puts data into a file, page by page where that has something else. To read costs less than to write: the
// disk is spared, and the fsync need not wait for it.
func (o *output) overwriteAll(data []byte, at int64) error {
	now := comparing.Get().(*[compareSize]byte)
	defer comparing.Put(now)
	for done := 0; done < len(data); done += compareSize {
		if err := o.overwrite(data[done:min(done+compareSize, len(data))], at+int64(done), now[:]); err != nil {
			return err
		}
	}
	return nil
}

// comparing has buffers for what is there.
var comparing = sync.Pool{New: func() any { return new([compareSize]byte) }}

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
	return errors.Join(o.settle(t), o.file.Close())
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
