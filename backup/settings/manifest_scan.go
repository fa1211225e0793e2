package settings

import (
	"slices"
	"strings"

	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/catalog"
)

// Scan looks at the settings of one file.
func (c *ConfScan) Scan(file, text string, b *catalog.Backup) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		name, value := Parse(line)
		if name == "" {
			continue
		}
		l := ConfLine{File: file, Line: n, Name: name, Text: strings.TrimSpace(line)}
		if strings.HasPrefix(name, "archive_") && name != "archive_timeout" && name != "archive_cleanup_command" {
			c.Archiving = append(c.Archiving, l)
		}
		if value != "" && name == Synchronous {
			c.waiting = append(c.waiting, l)
		}
		if value != "" && file != AutoConf && isSteering(recovery.Recovery{}, name) {
			c.steering = append(c.steering, l)
		}
		if name == "hot_standby" && slices.Contains([]string{"off", "false", "no", "0"}, strings.ToLower(value)) {
			c.Blind = &l
		}
		if _, needed := parameterDefaults[name]; needed {
			c.parameters = append(c.parameters, l)
		}
		if l.Why = danger(name, value, b); l.Why != "" {
			c.Dangerous = append(c.Dangerous, l)
		}
	}
}
