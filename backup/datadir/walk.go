package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgobj/pgobj/walstore/segment"
)

// EntryType is a kind of Entry.
type EntryType uint8

const (
	TypeFile       EntryType = iota // a regular file
	TypeDir                         // a directory; it comes before its content
	TypeTablespace                  // pg_tblspc/OID, a link to Entry.Link; its content follows
	TypeLink                        // another link, kept as a link to Entry.Link; what it leads to is elsewhere in the backup, or gone
)

// Entry is one thing that belongs to a backup.
type Entry struct {
	Path   string // in the data directory: slashes, raw bytes; of tablespaces pg_tblspc/OID/PG_…/…
	Source string // where to open it on this host
	Type   EntryType
	// Link is a link's target, as the link has it: of TypeTablespace and TypeLink, and of a file or directory
	// that is not really there but behind a link, which the walk has followed (a pg_wal on another disk).
	Link     string
	Mode     fs.FileMode // type and permissions
	UID, GID int
	Size     int64
	Mtime    time.Time
	Ctime    time.Time
	Ino, Dev uint64
	// Unseen says of a tablespace why nothing of its data can be seen here: it was just dropped, or its volume is not
	// mounted where the walk runs. Empty for all others.
	Unseen string

	// Relation: the file consists of pages of a relation. Page i of it is number
	// Segno × (blocks in a file, Control.SegmentBlocks) + i of the fork.
	Relation bool
	Fork     string // "" (main), "fsm", "vm" or "init"
	Segno    uint32
}

// Replayed says whether the replay of WAL repairs what is written to the file while it is read: that is so for
// relations and for the state of transactions. Others have to be read as they are at one moment.
func (e Entry) Replayed() bool {
	top, _, _ := strings.Cut(e.Path, "/")
	return e.Relation || top == "pg_xact" || top == "pg_multixact" || top == "pg_commit_ts"
}

// Opened is the entry with the attributes of the file that was opened for it: since the walk another may have got its
// name.
func (e Entry) Opened(f *os.File) (Entry, error) {
	st, err := f.Stat()
	if err != nil {
		return Entry{}, Explain("read", e.Source, err)
	}
	o := newEntry(node{}, st)
	e.Mode, e.UID, e.GID, e.Size, e.Mtime, e.Ctime, e.Dev, e.Ino = o.Mode, o.UID, o.GID, o.Size, o.Mtime, o.Ctime, o.Dev, o.Ino
	return e, nil
}

// WalkOptions is what decides, beside the files themselves, on what belongs to a backup.
type WalkOptions struct {
	Major          int    // PostgreSQL's version: 10 to 18
	CatalogVersion uint32 // as pg_control has it; names the directory in tablespaces
	// StatsTempDir is the setting stats_temp_directory (up to 14), empty for its default. The directory's
	// content is left out.
	StatsTempDir string
	// Shutdown is set for a server that was shut down cleanly: its backup has the WAL that is named there, and, as
	// no recovery will make them again, unlogged relations.
	Shutdown *Shutdown
	Warn     func(path, reason string) // told of what was left out or looks wrong; may be nil
}

// VersionDir is the directory that the cluster has in each tablespace (TABLESPACE_VERSION_DIRECTORY).
func (o WalkOptions) VersionDir() string { return VersionDir(o.Major, o.CatalogVersion) }

// VersionDir is the directory that a cluster has in a tablespace (TABLESPACE_VERSION_DIRECTORY).
func VersionDir(major int, catalogVersion uint32) string {
	return fmt.Sprintf("PG_%d_%d", major, catalogVersion)
}

// Walk yields what belongs to a backup of the data directory root, in byte order of the paths. After an
// error it ends. The rules are those of PostgreSQL's own basebackup.c; global/pg_control is not yielded,
// because it must be copied after everything else, and root itself is not.
//
// A link that leads out of the data directory is followed, because the data behind it would be missing
// from a backup; its content appears as if it were in place. Files that vanish meanwhile are no error.
// Of memory it takes the names in one directory (and in those above it), never a tree's.
func Walk(root string, opt WalkOptions) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if opt.Warn == nil {
			opt.Warn = func(string, string) {}
		}
		w := &walker{opt: opt, root: root, yield: yield, marks: map[fileID]mark{}}
		if err := w.prepare(); err != nil {
			yield(Entry{}, err)
			return
		}
		w.dir(node{source: root, id: w.chain[0]})
	}
}

type fileID struct{ dev, ino uint64 }

// mark is a fact about a directory that holds on whatever path the walk gets there.
type mark uint8

const (
	skipContent mark = 1 + iota // the server makes the content again
	spaceWithin                 // a tablespace's location: its PG_* directories are reached through pg_tblspc
)

type walker struct {
	opt   WalkOptions
	root  string
	real  string // root without links
	marks map[fileID]mark
	chain []fileID // the directories that the walk is in, to see a loop of links
	yield func(Entry, error) bool
}

// node is a directory that is to be entered. name is its last element.
type node struct {
	path, source, name string
	id                 fileID
	children           []string // the only ones to look at; nil for all
}

func (w *walker) prepare() error {
	var err error
	if w.real, err = filepath.EvalSymlinks(w.root); err != nil {
		return Explain("read the data directory", w.root, err)
	}
	if w.real, err = filepath.Abs(w.real); err != nil {
		return Explain("read the data directory", w.root, err)
	}
	// The marks are by identity, as the same directory may also be reached through a link or lie within the
	// data directory under another name.
	spaces, err := os.ReadDir(filepath.Join(w.root, "pg_tblspc"))
	if err != nil && !gone(err) {
		return Explain("read directory", filepath.Join(w.root, "pg_tblspc"), err)
	}
	for _, e := range spaces {
		if isSpacePath("pg_tblspc/"+e.Name()) && e.Type()&fs.ModeSymlink != 0 {
			w.mark(filepath.Join(w.root, "pg_tblspc", e.Name()), spaceWithin)
		}
	}
	for path := range emptyDirs {
		w.mark(filepath.Join(w.root, path), skipContent)
	}
	if d := w.opt.StatsTempDir; filepath.IsAbs(d) {
		w.mark(d, skipContent)
	} else if d != "" {
		w.mark(filepath.Join(w.root, d), skipContent)
	}
	st, err := os.Stat(w.root)
	if err != nil {
		return Explain("read the data directory", w.root, err)
	}
	w.chain = append(w.chain, idOf(st))
	if w.marks[idOf(st)] == skipContent {
		delete(w.marks, idOf(st)) // a senseless setting must not empty the backup
	}
	return nil
}

func (w *walker) mark(path string, m mark) {
	if st, err := os.Stat(path); err == nil {
		w.marks[idOf(st)] = m
	}
}

// dir yields a directory's content. It says whether to go on.
func (w *walker) dir(d node) bool {
	names := d.children
	if names == nil {
		var err error
		if names, err = ReadDir(d.source); err != nil {
			return w.fail(Explain("read directory", d.source, err))
		}
	}
	in := scope{path: d.path, names: names, kind: kindOf(d.path), spaces: w.marks[d.id] == spaceWithin && d.children == nil,
		unlogged: w.opt.Shutdown != nil}
	// In byte order of whole paths "a.b" lies between the directory "a" and its content "a/…". So a directory
	// waits until the names have passed it; one that waits longer is a prefix of the next.
	var waiting []node
	flush := func(next string) bool {
		for len(waiting) > 0 {
			last := waiting[len(waiting)-1]
			if next != "" && strings.HasPrefix(next, last.name) && next[len(last.name)] < '/' {
				return true
			}
			waiting = waiting[:len(waiting)-1]
			w.chain = append(w.chain, last.id)
			ok := w.dir(last)
			w.chain = w.chain[:len(w.chain)-1]
			if !ok {
				return false
			}
		}
		return true
	}
	for _, name := range names {
		if !flush(name) {
			return false
		}
		if in.excluded(name) {
			continue
		}
		e, enter, ok := w.visit(in, node{path: path.Join(d.path, name), source: d.source + "/" + name, name: name})
		if !ok {
			return false
		}
		if e && enter != nil {
			waiting = append(waiting, *enter)
		}
	}
	return flush("")
}

// fail yields an error, after which the walk does not go on whatever the caller says.
func (w *walker) fail(err error) bool { w.yield(Entry{}, err); return false }

// visit yields one entry. It says whether there was one, whether it is to be entered, and whether to go on.
func (w *walker) visit(in scope, n node) (yielded bool, enter *node, ok bool) {
	e, err := w.entry(n)
	switch {
	case gone(err):
		return false, nil, true
	case err != nil:
		return false, nil, w.fail(err)
	case e == nil || in.spaces && e.Type == TypeDir && isVersionDir(n.name):
		return false, nil, true
	}
	if e.Type == TypeFile && in.kind != plainDir {
		_, e.Fork, e.Segno, e.Relation = parseRelation(n.name)
	}
	isDir := (e.Type == TypeDir || e.Type == TypeTablespace) && e.Mode&fs.ModeSymlink == 0 // a link leads nowhere
	if isDir && isSpacePath(n.path) {
		if _, err := os.Lstat(n.source + "/" + w.opt.VersionDir()); gone(err) {
			e.Unseen = "there is no directory " + w.opt.VersionDir()
		}
	}
	if !w.yield(*e, nil) {
		return true, nil, false
	}
	if !isDir || e.Unseen != "" {
		return true, nil, true
	}
	n.id = fileID{e.Dev, e.Ino}
	switch {
	case n.path == "pg_wal":
		if w.opt.Shutdown != nil {
			for _, f := range w.opt.Shutdown.WAL {
				n.children = append(n.children, f.Name)
			}
		}
		n.children = append(n.children, "archive_status")
		if w.opt.Major >= 17 {
			n.children = append(n.children, "summaries")
		}
		slices.Sort(n.children) // a history file comes before the segments of its timeline
	case isSpacePath(n.path):
		n.children = []string{w.opt.VersionDir()}
	case w.marks[n.id] == skipContent:
		return true, nil, true
	}
	return true, &n, true
}

// entry looks at one name. It is nil for what does not belong to a backup.
func (w *walker) entry(n node) (*Entry, error) {
	st, err := os.Lstat(n.source)
	if err != nil {
		return nil, Explain("read", n.source, err)
	}
	if st.Mode().Type() == fs.ModeSymlink {
		return w.link(n, st)
	}
	e := newEntry(n, st)
	switch {
	case st.Mode().IsRegular():
		return e, nil
	case !st.IsDir():
		w.opt.Warn(n.path, "left out: it is not a file, a directory or a link")
		return nil, nil
	case n.name == "lost+found": // of the file system, and not ours to read
		return nil, nil
	}
	e.Type = TypeDir
	return e, nil
}

// link decides on a symbolic link; st is the link's own.
func (w *walker) link(n node, st fs.FileInfo) (*Entry, error) {
	target, err := os.Readlink(n.source)
	if err != nil {
		return nil, Explain("read link", n.source, err)
	}
	e := newEntry(n, st)
	e.Type, e.Link = TypeLink, target
	to, err := os.Stat(n.source)
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("follow link %s: it leads back to itself through %s: remove it", n.source, target)
	case gone(err) || errors.Is(err, unix.ENOTDIR):
		if isSpacePath(n.path) {
			e.Type, e.Unseen = TypeTablespace, "nothing is there"
			return e, nil
		}
		w.opt.Warn(n.path, "the link leads nowhere (to "+target+")")
		if emptyDirs[n.path] {
			e.Type = TypeDir
		}
		return e, nil
	case err != nil:
		return nil, Explain("follow link", n.source, err)
	}
	behind := newEntry(n, to)
	behind.Link = target
	switch {
	case isSpacePath(n.path) && to.IsDir():
		behind.Type = TypeTablespace
		return behind, nil
	case emptyDirs[n.path] && to.IsDir():
		behind.Type = TypeDir
		return behind, nil
	}
	real, err := filepath.EvalSymlinks(n.source)
	if err != nil {
		return nil, Explain("follow link", n.source, err)
	}
	switch {
	case Within(real, w.real):
		return e, nil // the walk gets there on its own
	case to.Mode().IsRegular():
		return behind, nil
	case !to.IsDir():
		w.opt.Warn(n.path, "the link does not lead to a file or a directory (to "+target+"); only the link is kept")
		return e, nil
	case Within(w.real, real):
		return nil, fmt.Errorf("follow link %s: it leads to %s, which contains the data directory itself: remove the link", n.source, target)
	case slices.Contains(w.chain, idOf(to)):
		return nil, fmt.Errorf("follow link %s: it leads back to %s, which contains it: remove the link", n.source, target)
	}
	behind.Type = TypeDir
	return behind, nil
}

func newEntry(n node, fi fs.FileInfo) *Entry {
	st, id := fi.Sys().(*syscall.Stat_t), idOf(fi)
	return &Entry{Path: n.path, Source: n.source, Mode: fi.Mode(), UID: int(st.Uid), GID: int(st.Gid), Size: fi.Size(),
		Mtime: fi.ModTime(), Ctime: time.Unix(st.Ctim.Unix()), Dev: id.dev, Ino: id.ino}
}

func idOf(fi fs.FileInfo) fileID {
	st := fi.Sys().(*syscall.Stat_t)
	return fileID{uint64(st.Dev), uint64(st.Ino)}
}

func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// Explain adds what a user can do about it.
func Explain(verb, path string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, fs.ErrPermission):
		hint = " (run pgobj as the user who owns the data directory)"
	case errors.Is(err, unix.EIO):
		hint = " (the disk or its file system is failing: check the system's log first)"
	}
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		err = pathErr.Err // the path is told already
	}
	return fmt.Errorf("%s %s: %w%s", verb, path, err, hint)
}

// Shutdown is where a server was shut down. It starts with the checkpoint record there, so that much WAL
// belongs to the data.
type Shutdown struct {
	Checkpoint segment.LSN // the record
	End        segment.LSN // the byte after it
	WAL        []WALFile   // in order of their names
}

// WALFile is a file of pg_wal that belongs to a stopped server's data. From byte Keep on it may be anything: what a
// recycled segment held before.
type WALFile struct {
	Name string
	Keep int64
}
