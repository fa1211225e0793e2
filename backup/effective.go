package backup

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/backup/settings"
)

// configured is what the configuration says with which the copy will start, without postgresql.auto.conf; nil: nobody knows. own are
// the files in the data directory.
func (p *Plan) configured(own map[string]string) map[string]string {
	if p.config.place {
		return onDisk.Values(p.config.main)
	}
	b := p.Backup
	main, texts, dirs := filepath.Join(b.PGDATA, "postgresql.conf"), map[string]string{}, map[string]bool{}
	for name, text := range own {
		texts[filepath.Join(b.PGDATA, name)] = text
	}
	if p.config.dir != "" {
		for _, f := range b.ConfigFiles {
			texts[f.Path] = string(f.Content)
		}
		for _, d := range b.ConfigDirs {
			dirs[d.Path] = true
		}
		if outside := mainConfig(b); outside != "" {
			main = outside
		}
	}
	return settings.Source{
		Read: func(file string) (string, bool) { text, ok := texts[file]; return text, ok },
		List: func(dir string) ([]string, bool) {
			in := slices.DeleteFunc(slices.Sorted(maps.Keys(texts)), func(f string) bool { return filepath.Dir(f) != dir || !counts(f) })
			return in, dirs[dir]
		},
	}.Values(main)
}

// counts says whether include_dir reads a file (GetConfFilesInDir in conffiles.c).
func counts(file string) bool {
	return strings.HasSuffix(file, ".conf") && !strings.HasPrefix(filepath.Base(file), ".")
}

// onDisk are the files of this host.
var onDisk = settings.Source{
	Read: func(file string) (string, bool) {
		text, err := os.ReadFile(file)
		return string(text), err == nil
	},
	List: func(dir string) (files []string, ok bool) {
		names, err := readDir(dir)
		for _, name := range names {
			if counts(name) {
				files = append(files, filepath.Join(dir, name))
			}
		}
		slices.Sort(files)
		return files, err == nil
	},
}
