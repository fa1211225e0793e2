package target

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/catalog"
)

// findOwned marks the places that the existing data directory's own links lead to: what is there may be
// replaced.
func (t *Target) findOwned() {
	for _, m := range t.Mounts {
		to, err := filepath.EvalSymlinks(filepath.Join(t.Dir, m.Path))
		if err != nil || !datadir.Exists(m.Location) {
			continue
		}
		at, err := filepath.EvalSymlinks(m.Location)
		_, notLink := os.Readlink(filepath.Join(t.Dir, m.Path))
		m.ours = err == nil && (to == at && notLink == nil || datadir.Within(at, t.Dir))
	}
	for _, m := range t.Mounts {
		m.ours = m.ours || slices.ContainsFunc(t.Left, func(l *mount) bool { return l.Location == datadir.RealPath(m.Location) })
	}
}

// findLeft finds, in the original's own directory, the tablespaces that the backup does not have. Recovery makes them there again, and
// would take the files that it finds for its own (create_tablespace_directories): they go like all else that is not in the backup. Of
// a directory in another place nobody knows whether its links are not a copy's, and lead to the original's files.
func (t *Target) findLeft(b *catalog.Backup) {
	names, err := datadir.ReadDir(filepath.Join(t.Dir, "pg_tblspc"))
	if err != nil || t.Dir != datadir.RealPath(b.PGDATA) {
		return // what cannot be read is found by the sweep
	}
	for _, name := range names {
		p := "pg_tblspc/" + name
		to, err := os.Readlink(filepath.Join(t.Dir, p))
		if err == nil && filepath.IsAbs(to) && !datadir.Within(to, t.Dir) && t.Mount(p) == nil {
			t.Left = append(t.Left, &mount{Path: p, Name: "tablespace " + name, Location: datadir.RealPath(to), version: datadir.VersionDir(b.PGVersion/10000, b.CatalogVersion)})
		}
	}
}

// removeLeft removes what is in such a tablespace, before the link that tells of it.
func (t *Target) removeLeft(p string) error {
	i := slices.IndexFunc(t.Left, func(m *mount) bool { return m.Path == p })
	if i < 0 {
		return nil
	}
	root, err := os.OpenRoot(t.Left[i].Location)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.RemoveAll(t.Left[i].version); err != nil {
		return err
	}
	return SyncPath(root.Name())
}

// checkDelta refuses a directory that is no data directory: what is not in the backup will be removed.
func (t *Target) checkDelta() error {
	names, err := datadir.ReadDir(t.Dir)
	if err != nil {
		return fmt.Errorf("%w: %w", backup.ErrTarget, err)
	}
	if len(names) > 0 && !slices.Contains(names, "PG_VERSION") && !slices.ContainsFunc(names, isMarker) {
		return fmt.Errorf("%w: %s is not a data directory of PostgreSQL, and --delta removes all files that are not in the backup: name another directory, or empty this one", backup.ErrTarget, t.Dir)
	}
	return nil
}

// isMarker knows the marker, and the name that it has before it is whole.
func isMarker(name string) bool { return strings.HasPrefix(name, Marker) }

// CheckCluster refuses the data directory of another cluster.
func (t *Target) CheckCluster(systemID uint64) error {
	c, ok := t.Control()
	if ok && c.SystemID != systemID {
		return fmt.Errorf("%w: %s belongs to another cluster (system identifier %d, the backup's is %d): move it away, or restore to another directory", backup.ErrTarget, t.Dir, c.SystemID, systemID)
	}
	return nil
}

// Control is the pg_control of the data directory that is there, under the name that it has now.
func (t *Target) Control() (datadir.Control, bool) {
	for _, name := range []string{datadir.ControlPath, controlBefore} {
		if b, err := os.ReadFile(filepath.Join(t.Dir, name)); err == nil {
			if c, err := datadir.ParseControl(b); err == nil {
				return c, true
			}
		}
	}
	return datadir.Control{}, false
}

// Prepare makes ready for a file: the link that leads to it, if it is to lie elsewhere, and, where there is one
// already, that it can be written to without harm to others.
func (t *Target) Prepare(p string) error {
	if m := t.Mount(p); m != nil {
		if err := t.symlink(p, m.Location); err != nil {
			return err
		}
	}
	if !t.Delta {
		return nil
	}
	root, name := t.Place(p)
	st, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	// A file with a second name is somebody else's too (pg_upgrade --link, cp --link).
	if sys, ok := st.Sys().(*syscall.Stat_t); !ok || sys.Nlink > 1 || !st.Mode().IsRegular() {
		return root.RemoveAll(name)
	}
	if st.Mode().Perm()&0o600 != 0o600 {
		return root.Chmod(name, 0o600)
	}
	return nil
}
