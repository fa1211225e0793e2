package backup

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

	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/catalog"
)

// target is where a restore writes: the data directory and the places that links in it lead to, each an
// os.Root, so that nothing that a manifest says can lead outside of them.
type target struct {
	dir      string
	pgdata   string // of the original
	only     *databases
	delta    bool // there is a data directory, of which is kept what fits
	root     *os.Root
	mounts   []*mount    // sorted by path
	locks    []*os.File  // folders that are locked against another restore, until close
	uid, gid int         // owner to set; -1: leave it, as only root may give files away
	fileMode fs.FileMode // of the files that are made here: 0600, or 0640 where the group may read
	dirs     []dir       // as in the manifest; completed at the end
}

// dir is a folder of the manifest. It gets its mode when all that is in it is there: one that is closed to
// its own owner could not be filled.
type dir struct {
	path string
	mode fs.FileMode
}

const (
	// controlTemp is pg_control's name until everything else is durable: without it no server starts.
	controlTemp = controlPath + ".pgobj-restoring"
	// controlBefore is the name that a delta restore gives to the pg_control that it finds, before it touches
	// anything else.
	controlBefore = controlPath + ".pgobj-before"
	// marker says to people and to the next run that the folder is a restore that did not end.
	marker     = "pgobj-restore-incomplete"
	markerText = "pgobj backup-fetch has begun to restore backup %s to this folder and has not finished.\nPostgreSQL does not start on it. Run the same command with --delta to go on.\n"
)

// newTarget works out the places for a backup, and checks them. Nothing is made or changed.
func newTarget(dir string, delta bool, l Layout, b *catalog.Backup, s *survey) (*target, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	dir = realPath(dir)
	t := &target{dir: dir, pgdata: b.PGDATA, delta: delta, uid: -1, gid: -1, fileMode: 0o600}
	if t.delta && !exists(dir) {
		t.delta = false
	}
	if err := t.findOwner(l.Owner, b.Owner); err != nil {
		return nil, err
	}
	if err := t.lay(l, b, s); err != nil {
		return nil, err
	}
	if t.delta {
		t.findOurs()
	}
	return t, t.check()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// findOwner decides, for root, whom the files will belong to: who was named, or the owner of the folder, if it
// is there and not root's, else the owner of the original.
func (t *target) findOwner(named, original string) (err error) {
	if os.Geteuid() != 0 {
		return nil
	}
	if named != "" {
		t.uid, t.gid, err = lookup(named)
		return err
	}
	if st, err := os.Stat(t.dir); err == nil {
		if sys, ok := st.Sys().(*syscall.Stat_t); ok && sys.Uid != 0 {
			t.uid, t.gid = int(sys.Uid), int(sys.Gid)
			return nil
		}
	}
	t.uid, t.gid, err = lookup(original)
	return err
}

// lookup finds the numbers of USER:GROUP on this host.
func lookup(owner string) (uid, gid int, err error) {
	u, g, _ := strings.Cut(owner, ":")
	usr, err := user.Lookup(u)
	if err != nil {
		return 0, 0, fmt.Errorf("%w: the files are to belong to %s, who is not known here: run pgobj as the user that will run PostgreSQL, or make the folder and give it to that user (%w)", ErrTarget, owner, err)
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

// open makes the folders that the restore begins with, and locks them. What was checked when the plan was made is
// checked again: until now another restore may have been at work here.
func (t *target) open() (err error) {
	if t.root, err = t.openRoot(t.dir, !t.delta); err != nil {
		return err
	}
	if err := t.check(); err != nil {
		return err
	}
	for _, m := range t.mounts {
		if m.root, err = t.openRoot(m.dir(), !t.delta && !m.file); err != nil {
			return err
		}
	}
	return nil
}

// openRoot opens a folder, and makes it where it is missing. One that is there is given to the owner of the files only if it is to be
// theirs alone: others have files in the folder that a link to a file leads to, and in those for configuration and saved WAL.
func (t *target) openRoot(dir string, theirs bool) (*os.Root, error) {
	err := t.make(dir)
	if err == nil && theirs && t.uid >= 0 {
		err = os.Chown(dir, t.uid, t.gid)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTarget, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTarget, err)
	}
	if err := t.lock(dir); err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
}

// make makes a folder and those above it, where they are missing: durably, and for the owner of the files, who could not get
// through folders that are root's.
func (t *target) make(dir string) error {
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
	if t.uid >= 0 {
		if err := os.Chown(dir, t.uid, t.gid); err != nil {
			return err
		}
	}
	return syncPath(above)
}

// lock keeps a second restore out of a folder. The kernel lets go of the lock when the process ends, however that
// is, so nothing is left for anyone to clear away.
func (t *target) lock(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTarget, err)
	}
	for _, held := range t.locks { // two files behind links may lie in one folder
		if a, err := held.Stat(); err == nil {
			if b, err := f.Stat(); err == nil && os.SameFile(a, b) {
				return f.Close()
			}
		}
	}
	t.locks = append(t.locks, f)
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%w: another pgobj is restoring to %s at this moment: wait for it, or stop it first", ErrTarget, dir)
	}
	return nil // some network file systems have no locks
}

func (t *target) close() {
	for _, f := range t.locks {
		f.Close()
	}
	for _, m := range t.mounts {
		if m.root != nil {
			m.root.Close()
		}
	}
	if t.root != nil {
		t.root.Close()
	}
}

// mount is the one at a path of the data directory, or nil.
func (t *target) mount(p string) *mount {
	for _, m := range t.mounts {
		if m.path == p {
			return m
		}
	}
	return nil
}

// place finds the root and the name in it for the content at a path of the manifest.
func (t *target) place(p string) (*os.Root, string) {
	for _, m := range slices.Backward(t.mounts) { // the deepest first
		switch rest, below := strings.CutPrefix(p, m.path+"/"); {
		case below && !m.file:
			return m.root, rest
		case p == m.path && m.file:
			return m.root, filepath.Base(m.location)
		case p == m.path:
			return m.root, "."
		}
	}
	if p == controlPath {
		return t.root, controlTemp
	}
	return t.root, p
}

// admits says whether a path of the manifest may be restored: a tablespace's location can be any folder of
// this host, with others' files in it, so nothing but the cluster's own folder there is touched.
func (t *target) admits(p string) bool {
	for _, m := range t.mounts {
		if rest, below := strings.CutPrefix(p, m.path+"/"); below && m.version != "" {
			folder, _, _ := strings.Cut(rest, "/")
			return folder == m.version
		}
	}
	return true
}

// entry finds the root and the name for what is itself at a path: of a mount, the link.
func (t *target) entry(p string) (*os.Root, string) {
	if t.mount(p) == nil {
		return t.place(p)
	}
	root, parent := t.place(path.Dir(p))
	return root, path.Join(parent, path.Base(p))
}

// mkdir makes a folder of the manifest.
func (t *target) mkdir(f *manifest.File) error {
	p := f.RawPath()
	if t.mount(p) != nil {
		if err := t.symlink(p, t.mount(p).location); err != nil {
			return err
		}
	}
	root, name := t.place(p)
	if p == manifest.Root {
		name, t.fileMode = ".", fs.FileMode(f.Mode)&0o660
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

func (t *target) own(root *os.Root, name string) error {
	if t.uid < 0 {
		return nil
	}
	return root.Lchown(name, t.uid, t.gid)
}

// link makes a symbolic link of the manifest; that of a tablespace leads where the tablespace goes now, and
// one into the original's own data directory into this one.
func (t *target) link(f *manifest.File) error {
	p, to := f.RawPath(), f.RawLink()
	if m := t.mount(p); m != nil {
		to = m.location
	} else if _, space := spaceOf(f); space {
		return fmt.Errorf("%w: the link is of a tablespace that the backup does not list", manifest.ErrDamaged)
	} else if filepath.IsAbs(to) {
		to = t.relocate(to, t.pgdata)
	}
	return t.symlink(p, to)
}

// symlink makes a link, unless it is there.
func (t *target) symlink(p, to string) error {
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

// writeFile writes a small file durably, replacing one that is there.
func (t *target) writeFile(p string, data []byte) error {
	return t.writeFrom(p, bytes.NewReader(data))
}

func (t *target) writeFrom(p string, data io.Reader) error {
	root, name := t.place(p)
	temp := name + ".pgobj"
	if t.delta { // a run that was killed may have left one
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
		err = f.Chmod(t.fileMode)
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

// syncDirs gives folders their modes, and makes the names of everything restored durable. A folder comes
// after those in it, which cannot be reached any more when it is closed.
func (t *target) syncDirs() error {
	for _, d := range slices.Backward(t.dirs) {
		root, name := t.place(d.path)
		if err := syncDir(root, name, d.mode); err != nil {
			return err
		}
	}
	for _, m := range t.mounts {
		if err := syncPath(m.dir()); err != nil {
			return err
		}
		if err := syncPath(filepath.Dir(m.dir())); err != nil {
			return err
		}
	}
	return syncPath(filepath.Dir(t.dir))
}

// begin makes it durable that the folder is not a database: from here on, until finish, PostgreSQL does not
// start on it.
func (t *target) begin(backup string) error {
	if err := t.writeFile(marker, fmt.Appendf(nil, markerText, backup)); err != nil {
		return err
	}
	if t.delta {
		if err := t.root.Rename(controlPath, controlBefore); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := syncPath(filepath.Join(t.dir, path.Dir(controlPath))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return syncPath(t.dir)
}

// finish puts pg_control into its place: from here on, and not before, PostgreSQL starts on the folder.
func (t *target) finish() error {
	for _, name := range []string{marker, controlBefore} {
		if err := t.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := syncPath(t.dir); err != nil {
		return err
	}
	if err := t.root.Rename(controlTemp, controlPath); err != nil {
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
