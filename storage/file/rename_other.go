//go:build !linux

package file

import (
	"errors"
	"os"
)

func renameNew(*os.Root, string, string, string) error {
	return errors.New("the file system does not support hard links, which pgobj needs")
}
