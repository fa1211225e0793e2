package spool

import (
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/pgobj/pgobj/storage/owned"
)

// ErrBusy: another process already does this.
var ErrBusy = errors.New("another process already does this")

// lockFile takes the lock that a file stands for, and makes the file if there is none. A lock on a file that has been
// removed meanwhile is none.
func lockFile(path string) (*os.File, error) {
	f, err := owned.Open(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, ErrBusy
	}
	mine, err1 := f.Stat()
	there, err2 := os.Stat(path)
	if err1 != nil || err2 != nil || !os.SameFile(mine, there) {
		f.Close()
		return nil, ErrBusy
	}
	return f, nil
}

// lockSoon is lockFile that is in nobody's way who only looks (see held), which takes the lock for a moment.
func lockSoon(path string) (*os.File, error) {
	f, err := lockFile(path)
	for tries := 0; errors.Is(err, ErrBusy) && tries < 20; tries++ {
		time.Sleep(5 * time.Millisecond)
		f, err = lockFile(path)
	}
	return f, err
}

// held says whether a process that lives has the lock that a file stands for.
func held(path string) bool {
	f, err := owned.Open(path, os.O_RDONLY, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return locked(f)
}

// locked says it of an open file.
func locked(f *os.File) bool {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) != nil
}
