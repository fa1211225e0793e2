// Package file is the storage driver for a directory of a file system: every object is a file, its key the
// path below the directory. It owns durability (fsync of file and directories) and create-only puts by link().
//
// It refuses to follow a symbolic link out of the directory, and to take a directory that is not there (a disk
// that is not mounted) for an empty store. One thing that S3 allows cannot be: an object "a" beside
// an object "a/b". Directories that have become empty stay.
//
// A Put writes a file named .tmp-… in the target's directory. One that is killed leaves this file behind; it is never
// listed, and a listing of the directory removes it when nothing was written to it for a day.
package file

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"

	"github.com/pgobj/pgobj/storage"
)

// Config names the directory.
type Config struct {
	Dir string // absolute path

	// Create lets Put make Dir itself (not its parents) when it does not exist. It is meant for the one
	// command that begins a repository: with it always on, a disk that is not mounted would make
	// backups go to the disk below the mount point.
	Create bool
}

// New returns the store in cfg.Dir. It does not look at the directory: each operation opens it again, so
// that a disk that is mounted or lost later is noticed.
func New(cfg Config) (storage.Store, error) {
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("directory %q: must be an absolute path", cfg.Dir)
	}
	return &store{dir: filepath.Clean(cfg.Dir), create: cfg.Create}, nil
}

// tempName is how the names of temporary files begin.
const tempName = ".tmp-"

type store struct {
	dir    string
	create bool
	synced sync.Map // directories whose own entries are known to be on disk, up to the root
}

func (s *store) String() string { return "file://" + filepath.ToSlash(s.dir) }

// open opens the root directory. The caller closes it.
func (s *store) open(ctx context.Context, op, key string) (*os.Root, error) {
	if ctx.Err() != nil {
		return nil, s.fail(op, key, storage.KindTransient, context.Cause(ctx))
	}
	if op != "list" {
		if err := storage.CheckKey(key); err != nil {
			return nil, s.fail(op, key, storage.KindOther, err)
		}
	}
	root, err := os.OpenRoot(s.dir)
	if errors.Is(err, fs.ErrNotExist) && s.create && op == "put" {
		if err = os.Mkdir(s.dir, 0o700); err == nil || errors.Is(err, fs.ErrExist) {
			if err = syncDir(os.Open(filepath.Dir(s.dir))); err == nil {
				root, err = os.OpenRoot(s.dir)
			}
		}
	}
	if err == nil {
		return root, nil
	}
	// os.OpenRoot has an error of its own for what is no directory.
	info, statErr := os.Stat(s.dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotDir) || statErr == nil && !info.IsDir() {
		return nil, s.fail(op, key, storage.KindNoStore, storage.Because(fmt.Errorf("%w (check that the disk is mounted; a new directory must be created first)", err), storage.ErrNoDirectory))
	}
	return nil, s.fault(op, key, err)
}

func (s *store) Put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	root, err := s.open(ctx, "put", key)
	if err != nil {
		return err
	}
	defer root.Close()
	// Before the bytes are written, as a courtesy: link decides.
	switch info, err := root.Lstat(key); {
	case err == nil && info.IsDir():
		return s.fail("put", key, storage.KindOther, errors.New("a directory has this name"))
	case err == nil:
		return s.exists(root, key)
	}
	dir := path.Dir(key)
	if _, err := root.Stat(dir); err != nil {
		s.synced.Delete(dir)
		if err := root.MkdirAll(dir, 0o700); err != nil {
			return s.fault("put", key, err)
		}
		for p := dir; p != "."; p = path.Dir(p) {
			if err := give(root, p); err != nil {
				return s.fault("put", key, err)
			}
		}
	}
	tmp := path.Join(dir, tempName+rand.Text())
	if err := s.write(ctx, root, tmp, key, body, size); err != nil {
		return err
	}
	defer root.Remove(tmp) // a leftover is harmless
	if err := give(root, tmp); err != nil {
		return s.fault("put", key, err)
	}
	err = root.Link(tmp, key)
	if noLinks(err) {
		err = renameNew(root, dir, tmp, key)
	}
	if errors.Is(err, fs.ErrExist) && !sameFile(root, tmp, key) { // the same: NFS has lost the answer to our link
		return s.exists(root, key)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return s.fault("put", key, err)
	}
	if err := s.makeDurable(root, dir); err != nil {
		return s.fault("put", key, err)
	}
	return nil
}

// write makes the file tmp of size bytes, on disk.
func (s *store) write(ctx context.Context, root *os.Root, tmp, key string, body io.ReaderAt, size int64) (err error) {
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return s.fault("put", key, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			root.Remove(tmp)
		}
	}()
	buf := make([]byte, min(size, 128<<10))
	for off := int64(0); off < size; {
		if ctx.Err() != nil {
			return s.fail("put", key, storage.KindTransient, context.Cause(ctx))
		}
		chunk := buf[:min(int64(len(buf)), size-off)]
		n, err := body.ReadAt(chunk, off)
		if n < len(chunk) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return s.fail("put", key, storage.KindOther, fmt.Errorf("read the data to store: %d of %d bytes: %w", off+int64(n), size, err))
		}
		if _, err := f.Write(chunk); err != nil {
			return s.fault("put", key, err)
		}
		off += int64(n)
	}
	if err := f.Sync(); err != nil {
		return s.fault("put", key, err)
	}
	if err := f.Close(); err != nil {
		return s.fault("put", key, err)
	}
	return nil
}

// exists reports that key is taken. Whoever learns that may conclude that the object is safe, so its
// entry is brought to disk first: the other process may still be about to do so.
func (s *store) exists(root *os.Root, key string) error {
	if err := s.makeDurable(root, path.Dir(key)); err != nil {
		return s.fault("put", key, err)
	}
	return s.fail("put", key, storage.KindExists, nil)
}

// makeDurable brings the entries of the directory dir to disk, and once in this process those of all above it: that a
// directory is there does not mean that who made it has synced it.
func (s *store) makeDurable(root *os.Root, dir string) error {
	if err := syncDir(root.Open(dir)); err != nil {
		return err
	}
	if _, done := s.synced.Load(dir); done {
		return nil
	}
	for d := dir; d != "."; d = path.Dir(d) {
		if err := syncDir(root.Open(path.Dir(d))); err != nil {
			return err
		}
	}
	s.synced.Store(dir, true)
	return nil
}

// syncDir takes the result of opening a directory.
func syncDir(d *os.File, err error) error {
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func sameFile(root *os.Root, a, b string) bool {
	ia, erra := root.Lstat(a)
	ib, errb := root.Lstat(b)
	return erra == nil && errb == nil && os.SameFile(ia, ib)
}

func (s *store) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, error) {
	root, err := s.open(ctx, "get", key)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if r.Offset < 0 || r.Length < 0 {
		return nil, s.fail("get", key, storage.KindOther, fmt.Errorf("range %+v is negative", r))
	}
	f, info, err := s.openObject(root, "get", key)
	if err != nil {
		return nil, err
	}
	left := max(0, info.Size()-r.Offset)
	if r.Length > 0 {
		left = min(left, r.Length)
	}
	return &object{ctx: ctx, s: s, key: key, f: f, off: r.Offset, left: left}, nil
}

// openObject opens a regular file. Links within the directory are followed, as a person may have made them.
func (s *store) openObject(root *os.Root, op, key string) (*os.File, fs.FileInfo, error) {
	info, err := root.Stat(key)
	var f *os.File
	switch {
	case err == nil && !info.Mode().IsRegular(), errors.Is(err, errNotDir), errors.Is(err, fs.ErrNotExist):
		return nil, nil, s.fail(op, key, storage.KindNotFound, nil)
	case err == nil:
		f, err = root.Open(key)
	}
	if err == nil {
		if info, err = f.Stat(); err == nil {
			return f, info, nil
		}
		f.Close()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, s.fail(op, key, storage.KindNotFound, nil)
	}
	return nil, nil, s.fault(op, key, err)
}

func (s *store) Stat(ctx context.Context, key string) (storage.Info, error) {
	root, err := s.open(ctx, "stat", key)
	if err != nil {
		return storage.Info{}, err
	}
	defer root.Close()
	info, err := root.Stat(key)
	switch {
	case err == nil && !info.Mode().IsRegular(), errors.Is(err, errNotDir), errors.Is(err, fs.ErrNotExist):
		return storage.Info{}, s.fail("stat", key, storage.KindNotFound, nil)
	case err != nil:
		return storage.Info{}, s.fault("stat", key, err)
	}
	return storage.Info{Key: key, Size: info.Size(), Created: info.ModTime()}, nil
}

func (s *store) Delete(ctx context.Context, keys ...string) error {
	return storage.DeleteEach(keys, func(key string) error { return s.remove(ctx, key) })
}

func (s *store) remove(ctx context.Context, key string) error {
	root, err := s.open(ctx, "delete", key)
	if err != nil {
		return err
	}
	defer root.Close()
	info, err := root.Lstat(key)
	if err == nil && info.IsDir() || errors.Is(err, errNotDir) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = root.Remove(key)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		// Without this a power cut brings back what a caller believes to be gone.
		err = syncDir(root.Open(path.Dir(key)))
	}
	if err != nil {
		return s.fault("delete", key, err)
	}
	return nil
}

// object is the body of a Get: exactly left more bytes, or an error.
type object struct {
	ctx  context.Context
	s    *store
	key  string
	f    *os.File
	off  int64
	left int64
}

func (o *object) Read(p []byte) (int, error) {
	if o.left == 0 {
		return 0, io.EOF
	}
	if o.ctx.Err() != nil {
		return 0, o.s.fail("get", o.key, storage.KindTransient, context.Cause(o.ctx))
	}
	n, err := o.f.ReadAt(p[:min(int64(len(p)), o.left)], o.off)
	o.off += int64(n)
	o.left -= int64(n)
	switch {
	case o.left == 0, err == nil:
		return n, nil
	case err == io.EOF:
		return n, o.s.fail("get", o.key, storage.KindTransient, fmt.Errorf("%d bytes before the end: %w", o.left, io.ErrUnexpectedEOF))
	}
	return n, o.s.fault("get", o.key, err)
}

func (o *object) Close() error {
	o.f.Close()
	return nil
}
