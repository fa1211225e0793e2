package spool

import (
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/pgobj/pgobj/storage/owned"
)

// lockSoon is owned.Lock that is in nobody's way who only looks (see held), which takes the lock for a moment.
func lockSoon(path string) (*os.File, error) {
	f, err := owned.Lock(path)
	for tries := 0; errors.Is(err, owned.ErrBusy) && tries < 20; tries++ {
		time.Sleep(5 * time.Millisecond)
		f, err = owned.Lock(path)
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
