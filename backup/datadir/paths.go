package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

var (
	// ErrInside says that the storage is a directory in one that is backed up or restored.
	ErrInside = errors.New("the storage is inside the directory that it is for")
)

// Outside refuses a storage in a directory of the cluster: each backup would have all earlier ones in it, and a delta restore
// would remove them, and the one that it reads.
func Outside(storageDir, dir string) error {
	if storageDir == "" || !Within(RealPath(storageDir), RealPath(dir)) {
		return nil
	}
	return fmt.Errorf("%w: %s is in %s", ErrInside, storageDir, dir)
}

// RealPath is a directory without links on the way, as far as it is there.
func RealPath(dir string) string {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		return real
	}
	return filepath.Clean(dir)
}

func Within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// ReadDir lists the names in a directory; none when it is not there.
func ReadDir(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

func Exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
