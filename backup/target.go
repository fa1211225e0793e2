package backup

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pgobj/pgobj/backup/cluster"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/catalog"
)

// target is where a restore writes: the data directory and the folders of tablespaces, each an os.Root,
// so that nothing that a manifest says can lead outside of them.
type target struct {
	dir         string
	root        *os.Root
	spaces      map[string]*space // by OID
	version     string            // the only folder in them that is this cluster's
	uid, gid    int               // owner to set; -1: leave it, as only root may give files away
	fileMode    fs.FileMode       // of the files that are made here: 0600, or 0640 where the group may read
	dirs        []dir             // as in the manifest; completed at the end
	controlTemp string
}

// dir is a folder of the manifest. It gets its mode when all that is in it is there: one that is closed to
// its own owner could not be filled.
type dir struct {
	path string
	mode fs.FileMode
}

// space is a tablespace outside of the data directory's own folder tree.
type space struct {
	location string
	root     *os.Root
}

// newTarget checks every folder before it creates the first.
func newTarget(dir string, b *catalog.Backup) (*target, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	t := &target{dir: dir, spaces: map[string]*space{}, version: tablespaceVersion(b), uid: -1, gid: -1, controlTemp: controlPath + ".pgobj-restoring"}
	if pid, running, err := cluster.Running(dir); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTarget, err)
	} else if running {
		return nil, fmt.Errorf("%w: a PostgreSQL server runs in %s (pid %d): stop it, and move the folder away", ErrTarget, dir, pid)
	}
	if err := empty(dir); err != nil {
		return nil, err
	}
	for _, ts := range b.Tablespaces {
		if ts.Location == "" {
			continue
		}
		if !filepath.IsAbs(ts.Location) {
			return nil, fmt.Errorf("%w: tablespace %s has the location %q, which is no absolute path", catalog.ErrDamaged, ts.Name, ts.Location)
		}
		s := &space{location: t.relocate(ts.Location, b.PGDATA)}
		t.spaces[strconv.FormatUint(uint64(ts.OID), 10)] = s
		version := filepath.Join(s.location, t.version)
		if err := empty(version); err != nil {
			return nil, fmt.Errorf("tablespace %s: %w", ts.Name, err)
		}
	}
	if err := enough(dir, b.Size); err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 {
		if t.uid, t.gid, err = lookup(b.Owner); err != nil {
			return nil, err
		}
	}
	return t, t.create()
}

// relocate is where a tablespace goes: to its old place, unless that was inside the old data directory.
func (t *target) relocate(location, pgdata string) string {
	if rel, err := filepath.Rel(pgdata, location); err == nil && filepath.IsLocal(rel) {
		return filepath.Join(t.dir, rel)
	}
	return location
}

// tablespaceVersion is the folder that this cluster has in a tablespace (TABLESPACE_VERSION_DIRECTORY).
func tablespaceVersion(b *catalog.Backup) string {
	return fmt.Sprintf("PG_%d_%d", b.PGVersion/10000, b.CatalogVersion)
}

// create makes the folders that the restore begins with.
func (t *target) create() (err error) {
	if t.root, err = t.open(t.dir); err != nil {
		return err
	}
	for _, s := range t.spaces {
		if s.root, err = t.open(s.location); err != nil {
			return err
		}
	}
	return nil
}

func (t *target) open(dir string) (*os.Root, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTarget, err)
	}
	if t.uid >= 0 {
		if err := os.Chown(dir, t.uid, t.gid); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrTarget, err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTarget, err)
	}
	return root, nil
}

func (t *target) close() {
	for _, s := range t.spaces {
		if s.root != nil {
			s.root.Close()
		}
	}
	if t.root != nil {
		t.root.Close()
	}
}

// place finds the folder and the name in it for a path of the manifest.
func (t *target) place(p string) (*os.Root, string) {
	if rest, ok := strings.CutPrefix(p, "pg_tblspc/"); ok {
		oid, rest, below := strings.Cut(rest, "/")
		if s := t.spaces[oid]; s != nil && below {
			return s.root, rest
		}
	}
	if p == controlPath {
		return t.root, t.controlTemp
	}
	return t.root, p
}

// admits says whether a path of the manifest may be restored: a tablespace's location can be any folder of
// this host, with others' files in it, so nothing but the cluster's own folder there is touched.
func (t *target) admits(p string) bool {
	rest, ok := strings.CutPrefix(p, "pg_tblspc/")
	oid, rest, below := strings.Cut(rest, "/")
	if !ok || !below || t.spaces[oid] == nil {
		return true
	}
	folder, _, _ := strings.Cut(rest, "/")
	return folder == t.version
}

// empty refuses a path that is there and is not an empty folder.
func empty(dir string) error {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTarget, err)
	}
	defer f.Close()
	switch names, err := f.Readdirnames(1); {
	case len(names) > 0:
		return fmt.Errorf("%w: %s is not empty (there is %q in it): move it away, or restore to another folder", ErrTarget, dir, names[0])
	case err != io.EOF:
		return fmt.Errorf("%w: %w", ErrTarget, err)
	}
	return nil
}

// enough refuses when the file system of dir has less room than the data needs.
func enough(dir string, size int64) error {
	for {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
			dir = filepath.Dir(dir)
			continue
		}
		if err != nil {
			return fmt.Errorf("%w: look for free space in %s: %w", ErrTarget, dir, err)
		}
		if free := int64(st.Bavail) * st.Bsize; free < size {
			return fmt.Errorf("%w: the backup has %d bytes, the file system of %s has %d free", ErrTarget, size, dir, free)
		}
		return nil
	}
}

// lookup finds the numbers of USER:GROUP on this host.
func lookup(owner string) (uid, gid int, err error) {
	u, g, _ := strings.Cut(owner, ":")
	usr, err := user.Lookup(u)
	if err != nil {
		return 0, 0, fmt.Errorf("%w: the data belonged to %s, who is not known here: run backup-fetch as the user that will run PostgreSQL (%w)", ErrTarget, owner, err)
	}
	if uid, err = strconv.Atoi(usr.Uid); err != nil {
		return 0, 0, err
	}
	name := usr.Gid
	if grp, err := user.LookupGroup(g); err == nil {
		name = grp.Gid
	}
	gid, err = strconv.Atoi(name)
	return uid, gid, err
}

// mkdir makes a folder of the manifest.
func (t *target) mkdir(f *manifest.File) error {
	p := f.RawPath()
	root, name := t.place(p)
	if p == manifest.Root {
		name, t.fileMode = ".", fs.FileMode(f.Mode)&0o660
	} else if err := root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err // a tablespace inside the data directory has made some already
	}
	t.dirs = append(t.dirs, dir{p, fs.FileMode(f.Mode)})
	return t.own(root, name)
}

func (t *target) own(root *os.Root, name string) error {
	if t.uid < 0 {
		return nil
	}
	return root.Lchown(name, t.uid, t.gid)
}

// link makes a symbolic link of the manifest; that of a tablespace leads where the tablespace goes now.
func (t *target) link(f *manifest.File) error {
	p, to := f.RawPath(), f.RawLink()
	if dir, oid := path.Split(p); dir == "pg_tblspc/" {
		s := t.spaces[oid]
		if s == nil {
			return fmt.Errorf("link %q is of a tablespace that the backup does not list", p)
		}
		to = s.location
	}
	root, name := t.place(p)
	if err := root.Symlink(to, name); err != nil {
		return err
	}
	return t.own(root, name)
}

// writeFile writes a small file of the data directory durably, replacing one that is there.
func (t *target) writeFile(name string, data []byte) error {
	temp := name + ".pgobj"
	f, err := t.root.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(t.fileMode)
	}
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = t.own(t.root, temp)
	}
	if err != nil {
		return err
	}
	return t.root.Rename(temp, name)
}

// syncDirs gives folders their modes, and makes the names of everything restored durable. A folder comes
// after those in it, which cannot be reached any more when it is closed.
func (t *target) syncDirs() error {
	for _, d := range slices.Backward(t.dirs) {
		root, name := t.place(d.path)
		if err := syncDir(root, name, d.mode); err != nil {
			return err
		}
	}
	for _, s := range t.spaces {
		if err := syncPath(s.location); err != nil {
			return err
		}
		if err := syncPath(filepath.Dir(s.location)); err != nil {
			return err
		}
	}
	return syncPath(filepath.Dir(t.dir))
}

// finish puts pg_control into its place: from here on, and not before, PostgreSQL starts on the folder.
func (t *target) finish() error {
	if err := t.root.Rename(t.controlTemp, controlPath); err != nil {
		return err
	}
	return syncPath(filepath.Join(t.dir, path.Dir(controlPath)))
}

func syncDir(root *os.Root, name string, mode fs.FileMode) error {
	d, err := root.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Chmod(mode); err != nil {
		return err
	}
	return d.Sync()
}

func syncPath(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
