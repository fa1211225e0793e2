// Package target owns the directory that is restored to: its layout, locks, safe names and durability. It refuses to
// know where the content comes from.
package target

import (
	"bytes"
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
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/content"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/catalog"
)

// Target is where a restore writes: the data directory and the places that links in it lead to, each an
// os.Root, so that nothing that a manifest says can lead outside of them.
type Target struct {
	Dir      string
	pgdata   string // of the original
	Only     *content.Databases
	Delta    bool // there is a data directory, of which is kept what fits
	Root     *os.Root
	Mounts   []*mount    // sorted by path
	Left     []*mount    // tablespaces of the existing directory that the backup does not have; what is in them is removed
	locks    []*os.File  // directories that are locked against another restore, until close
	Uid, Gid int         // owner to set; -1: leave it, as only root may give files away
	FileMode fs.FileMode // of the files that are made here: 0600, or 0640 where the group may read
	dirs     []dir       // as in the manifest; completed at the end
}

// dir is a directory of the manifest. It gets its mode when all that is in it is there: one that is closed to
// its own owner could not be filled.
type dir struct {
	path string
	mode fs.FileMode
}

const (
	// controlTemp is pg_control's name until everything else is durable: without it no server starts.
	controlTemp = datadir.ControlPath + ".pgobj-restoring"
	// controlBefore is the name that a delta restore gives to the pg_control that it finds, before it touches
	// anything else.
	controlBefore = datadir.ControlPath + ".pgobj-before"
	// Marker says to people and to the next run that the directory is a restore that did not end.
	Marker     = "pgobj-restore-incomplete"
	markerText = "pgobj backup-fetch has begun to restore backup %s to this directory and has not finished.\nPostgreSQL does not start on it. Run the same command with --delta to continue.\n"
)

// New works out the places for a backup, and checks them. Nothing is made or changed.
func New(dir string, delta bool, l Layout, b *catalog.Backup, s *content.ManifestScan) (*Target, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	dir = datadir.RealPath(dir)
	t := &Target{Dir: dir, pgdata: b.PGDATA, Delta: delta, Uid: -1, Gid: -1, FileMode: 0o600}
	if t.Delta && !datadir.Exists(dir) {
		t.Delta = false
	}
	if err := t.findOwner(l.Owner, b.Owner); err != nil {
		return nil, err
	}
	if err := t.lay(l, b, s); err != nil {
		return nil, err
	}
	if t.Delta {
		t.findLeft(b)
		t.findOwned()
	}
	return t, t.check()
}

// findOwner decides, for root, whom the files will belong to: who was named, or the owner of the directory, if it
// is there and not root's, else the owner of the original.
func (t *Target) findOwner(named, original string) (err error) {
	if os.Geteuid() != 0 {
		return nil
	}
	if named != "" {
		t.Uid, t.Gid, err = lookup(named)
		return err
	}
	if st, err := os.Stat(t.Dir); err == nil {
		if sys, ok := st.Sys().(*syscall.Stat_t); ok && sys.Uid != 0 {
			t.Uid, t.Gid = int(sys.Uid), int(sys.Gid)
			return nil
		}
	}
	t.Uid, t.Gid, err = lookup(original)
	return err
}

// lookup finds the numbers of USER:GROUP on this host.
func lookup(owner string) (uid, gid int, err error) {
	u, g, _ := strings.Cut(owner, ":")
	usr, err := user.Lookup(u)
	if err != nil {
		return 0, 0, fmt.Errorf("%w: the files must belong to %s, a user who does not exist here: run pgobj as the user who will run PostgreSQL, or create the directory and chown it to that user (%w)", backup.ErrTarget, owner, err)
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

// Open makes the directories that the restore begins with, and locks them. What was checked when the plan was made is
// checked again: until now another restore may have been at work here.
func (t *Target) Open() (err error) {
	if t.Root, err = t.OpenRoot(t.Dir, !t.Delta); err != nil {
		return err
	}
	if err := t.check(); err != nil {
		return err
	}
	for _, m := range t.Mounts {
		if m.root, err = t.OpenRoot(m.Dir(), !t.Delta && !m.file); err != nil {
			return err
		}
	}
	return nil
}

// OpenRoot opens a directory, and makes it where it is missing. One that is there is given to the owner of the files only if it is to be
// theirs alone: others have files in the directory that a link to a file leads to, and in those for configuration and saved WAL.
func (t *Target) OpenRoot(dir string, theirs bool) (*os.Root, error) {
	err := t.make(dir)
	if err == nil && theirs && t.Uid >= 0 {
		err = os.Chown(dir, t.Uid, t.Gid)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", backup.ErrTarget, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", backup.ErrTarget, err)
	}
	if err := t.lock(dir); err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
}

// make makes a directory and those above it, where they are missing: durably, and for the owner of the files, who could not get
// through directories that are root's.
func (t *Target) make(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	above := filepath.Dir(dir)
	if err := t.make(above); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); errors.Is(err, fs.ErrExist) { // another process has been faster
		return nil
	} else if err != nil {
		return err
	}
	if t.Uid >= 0 {
		if err := os.Chown(dir, t.Uid, t.Gid); err != nil {
			return err
		}
	}
	return SyncPath(above)
}

// lock keeps a second restore out of a directory. The kernel lets go of the lock when the process ends, however that
// is, so nothing is left for anyone to clear away.
func (t *Target) lock(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("%w: %w", backup.ErrTarget, err)
	}
	for _, held := range t.locks { // two files behind links may lie in one directory
		if a, err := held.Stat(); err == nil {
			if b, err := f.Stat(); err == nil && os.SameFile(a, b) {
				return f.Close()
			}
		}
	}
	t.locks = append(t.locks, f)
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%w: another pgobj is restoring to %s now: wait for it, or stop it first", backup.ErrTarget, dir)
	}
	return nil // some network file systems have no locks
}

func (t *Target) Close() {
	for _, f := range t.locks {
		f.Close()
	}
	for _, m := range t.Mounts {
		if m.root != nil {
			m.root.Close()
		}
	}
	if t.Root != nil {
		t.Root.Close()
	}
}

// Mount is the one at a path of the data directory, or nil.
func (t *Target) Mount(p string) *mount {
	for _, m := range t.Mounts {
		if m.Path == p {
			return m
		}
	}
	return nil
}

// Place finds the root and the name in it for the content at a path of the manifest.
func (t *Target) Place(p string) (*os.Root, string) {
	for _, m := range slices.Backward(t.Mounts) { // the deepest first
		switch rest, below := strings.CutPrefix(p, m.Path+"/"); {
		case below && !m.file:
			return m.root, rest
		case p == m.Path && m.file:
			return m.root, filepath.Base(m.Location)
		case p == m.Path:
			return m.root, "."
		}
	}
	if p == datadir.ControlPath {
		return t.Root, controlTemp
	}
	return t.Root, p
}

// Allows says whether a path of the manifest may be restored: a tablespace's location can be any directory of
// this host, with others' files in it, so nothing but the cluster's own directory there is touched.
func (t *Target) Allows(p string) bool {
	for _, m := range t.Mounts {
		if rest, below := strings.CutPrefix(p, m.Path+"/"); below && m.version != "" {
			directory, _, _ := strings.Cut(rest, "/")
			return directory == m.version
		}
	}
	return true
}

// entry finds the root and the name for what is itself at a path: of a mount, the link.
func (t *Target) entry(p string) (*os.Root, string) {
	if t.Mount(p) == nil {
		return t.Place(p)
	}
	root, parent := t.Place(path.Dir(p))
	return root, path.Join(parent, path.Base(p))
}

// Mkdir makes a directory of the manifest.
func (t *Target) Mkdir(f *manifest.File) error {
	p := f.RawPath()
	if t.Mount(p) != nil {
		if err := t.symlink(p, t.Mount(p).Location); err != nil {
			return err
		}
	}
	root, name := t.Place(p)
	if p == manifest.Root {
		name, t.FileMode = ".", fs.FileMode(f.Mode)&0o660
	}
	if name != "." {
		err := root.Mkdir(name, 0o700)
		if errors.Is(err, fs.ErrExist) { // of an earlier run, or made for a tablespace inside the data directory
			err = root.Chmod(name, 0o700)
		}
		if err != nil {
			return err
		}
	}
	t.dirs = append(t.dirs, dir{p, fs.FileMode(f.Mode)})
	return t.own(root, name)
}

func (t *Target) own(root *os.Root, name string) error {
	if t.Uid < 0 {
		return nil
	}
	return root.Lchown(name, t.Uid, t.Gid)
}

// Link makes a symbolic link of the manifest; that of a tablespace leads where the tablespace goes now, and
// one into the original's own data directory into this one.
func (t *Target) Link(f *manifest.File) error {
	p, to := f.RawPath(), f.RawLink()
	if m := t.Mount(p); m != nil {
		to = m.Location
	} else if _, space := content.SpaceOf(f); space {
		return fmt.Errorf("%w: the link belongs to a tablespace that the backup does not list", manifest.ErrDamaged)
	} else if filepath.IsAbs(to) {
		to = t.relocate(to, t.pgdata)
	}
	if t.Mount(p) == nil && path.Dir(p) == "pg_tblspc" && t.leadsOut(p, to) {
		return nil
	}
	return t.symlink(p, to)
}

// leadsOut says whether a link would lead out of the data directory. In pg_tblspc PostgreSQL makes none but those of its tablespaces, and
// looks into whatever is there: it removes temporary and unlogged files in it (RemovePgTempFiles, ResetUnloggedRelations), which may be
// another server's.
func (t *Target) leadsOut(p, to string) bool {
	if !filepath.IsAbs(to) {
		to = filepath.Join(t.Dir, path.Dir(p), to)
	}
	return !datadir.Within(to, t.Dir)
}

// symlink makes a link, unless it is there.
func (t *Target) symlink(p, to string) error {
	root, name := t.entry(p)
	if now, err := root.Readlink(name); err == nil {
		if now == to {
			return nil
		}
		if err := root.Remove(name); err != nil {
			return err
		}
	}
	if err := root.Symlink(to, name); err != nil {
		return err
	}
	return t.own(root, name)
}

// WriteFile writes a small file durably, replacing one that is there.
func (t *Target) WriteFile(p string, data []byte) error {
	return t.writeFrom(p, bytes.NewReader(data))
}

func (t *Target) writeFrom(p string, data io.Reader) error {
	root, name := t.Place(p)
	temp := name + ".pgobj"
	if t.Delta { // a run that was killed may have left one
		if err := root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	f, err := root.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, data)
	if err == nil {
		err = f.Chmod(t.FileMode)
	}
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = t.own(root, temp)
	}
	if err != nil {
		return err
	}
	return root.Rename(temp, name)
}

// SyncDirs gives directories their modes, and makes the names of everything restored durable. A directory comes
// after those in it, which cannot be reached any more when it is closed.
func (t *Target) SyncDirs() error {
	for _, d := range slices.Backward(t.dirs) {
		root, name := t.Place(d.path)
		if err := syncDir(root, name, d.mode); err != nil {
			return err
		}
	}
	for _, m := range t.Mounts {
		if err := SyncPath(m.Dir()); err != nil {
			return err
		}
		if err := SyncPath(filepath.Dir(m.Dir())); err != nil {
			return err
		}
	}
	return SyncPath(filepath.Dir(t.Dir))
}

// Begin makes it durable that the directory is not a database: from here on, until finish, PostgreSQL does not
// start on it.
func (t *Target) Begin(backup string) error {
	if err := t.WriteFile(Marker, fmt.Appendf(nil, markerText, backup)); err != nil {
		return err
	}
	if t.Delta {
		if err := t.Root.Rename(datadir.ControlPath, controlBefore); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := SyncPath(filepath.Join(t.Dir, path.Dir(datadir.ControlPath))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return SyncPath(t.Dir)
}

// Finish puts pg_control into its place: from here on, and not before, PostgreSQL starts on the directory.
func (t *Target) Finish() error {
	for _, name := range []string{Marker, controlBefore} {
		if err := t.Root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := SyncPath(t.Dir); err != nil {
		return err
	}
	if err := t.Root.Rename(controlTemp, datadir.ControlPath); err != nil {
		return err
	}
	return SyncPath(filepath.Join(t.Dir, path.Dir(datadir.ControlPath)))
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

func SyncPath(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Placed is a file or directory; its path is relative.
type Placed struct {
	Path string
	Text []byte
	Mode fs.FileMode
}

const (
	maxAutoConf = 16 << 20
)
