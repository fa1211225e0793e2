package target

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/manifest"
)

// ReadFile reads a small file of the data directory; one that is not there is empty.
func (t *Target) ReadFile(name string) (string, error) {
	root, at := t.Place(name)
	f, err := root.Open(at)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxAutoConf))
	return string(data), err
}

// RelocateMap rewrites tablespace_map where tablespaces went elsewhere: recovery makes the links in
// pg_tblspc again from it, and would lead back to the original's.
func (t *Target) RelocateMap() error {
	old, err := t.ReadFile("tablespace_map")
	if err != nil || old == "" {
		return err
	}
	var out strings.Builder
	for _, line := range datadir.MapLines(old) {
		oid, _, ok := strings.Cut(line, " ")
		m := t.Mount("pg_tblspc/" + oid)
		if !ok || m == nil {
			return fmt.Errorf("%w: tablespace_map names tablespace %q, which the backup does not list", manifest.ErrDamaged, oid)
		}
		fmt.Fprintf(&out, "%s %s\n", oid, datadir.EscapeMap(m.Location))
	}
	if out.String() == old {
		return nil
	}
	return t.WriteFile("tablespace_map", []byte(out.String()))
}
