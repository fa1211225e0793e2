package restore

import (
	"maps"
	"path/filepath"
	"slices"

	"github.com/pgobj/pgobj/backup/settings"
)

// configured is what the configuration says with which the copy will start, without postgresql.auto.conf; nil: nobody knows. own are
// the files in the data directory.
func (p *Plan) configured(own map[string]string) map[string]string {
	if p.config.place {
		return settings.OnDisk.Values(p.config.main)
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
			in := slices.DeleteFunc(slices.Sorted(maps.Keys(texts)), func(f string) bool { return filepath.Dir(f) != dir || !settings.Counts(f) })
			return in, dirs[dir]
		},
	}.Values(main)
}
