package target

import (
	"cmp"
	"io/fs"
	"path/filepath"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/manifest"
)

func (t *Target) WriteFiles(directories, files []Placed) error {
	for _, d := range directories {
		if datadir.Exists(filepath.Join(t.Dir, d.Path)) {
			continue
		}
		if err := t.Mkdir(&manifest.File{Path: d.Path, Type: manifest.TypeDir, Mode: manifest.Mode(d.Mode)}); err != nil {
			return err
		}
	}
	for _, f := range files {
		if err := t.WriteAs(f.Path, f.Text, f.Mode); err != nil {
			return err
		}
	}
	return nil
}

// WriteAs is writeFile with a mode; 0: that of all files.
func (t *Target) WriteAs(name string, text []byte, mode fs.FileMode) error {
	as := *t
	as.FileMode = cmp.Or(mode, t.FileMode)
	return as.WriteFile(name, text)
}
