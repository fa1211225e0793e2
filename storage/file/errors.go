package file

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/pgobj/pgobj/storage"
)

const errNotDir = syscall.ENOTDIR

func (s *store) fail(op, key string, kind storage.Kind, err error) error {
	return &storage.Error{Op: op, Key: key, Store: s.String(), Kind: kind, Err: err}
}

// fault classifies an error of the file system. An I/O error is final: after a failed fsync the kernel
// may have dropped the bytes, and a second fsync that succeeds proves nothing.
func (s *store) fault(op, key string, err error) error {
	is := func(errs ...syscall.Errno) bool {
		for _, e := range errs {
			if errors.Is(err, e) {
				return true
			}
		}
		return false
	}
	kind := storage.KindOther
	switch {
	case errors.Is(err, fs.ErrPermission):
		kind, err = storage.KindDenied, storage.Because(err, storage.ErrDirectoryRights)
	case is(syscall.EROFS):
		kind, err = storage.KindDenied, fmt.Errorf("%w: the file system is mounted read-only", err)
	case is(syscall.ENOSPC, syscall.EDQUOT):
		err = storage.Because(fmt.Errorf("%w: the disk (or its quota, or its inodes) is full", err), storage.ErrFull)
	case is(syscall.ESTALE, syscall.EAGAIN, syscall.EINTR, syscall.ETIMEDOUT, syscall.EMFILE, syscall.ENFILE, syscall.ENOTCONN):
		kind = storage.KindTransient // a network file system, or too many open files
	case errors.Is(err, fs.ErrNotExist): // a directory was removed under us; objects were asked for before
		kind = storage.KindTransient
	}
	return s.fail(op, key, kind, err)
}

// noLinks reports whether the file system has no hard links (exFAT, some of FUSE and CIFS).
func noLinks(err error) bool {
	return errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EMLINK)
}
