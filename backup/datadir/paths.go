package datadir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

var (
	// ErrInside says that the storage is a directory in one that is backed up or restored.
	ErrInside = errors.New("the storage is inside the directory that it is for")
	// ErrNone says that a path belongs to no data directory.
	ErrNone = errors.New("no data directory found")
)

// Of finds the data directory of the cluster that a path belongs to: the current directory, in which PostgreSQL runs its commands;
// or the directory that the path lies in, as pg_rewind runs restore_command from anywhere with an absolute path; or PGDATA, if it is set. Its
// error is ErrNone.
func Of(path, pgdata string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	dirs := []string{"."}
	for dir := filepath.Dir(abs); ; dir = filepath.Dir(dir) {
		dirs = append(dirs, dir)
		if dir == filepath.Dir(dir) {
			break
		}
	}
	if filepath.IsAbs(path) { // then it says more than where we happen to be
		dirs = append(dirs[1:], ".")
	}
	if pgdata != "" {
		dirs = append(dirs, pgdata)
	}
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "global", "pg_control")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("%w: %s lies in none, and neither the current directory nor PGDATA is one", ErrNone, path)
}

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
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1) // only names: a million of them fit, a million FileInfo would not
	if gone(err) {
		err = nil
	}
	slices.Sort(names)
	return slices.Compact(names), err // a directory that changes while it is read may give a name twice
}

func Exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
