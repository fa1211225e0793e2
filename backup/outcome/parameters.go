package outcome

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/backup/server"
	"github.com/pgobj/pgobj/backup/settings"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/walstore/segment"
)

// lackingNow is for a server that answers; a setting that it does not tell is not lacking.
func lackingNow(control segment.Parameters, s *server.Recovery) []recovery.Setting {
	return settings.Lacking(control, false, func(n recovery.Setting) bool {
		want, _ := strconv.Atoi(n.Value)
		set, known := s.Settings[n.Name]
		return !known || set >= want
	})
}

// lackingIn is for a server that stopped: by its configuration, and the command line of its last start (postmaster.opts).
func lackingIn(dir string, control segment.Parameters) []recovery.Setting {
	var c settings.ConfScan
	for _, name := range []string{"postgresql.conf", settings.AutoConf} {
		text, _ := os.ReadFile(filepath.Join(dir, name)) // one that cannot be read sets nothing
		c.Scan(name, string(text), &catalog.Backup{})
	}
	options, _ := os.ReadFile(filepath.Join(dir, "postmaster.opts"))
	text := string(options)
	blind := c.Blind != nil || regexp.MustCompile(`hot_standby=(off|false|no|0)\b`).MatchString(text)
	main := filepath.Join(dir, "postgresql.conf")
	if named := regexp.MustCompile(`config_file=([^"]+)`).FindStringSubmatch(text); named != nil {
		main = named[1]
	}
	values := settings.OnDisk.Values(main)
	return settings.Lacking(control, blind, func(n recovery.Setting) bool {
		given := regexp.MustCompile(`\b`+n.Name+`=(\d+)`).FindAllStringSubmatch(text, -1)
		if len(given) == 0 {
			return c.Has(n, values)
		}
		want, _ := strconv.Atoi(n.Value)
		set, _ := strconv.Atoi(given[len(given)-1][1])
		return set >= want
	})
}

// names are settings as a sentence lists them.
func names(all []recovery.Setting) string {
	var lines []string
	for _, s := range all {
		lines = append(lines, s.String())
	}
	return strings.Join(lines, ", ")
}
