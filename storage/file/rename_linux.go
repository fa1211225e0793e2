package file

import (
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// renameNew gives tmp its name where link() is not to be had: a rename that fails when the target
// exists. There is no third way that could not replace an object in a race.
func renameNew(root *os.Root, dir, tmp, key string) error {
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	err = unix.Renameat2(int(d.Fd()), path.Base(tmp), int(d.Fd()), path.Base(key), unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("the file system supports neither hard links nor a rename without replacement, and pgobj needs one of them: %w", err)
	}
	return err
}
