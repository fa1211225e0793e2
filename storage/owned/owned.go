// Package owned looks at files of this host before they are believed: who owns them, and who may change them. It
// refuses to repair anything, and to know what the files are for.
package owned

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrStranger: another user than root and this process's owns the file or directory, or may write to it.
var ErrStranger = errors.New("another user could have written to it")

// File returns nil when the path is a regular file, no link, that only root or this process's user can have changed.
// Errors: ErrStranger, or what os.Lstat says.
func File(path string) error {
	info, err := os.Lstat(path)
	if err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s: %w: it is not a regular file", path, ErrStranger)
	}
	if err != nil {
		return err
	}
	return check(path, info, false)
}

// Dir returns nil when the path is a directory in which only root or this process's user can make, replace or remove anything.
// It may be reached by a link, which then has to belong to one of the two as well. Errors: ErrStranger, or what os.Stat says.
func Dir(path string) error {
	if err := Link(path); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err == nil && !info.IsDir() {
		return fmt.Errorf("%s: %w: it is not a directory", path, ErrStranger)
	}
	if err != nil {
		return err
	}
	return check(path, info, false)
}

// Link returns nil unless the path is a link that another user than root or this process's has made.
func Link(path string) error {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&os.ModeSymlink == 0 {
		return err
	}
	return checkOwner(path, info)
}

// Open opens a file as os.OpenFile does, but neither follows a link nor waits for the other end of a pipe; and only when it is a
// regular file that nobody but root or this process's user can have changed. Errors: ErrStranger, or those of os.OpenFile.
func Open(path string, flag int, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flag|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, mode)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w: it is not a regular file", path, ErrStranger)
	}
	if err == nil {
		err = check(path, info, false)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// ErrBusy: another process already does this.
var ErrBusy = errors.New("another process already does this")

// Lock opens a file as Open does, makes it if there is none, and takes the lock that it stands for, which ends with the process.
// ErrBusy: another process has it, or the file has been renamed or removed meanwhile, so that a lock on it is none.
func Lock(path string) (*os.File, error) {
	f, err := Open(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	mine, err1 := f.Stat()
	there, err2 := os.Lstat(path)
	if err != nil || err1 != nil || err2 != nil || !os.SameFile(mine, there) {
		f.Close()
		return nil, ErrBusy
	}
	return f, nil
}

// Named looks at an open file whose path a person gave. It may be any kind of file, and root may be given one of any owner: root
// has named it. Errors: ErrStranger, or those of os.Lstat.
func Named(f *os.File) error {
	info, err := f.Stat()
	if err == nil {
		err = Link(f.Name())
	}
	if err != nil {
		return err
	}
	return check(f.Name(), info, os.Geteuid() == 0)
}

// check judges by owner and mode. The group's right to write counts as that of others: POSIX ACLs show there, too.
func check(path string, info os.FileInfo, anyOwner bool) error {
	if !anyOwner {
		if err := checkOwner(path, info); err != nil {
			return err
		}
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("%s: %w: its mode is %04o", path, ErrStranger, mode)
	}
	return nil
}

func checkOwner(path string, info os.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: %w: this system does not show its owner", path, ErrStranger)
	}
	if st.Uid != 0 && int64(st.Uid) != int64(os.Geteuid()) {
		return fmt.Errorf("%s: %w: it belongs to user %d, and this process runs as user %d", path, ErrStranger, st.Uid, os.Geteuid())
	}
	return nil
}
