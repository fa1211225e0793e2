package file

import (
	"os"
	"syscall"
)

// give hands what root has just made to the owner of the store: a record of root's, in a log that PostgreSQL's user
// writes, would keep that user from reading the log ever again.
func give(root *os.Root, name string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	top, err := root.Stat(".")
	if err != nil {
		return err
	}
	made, err := root.Lstat(name)
	if err != nil {
		return err
	}
	owner, ok1 := top.Sys().(*syscall.Stat_t)
	now, ok2 := made.Sys().(*syscall.Stat_t)
	if !ok1 || !ok2 || owner.Uid == 0 || now.Uid != 0 {
		return nil
	}
	return root.Lchown(name, int(owner.Uid), int(owner.Gid))
}
