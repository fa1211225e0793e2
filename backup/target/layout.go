package target

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/content"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/catalog"
)

// Layout says where what does not go to its default place is put.
type Layout struct {
	Tablespaces    map[string]string // location by name or OID
	TablespaceRoot string            // the other tablespaces go below it, each by its name
	WALDir         string            // pg_wal becomes a link to it
	Links          map[string]string // path in the data directory → where it is put, and a link there leads; "" is where it was
	ConfigDir      string            // for the configuration files that were outside of the data directory
	Owner          string            // USER or USER:GROUP, to whom root gives everything; empty: the target's owner, or the original's
}

// mount is a place outside of the data directory's own tree, to which a link in it leads.
type mount struct {
	Path     string // in the data directory: pg_tblspc/OID, pg_wal, or what Layout.Links names
	Name     string // for people
	Location string // absolute
	version  string // of a tablespace: the only directory in it that is the cluster's
	file     bool   // the link leads to a file
	ours     bool   // the target's own link leads there already, so what is there may be replaced
	Bytes    int64  // that will be written
	root     *os.Root
}

// Dir is the directory that has to be there.
func (m *mount) Dir() string {
	if m.file {
		return filepath.Dir(m.Location)
	}
	return m.Location
}

// lay works out every place that the restore will write to. Nothing is made yet.
func (t *Target) lay(l Layout, b *catalog.Backup, s *content.ManifestScan) error {
	b = s.Listed(b)
	for _, ts := range b.Tablespaces {
		if ts.Location != "" {
			if !filepath.IsAbs(ts.Location) || strings.ContainsRune(ts.Location, 0) {
				return fmt.Errorf("%w: backup.json of %s: tablespace %.64q has the location %.200q, which is not an absolute path", catalog.ErrDamaged, b.ID, ts.Name, ts.Location)
			}
			if err := t.laySpace(l, b, ts); err != nil {
				return err
			}
		}
	}
	for name := range l.Tablespaces {
		if !slices.ContainsFunc(b.Tablespaces, func(ts catalog.Tablespace) bool { return ts.Location != "" && isSpace(ts, name) }) {
			return fmt.Errorf("%w: --tablespace %s: the backup has no such tablespace (it has %s)", backup.ErrTarget, name, spaceNames(b))
		}
	}
	if err := t.layLinks(l, s); err != nil {
		return err
	}
	seen := map[string]string{t.Dir: "the data directory"}
	for _, m := range t.Mounts {
		if other, twice := seen[m.Location]; twice {
			return fmt.Errorf("%w: %s and %s would both go to %s", backup.ErrTarget, other, m.Name, m.Location)
		}
		seen[m.Location] = m.Name
	}
	return nil
}

func (t *Target) laySpace(l Layout, b *catalog.Backup, ts catalog.Tablespace) (err error) {
	oid := strconv.FormatUint(uint64(ts.OID), 10)
	m := &mount{Path: "pg_tblspc/" + oid, Name: "tablespace " + ts.Name, version: datadir.VersionDir(b.PGVersion/10000, b.CatalogVersion)}
	m.Location = t.relocate(ts.Location, b.PGDATA)
	if l.TablespaceRoot != "" {
		m.Location = filepath.Join(l.TablespaceRoot, directoryName(ts.Name, oid))
	}
	for name, to := range l.Tablespaces {
		if isSpace(ts, name) {
			m.Location = to
		}
	}
	m.Location, err = filepath.Abs(m.Location)
	t.Mounts = append(t.Mounts, m)
	return err
}

func isSpace(ts catalog.Tablespace, name string) bool {
	return name == ts.Name || name == strconv.FormatUint(uint64(ts.OID), 10)
}

func spaceNames(b *catalog.Backup) string {
	var names []string
	for _, ts := range b.Tablespaces {
		if ts.Location != "" {
			names = append(names, fmt.Sprintf("%s (%d)", ts.Name, ts.OID))
		}
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, ", ")
}

// directoryName is a tablespace's name, unless that would be no good name of a directory.
func directoryName(name, oid string) string {
	if strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == "" && name != "" {
		return name
	}
	return oid
}

// layLinks takes what is to lie behind a link.
func (t *Target) layLinks(l Layout, s *content.ManifestScan) error {
	links := map[string]string{}
	for path, to := range l.Links {
		links[strings.Trim(path, "/")] = to
	}
	if l.WALDir != "" {
		links["pg_wal"] = l.WALDir
	}
	t.adopt(links, s)
	for path, to := range links {
		rec, ok := s.Links[path]
		switch {
		case path == "pg_wal":
		case path == "global" || path == "pg_tblspc" || path == "":
			return fmt.Errorf("%w: --link %s: it must stay in the data directory", backup.ErrTarget, path)
		case !ok && to == "":
			return fmt.Errorf("%w: --link %s: it was not a link in the original: give its target, --link %s=DIR", backup.ErrTarget, path, path)
		case !ok && !s.Entries[path]:
			return fmt.Errorf("%w: --link %s: the top of the data directory has no such file or directory, and it was not a link", backup.ErrTarget, path)
		}
		if to == "" {
			to = rec.To
		}
		if !filepath.IsAbs(to) && l.Links[path] == "" && path != "pg_wal" { // a recorded link counts from its own directory
			to = filepath.Join(t.Dir, filepath.Dir(path), to)
		}
		to, err := filepath.Abs(to)
		if err != nil {
			return err
		}
		if datadir.Within(to, t.Dir) || datadir.Within(t.Dir, to) {
			return fmt.Errorf("%w: %s cannot be put into %s: this place and the data directory must not be inside each other", backup.ErrTarget, path, to)
		}
		t.Mounts = append(t.Mounts, &mount{Path: path, Name: path, Location: to, file: rec.File || s.Files[path]})
	}
	slices.SortFunc(t.Mounts, func(a, b *mount) int { return strings.Compare(a.Path, b.Path) })
	return nil
}

// adopt keeps the links that an existing data directory has: its pg_wal, and those that the backup knows.
func (t *Target) adopt(links map[string]string, s *content.ManifestScan) {
	if !t.Delta {
		return
	}
	candidates := []string{"pg_wal"}
	for path := range s.Links {
		candidates = append(candidates, path)
	}
	for _, path := range candidates {
		if _, named := links[path]; named {
			continue
		}
		to, err := os.Readlink(filepath.Join(t.Dir, path))
		if err == nil && (path == "pg_wal" || to == s.Links[path].To) {
			if !filepath.IsAbs(to) {
				to = filepath.Join(t.Dir, filepath.Dir(path), to)
			}
			if !datadir.Within(to, t.Dir) {
				links[path] = to
			}
		}
	}
}

// relocate is where a path of the original goes by default: to where it was, unless that was inside the
// old data directory.
func (t *Target) relocate(location, pgdata string) string {
	if rel, err := filepath.Rel(pgdata, location); err == nil && filepath.IsLocal(rel) {
		return filepath.Join(t.Dir, rel)
	}
	return location
}

// check refuses every place that may not be written to, before anything is.
func (t *Target) check() error {
	if running, err := datadir.Running(t.Dir); err != nil {
		return fmt.Errorf("%w: %w", backup.ErrTarget, err)
	} else if running.PID != 0 {
		return fmt.Errorf("%w: a PostgreSQL server runs in %s (pid %d): stop it first", backup.ErrTarget, t.Dir, running.Process())
	}
	if err := t.checkOwner(); err != nil {
		return err
	}
	if t.Delta {
		if err := t.checkDelta(); err != nil {
			return err
		}
	} else if err := empty(t.Dir); err != nil {
		return err
	}
	for _, m := range t.Mounts {
		if err := t.checkMount(m); err != nil {
			return err
		}
	}
	return t.checkServers()
}

// checkOwner: PostgreSQL does not start on a directory that belongs to another user.
func (t *Target) checkOwner() error {
	var st unix.Stat_t
	if err := unix.Stat(t.Dir, &st); err != nil || t.Uid >= 0 {
		return nil // it is made, or given away
	}
	if int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: %s belongs to the user with ID %d, but you have ID %d: run backup-fetch as that user, or as root", backup.ErrTarget, t.Dir, st.Uid, os.Geteuid())
	}
	return nil
}

// checkMount refuses a place that has something in it that is not the target's own.
func (t *Target) checkMount(m *mount) error {
	if m.file {
		if _, err := os.Lstat(m.Location); err == nil && !m.ours {
			return fmt.Errorf("%s: %w: %s exists: move it away", m.Name, backup.ErrTarget, m.Location)
		}
		return nil
	}
	if m.ours {
		return nil
	}
	names, err := datadir.ReadDir(m.Location)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", m.Name, backup.ErrTarget, err)
	}
	for _, name := range names {
		// A tablespace may hold directories of other versions (after pg_upgrade), a file system its own.
		if name == "lost+found" || m.version != "" && strings.HasPrefix(name, "PG_") && name != m.version {
			continue
		}
		hint := "move it away, or restore to another directory"
		if m.version != "" {
			hint = "it may belong to the original; put the tablespace into another place: --tablespace " + directoryName(strings.TrimPrefix(m.Name, "tablespace "), strings.TrimPrefix(m.Path, "pg_tblspc/")) + "=DIR, or --tablespace-map-all DIR"
		}
		return fmt.Errorf("%s: %w: %s is not empty (it has %q): %s", m.Name, backup.ErrTarget, m.Location, name, hint)
	}
	return nil
}

// CheckStorage refuses places that have the storage in them. Of a tablespace only the cluster's own directory counts.
func (t *Target) CheckStorage(dir string) error {
	for _, m := range t.places() {
		if err := datadir.Outside(dir, filepath.Join(m.Location, m.version)); err != nil {
			return err
		}
	}
	return nil
}

// places are all that the restore writes to or removes from.
func (t *Target) places() []*mount {
	return slices.Concat([]*mount{{Name: "the data directory", Location: t.Dir}}, t.Mounts, t.Left)
}

// checkServers refuses to write where a running server has its files, whatever links lead there.
func (t *Target) checkServers() error {
	servers, err := datadir.Servers()
	if err != nil {
		return nil // no /proc: what is checked above has to do
	}
	places := t.places()
	for _, dir := range servers {
		for _, used := range clusterPaths(dir) {
			for _, m := range places {
				if datadir.Within(datadir.RealPath(m.Location), used) {
					return fmt.Errorf("%s: %w: %s is used by the server that runs in %s: choose another place", m.Name, backup.ErrTarget, m.Location, dir)
				}
			}
		}
	}
	return nil
}

// clusterPaths is where a data directory has its files, by the real names of the directories.
func clusterPaths(dir string) []string {
	paths := []string{dir, filepath.Join(dir, "pg_wal")}
	spaces, _ := filepath.Glob(filepath.Join(dir, "pg_tblspc", "*"))
	var real []string
	for _, p := range append(paths, spaces...) {
		if r, err := filepath.EvalSymlinks(p); err == nil {
			real = append(real, r)
		}
	}
	return real
}

// empty refuses a path that is there and is not an empty directory.
func empty(dir string) error {
	names, err := datadir.ReadDir(dir)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", backup.ErrTarget, err)
	case slices.ContainsFunc(names, isMarker):
		return fmt.Errorf("%w: %s has an unfinished restore: run the same command with --delta to continue, or empty the directory", backup.ErrTarget, dir)
	case len(names) > 0:
		return fmt.Errorf("%w: %s is not empty (it has %q): move it away, restore to another directory, or reuse the files that still fit with --delta", backup.ErrTarget, dir, names[0])
	}
	return nil
}

// room is the space that places on one file system need and have.
type room struct {
	Dirs       []string
	Need, Free int64
}

// Rooms adds up what is written to each file system.
func (t *Target) Rooms(data int64) (all []*room, err error) {
	byDevice := map[uint64]*room{}
	add := func(dir string, bytes int64) error {
		existing := dir
		var st unix.Stat_t
		var fs unix.Statfs_t
		for unix.Stat(existing, &st) != nil && existing != filepath.Dir(existing) {
			existing = filepath.Dir(existing)
		}
		if err := unix.Statfs(existing, &fs); err != nil {
			return fmt.Errorf("%w: look for free space in %s: %w", backup.ErrTarget, existing, err)
		}
		r := byDevice[uint64(st.Dev)]
		if r == nil {
			r = &room{Free: int64(fs.Bavail) * fs.Bsize}
			byDevice[uint64(st.Dev)] = r
			all = append(all, r)
		}
		r.Dirs, r.Need = append(r.Dirs, dir), r.Need+bytes
		return nil
	}
	if err := add(t.Dir, data); err != nil {
		return nil, err
	}
	for _, m := range t.Mounts {
		if err := add(m.Dir(), m.Bytes); err != nil {
			return nil, err
		}
	}
	return all, nil
}
