package restore

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/backup/content"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/settings"
	"github.com/pgobj/pgobj/backup/target"
	"github.com/pgobj/pgobj/catalog"
)

// placement is what a restore does with the configuration that was outside of the data directory.
type placement struct {
	dir         string          // where it is put; empty: nowhere
	main        string          // path of the file that the server has to be started with; empty: the one in the data directory
	place       bool            // main is there already, and leads to the target: the copy takes the original's place
	files       []target.Placed // in dir
	directories []target.Placed
	own         []target.Placed // files of the data directory itself that are changed
	changes     []settings.Change
}

const directoryMode = 0o755 // of configuration directories whose mode is not known

// placeConfig works out where the configuration goes, and what has to be different in it. texts are the configuration files in the data directory.
func (p *Plan) placeConfig(s *content.ManifestScan, texts map[string]string) error {
	b, c := p.Backup, &p.config
	main := mainConfig(b)
	if c.dir = p.request.Layout.ConfigDir; c.dir != "" {
		var err error
		if c.dir, err = filepath.Abs(c.dir); err != nil {
			return err
		}
	}
	if err := checkConfigFiles(b); err != nil && c.dir == "" {
		p.warn("%v: so it is not restored", err)
		return nil
	} else if err != nil {
		return err
	}
	paths := configPaths(b)
	switch {
	case c.dir != "":
		if main != "" {
			c.main = filepath.Join(c.dir, paths[main])
		}
	case main == "" || s.Entries["postgresql.conf"]:
	case p.inPlace(main):
		c.main, c.place = main, true
	case p.fitsInside(s, main, paths):
		c.dir = p.target.Dir
	}
	p.adaptConfig(paths, texts)
	return p.checkConfigDir()
}

// mainConfig is the file that the server was started with, if it is among those from outside of the data directory.
func mainConfig(b *catalog.Backup) string {
	if slices.ContainsFunc(b.ConfigFiles, func(f catalog.ConfigFile) bool { return f.Path == b.ConfigFile }) {
		return b.ConfigFile
	}
	for _, f := range b.ConfigFiles { // an older version did not note it
		if path.Base(f.Path) == "postgresql.conf" && b.ConfigFile == "" {
			return f.Path
		}
	}
	return ""
}

// configNames are the paths of the files as they were.
func configNames(b *catalog.Backup) (names []string) {
	for _, f := range b.ConfigFiles {
		names = append(names, f.Path)
	}
	return names
}

// configPaths is where each file and directory of the configuration goes: as they lay to each other.
func configPaths(b *catalog.Backup) map[string]string {
	all := configNames(b)
	for _, d := range b.ConfigDirs {
		all = append(all, path.Join(d.Path, "any"))
	}
	if len(all) == 0 {
		return nil
	}
	common := path.Dir(all[0])
	for _, f := range all {
		for common != "/" && common != "." && !datadir.Within(f, common) {
			common = path.Dir(common)
		}
	}
	paths := map[string]string{}
	add := func(name string) {
		rel, _ := filepath.Rel(common, name) // it is within
		paths[name] = rel
	}
	for _, f := range b.ConfigFiles {
		add(f.Path)
		add(path.Dir(f.Path))
		for _, in := range settings.Includes(f.Path, string(f.Content)) {
			if in.Dir && !datadir.IsAccess(f.Path) && datadir.Within(in.Path, common) {
				add(in.Path) // of an older version, which did not note directories
			}
		}
	}
	for _, d := range b.ConfigDirs {
		add(d.Path)
	}
	return paths
}

// inPlace says whether this host has the configuration at its place, and it leads to the target.
func (p *Plan) inPlace(main string) bool {
	text, err := os.ReadFile(main)
	if err != nil {
		return false
	}
	data, ok := settings.Value(string(text), "data_directory")
	if !ok {
		data = p.Backup.PGDATA // it was named on the command line
	}
	return datadir.RealPath(data) == datadir.RealPath(p.target.Dir)
}

// fitsInside says whether the configuration can go into the data directory, where the server looks for it: it was all in one place, and
// nothing is in its way.
func (p *Plan) fitsInside(s *content.ManifestScan, main string, paths map[string]string) bool {
	for name, rel := range paths {
		top, _, _ := strings.Cut(rel, "/")
		if !datadir.Within(name, path.Dir(main)) || name != path.Dir(main) && s.Entries[top] {
			return false
		}
	}
	return paths[main] == "postgresql.conf"
}

// adaptConfig makes the copies of the files.
func (p *Plan) adaptConfig(paths map[string]string, texts map[string]string) {
	b, c := p.Backup, &p.config
	whole := settings.Copy{From: b.PGDATA, To: p.target.Dir, Places: map[string]string{}, Whole: c.dir != ""}
	if c.dir != "" {
		for name, rel := range paths {
			whole.Places[name] = filepath.Join(c.dir, rel)
		}
		for _, f := range b.ConfigFiles {
			text := string(f.Content)
			if !datadir.IsAccess(f.Path) {
				var changes []settings.Change
				text, changes = whole.Adapt(f.Path, text)
				c.changes = append(c.changes, changes...)
			}
			c.files = append(c.files, target.Placed{Path: paths[f.Path], Text: []byte(text), Mode: modeOf(f.Mode)})
		}
		c.directories = configDirectories(b, paths)
	}
	inside := whole
	inside.Whole = false
	for name, text := range texts {
		if name == settings.AutoConf {
			continue // in which no server takes a data directory, and the rest of which is looked at elsewhere
		}
		if now, changes := inside.Adapt(filepath.Join(b.PGDATA, name), text); len(changes) > 0 {
			for _, ch := range changes {
				c.changes = append(c.changes, settings.Change{File: name, Line: ch.Line, Now: ch.Now})
			}
			c.own = append(c.own, target.Placed{Path: name, Text: []byte(now)})
		}
	}
}

// configDirectories are the directories below the place of the configuration, the highest first.
func configDirectories(b *catalog.Backup, paths map[string]string) (all []target.Placed) {
	modes := map[string]fs.FileMode{}
	for _, d := range b.ConfigDirs {
		modes[paths[d.Path]] = modeOf(d.Mode)
	}
	seen := map[string]bool{}
	files := map[string]bool{}
	for _, f := range b.ConfigFiles {
		files[paths[f.Path]] = true
	}
	for _, rel := range paths {
		for dir := rel; dir != "."; dir = path.Dir(dir) {
			if !seen[dir] && !files[dir] {
				seen[dir] = true
				all = append(all, target.Placed{Path: dir, Mode: cmp.Or(modes[dir], directoryMode)})
			}
		}
	}
	slices.SortFunc(all, func(a, b target.Placed) int { return strings.Compare(a.Path, b.Path) })
	return all
}

// modeOf reads a mode as backup.json has it; 0: it is not known.
func modeOf(octal string) fs.FileMode {
	n, _ := strconv.ParseUint(octal, 8, 32)
	return fs.FileMode(n) & fs.ModePerm
}

// explainChanges tells of each line that deserves a look what became of it.
func (p *Plan) explainChanges() {
	if p.config.place && p.Recovery.KeepArchiving { // it is the original again: its ports, files and archiving are meant
		p.Dangers = slices.DeleteFunc(p.Dangers, func(l settings.ConfLine) bool { return !l.Steers() })
	}
	for i, d := range p.Dangers {
		for _, ch := range p.config.changes {
			switch {
			case ch.File != d.File || ch.Line != d.Line:
			case ch.Now == "":
				p.Dangers[i].Why = "removed in the copy"
			default:
				p.Dangers[i].Why = "in the copy: " + ch.Now
			}
		}
	}
}

// warnConfig speaks of configuration that a server needs and will not find.
func (p *Plan) warnConfig(s *content.ManifestScan) {
	c := p.config
	names := configNames(p.Backup)
	all := strings.Join(names, ", ")
	switch {
	case len(names) == 0 || p.request.Layout.ConfigDir != "":
	case c.dir != "":
		p.warn("configuration was outside of the data directory, and is restored into it: %s. --config-dir DIR restores it to another place", all)
	case c.place:
		p.warn("configuration is outside of the data directory, and stays there unchanged: %s. --config-dir DIR restores it", all)
	default:
		p.warn("configuration was outside of the data directory, and is not restored: %s. --config-dir DIR restores it to a directory", all)
	}
	if !s.Entries["postgresql.conf"] && c.dir == "" && c.main == "" {
		p.warn("the data directory has no postgresql.conf: start the server with -c config_file=…")
	}
}

// checkConfigFiles refuses what cannot be.
func checkConfigFiles(b *catalog.Backup) error {
	names := configNames(b)
	for i, name := range names {
		if !isClean(name) || slices.ContainsFunc(names[i+1:], func(o string) bool { return datadir.Within(o, name) || datadir.Within(name, o) }) {
			return fmt.Errorf("%w: backup.json of %s names a configuration file %.200q, which is not possible, or not together with the others", catalog.ErrDamaged, b.ID, name)
		}
	}
	for _, d := range b.ConfigDirs {
		if !isClean(d.Path) || slices.ContainsFunc(names, func(o string) bool { return datadir.Within(d.Path, o) }) {
			return fmt.Errorf("%w: backup.json of %s names a directory with configuration %.200q, which is not possible, or not together with the files", catalog.ErrDamaged, b.ID, d.Path)
		}
	}
	return nil
}

func isClean(p string) bool {
	return p == path.Clean(p) && path.IsAbs(p) && p != "/" && !strings.ContainsRune(p, 0)
}

// checkConfigDir refuses to write over configuration that is there.
func (p *Plan) checkConfigDir() error {
	for _, f := range p.config.files {
		if to := filepath.Join(p.config.dir, f.Path); p.config.dir != p.target.Dir && datadir.Exists(to) && !p.Delta {
			return fmt.Errorf("%w: --config-dir: %s exists: give a directory without it", backup.ErrTarget, to)
		}
	}
	return nil
}

// ConfigFile is the file that the server has to be started with; empty when that is in the data directory. named says that the file itself
// names the data directory.
func (p *Plan) ConfigFile() (file string, named bool) {
	c := p.config
	if c.main == "" {
		return "", false
	}
	text, _ := os.ReadFile(c.main)
	for _, f := range c.files {
		if filepath.Join(c.dir, f.Path) == c.main {
			text = f.Text
		}
	}
	_, named = settings.Value(string(text), "data_directory")
	return c.main, named
}

// OwnChanged are the files of the data directory in which the restore changes lines.
func (p *Plan) OwnChanged() (names []string) {
	for _, f := range p.config.own {
		names = append(names, f.Path)
	}
	return names
}

// writeConfig puts the configuration where placeConfig has said.
func (p *Plan) writeConfig() error {
	c := p.config
	for _, f := range c.own {
		st, err := os.Stat(filepath.Join(p.target.Dir, f.Path))
		if err == nil {
			err = p.target.WriteAs(f.Path, f.Text, st.Mode().Perm())
		}
		if err != nil {
			return err
		}
	}
	if c.dir == "" {
		return nil
	}
	if c.dir == p.target.Dir {
		return p.target.WriteFiles(c.directories, c.files)
	}
	root, err := p.target.OpenRoot(c.dir, false)
	if err != nil {
		return err
	}
	// A target of its own: the same care for owners, modes and durability.
	t := &target.Target{Dir: c.dir, Delta: true, Root: root, Uid: p.target.Uid, Gid: p.target.Gid, FileMode: p.target.FileMode}
	defer t.Close()
	if err := t.WriteFiles(c.directories, c.files); err != nil {
		return err
	}
	return t.SyncDirs()
}
