package target

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/part"
)

// Save copies a file into the target, where it may be already, as the run before has left it.
func (t *Target) Save(from, name string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	if to := filepath.Join(t.Dir, name); datadir.Exists(to) {
		a, err1 := fileSum(from)
		b, err2 := fileSum(to)
		if err := errors.Join(err1, err2); err != nil || a == b {
			return err
		}
		return fmt.Errorf("%s already exists with other content: name another directory", to)
	}
	return t.writeFrom(name, f)
}

func fileSum(path string) (sum part.Hash, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return part.Hash(h.Sum(nil)), err
}
