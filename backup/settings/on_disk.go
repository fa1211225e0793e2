package settings

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/pgobj/pgobj/backup/datadir"
)

// Counts says whether include_dir reads a file (GetConfFilesInDir in conffiles.c).
func Counts(file string) bool {
	return strings.HasSuffix(file, ".conf") && !strings.HasPrefix(filepath.Base(file), ".")
}

// Counted are the files with these names in a directory, which have an order, that include_dir reads.
func Counted(dir string, names []string) (files []string) {
	for _, name := range names {
		if Counts(name) {
			files = append(files, filepath.Join(dir, name))
		}
	}
	return files
}

// OnDisk are the files of this host.
var OnDisk = Source{
	Read: func(file string) (string, bool) {
		text, err := os.ReadFile(file)
		return string(text), err == nil
	},
	List: func(dir string) (files []string, ok bool) {
		names, err := datadir.ReadDir(dir)
		return Counted(dir, names), err == nil
	},
}
