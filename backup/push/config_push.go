package push

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/settings"
	"github.com/pgobj/pgobj/catalog"
)

const maxConfigs = 1000 // files and directories; more are no configuration

// configFiles reads the configuration that lies outside of PGDATA: the files that the server names, and all to which they lead.
func (p *push) configFiles() {
	if _, err := os.Stat(filepath.Join(p.PGDATA, "postgresql.conf")); p.info.Shutdown != nil && p.info.ConfigFiles == nil && err != nil {
		p.warn("postgresql.conf", "it is not in the data directory, so it is not in the backup: only a running server says where else its configuration is")
	}
	p.backup.ConfigFile = p.info.ConfigFile
	queue := slices.Clone(p.info.ConfigFiles)
	for i := 0; i < len(queue) && i < maxConfigs; i++ {
		for _, in := range p.configFile(queue[i]) {
			found := []string{in.Path}
			if in.Dir {
				found = p.configDir(in.Path)
			}
			for _, name := range found {
				if _, err := os.Lstat(name); err == nil && !slices.Contains(queue, name) {
					queue = append(queue, name)
				}
			}
		}
	}
	slices.SortFunc(p.backup.ConfigFiles, func(a, b catalog.ConfigFile) int { return strings.Compare(a.Path, b.Path) })
	if !slices.ContainsFunc(p.backup.ConfigFiles, func(f catalog.ConfigFile) bool { return f.Path == p.backup.ConfigFile }) {
		p.backup.ConfigFile = "" // it is in the data directory
	}
}

// configFile takes a file, unless it is in PGDATA, and returns where it leads.
func (p *push) configFile(name string) []settings.Include {
	real, err := filepath.EvalSymlinks(name)
	var data []byte
	var mode fs.FileMode
	if err == nil {
		data, mode, err = readLimited(real, 1<<20)
	}
	inside := datadir.Within(real, p.PGDATA)
	switch {
	case err != nil && !inside:
		p.warn(name, fmt.Sprintf("this configuration file is not in the backup: %v", err))
		return nil
	case err != nil:
		return nil
	case !inside:
		p.backup.ConfigFiles = append(p.backup.ConfigFiles, catalog.ConfigFile{Path: name, Mode: octal(mode), Content: data})
	}
	if datadir.IsAccess(name) {
		return nil
	}
	return settings.Includes(name, string(data))
}

// configDir notes a directory of include_dir, and lists the files in it that PostgreSQL reads (GetConfFilesInDir in conffiles.c).
func (p *push) configDir(dir string) (files []string) {
	st, err := os.Stat(dir)
	if err != nil || !st.IsDir() {
		return nil
	}
	if known := func(d catalog.ConfigDir) bool { return d.Path == dir }; !datadir.Within(datadir.RealPath(dir), p.PGDATA) && !slices.ContainsFunc(p.backup.ConfigDirs, known) {
		p.backup.ConfigDirs = append(p.backup.ConfigDirs, catalog.ConfigDir{Path: dir, Mode: octal(st.Mode())})
	}
	names, err := datadir.ReadDir(dir)
	if err != nil {
		p.warn(dir, fmt.Sprintf("the configuration in it is not in the backup: %v", err))
	}
	return settings.Counted(dir, names)
}

func octal(mode fs.FileMode) string { return fmt.Sprintf("%04o", mode.Perm()) }

func readLimited(path string, limit int64) ([]byte, fs.FileMode, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, 0, err
	}
	if !st.Mode().IsRegular() || st.Size() > limit {
		return nil, 0, fmt.Errorf("it is not a regular file of at most %d bytes", limit)
	}
	data, err := os.ReadFile(path)
	return data, st.Mode(), err
}
