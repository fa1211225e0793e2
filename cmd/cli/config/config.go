// Package config reads configuration files: where they are, their lines and sections, and which server a command means. It refuses to
// know commands, and to change the environment: the grammar gives it the names of settings.
package config

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Names that a section cannot have, as they mean something else to --server and in the file.
const (
	Global = "global" // the section of what holds for all servers
	All    = "all"    // --server all
)

// Settings that only a file has: they say something of a server, and no flag or variable stands for them.
const (
	Active      = "active"
	Description = "description"
	BackupAge   = "last_backup_maximum_age"
	WALAge      = "wal_maximum_age"
)

// Only are these settings, each with what judges its value.
var Only = map[string]func(string) error{
	Active:      func(s string) error { _, err := yes(s); return err },
	Description: func(string) error { return nil },
	BackupAge:   func(s string) error { _, err := Age(s); return err },
	WALAge:      func(s string) error { _, err := Age(s); return err },
}

// Value is one line of a file.
type Value struct {
	Text string
	File string
	Line int
	User bool // in the file of the user, which other users' processes do not read
}

func (v Value) String() string { return fmt.Sprintf("%s, line %d", v.File, v.Line) }

// Section is what holds for a server, or for all: by the name of the environment variable, or of a setting that has none.
type Section map[string]Value

// Config is what all files say.
type Config struct {
	Path     string             // absolute, or None: what was named; empty: nothing was, and any process finds the same files
	Global   Section            // without sections a file has only this
	Sections map[string]Section // by the server's name
	Heads    map[string]Value   // of each server: where its section begins
	Leaks    []string           // files with secrets that anybody on this host can read
	Chosen                      // for the server of the command
}

// Chosen is what holds for the command's server.
type Chosen struct {
	Servers    []string        // more than one: the command runs for each; none: what the grammar has by default
	Everything bool            // --server all without a section: every server in the storage
	all        bool            // --server all: also if only one is active
	By         string          // what named them; empty: nobody did
	Named      bool            // a flag or a variable did
	Values     Section         // of the one server, over those of all
	Overridden map[string]bool // of them, those that the environment has set otherwise
}

// With is the section of a server over what holds for all.
func (c *Config) With(server string) Section {
	all := maps.Clone(c.Global)
	maps.Copy(all, c.Sections[server])
	return all
}

// Filed is what a file says that any process on this host finds: with Path named, or in the default place.
func (c *Config) Filed(name string) (string, bool) {
	v, ok := c.Values[name]
	if v.User {
		return "", false
	}
	return v.Text, ok
}

// Names lists the servers that have sections.
func (c *Config) Names() []string { return slices.Sorted(maps.Keys(c.Sections)) }

// Active says whether backups and WAL of the server are taken.
func (c *Config) Active(server string) bool {
	v, set := c.With(server)[Active]
	is, _ := yes(v.Text) // it was judged when it was read
	return !set || is
}

// actives are the servers of --server all.
func (c *Config) actives() []string {
	return slices.DeleteFunc(c.Names(), func(name string) bool { return !c.Active(name) })
}

// yes reads a boolean as PostgreSQL and Barman write it.
func yes(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "yes", "true", "on", "1":
		return true, nil
	case "no", "false", "off", "0":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither yes nor no", s)
}

// Age reads how old something may be: 26h, or as Barman has it: 7 DAYS.
func Age(s string) (time.Duration, error) {
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return d, nil
	}
	units := map[string]time.Duration{"HOUR": time.Hour, "DAY": 24 * time.Hour, "WEEK": 7 * 24 * time.Hour, "MONTH": 31 * 24 * time.Hour}
	var n int
	var word, rest string
	k, _ := fmt.Sscanf(s, "%d %s %s", &n, &word, &rest)
	unit, known := units[strings.TrimSuffix(strings.ToUpper(word), "S")]
	if k != 2 || !known || n < 1 || n > 10000 {
		return 0, fmt.Errorf("%q is not an age: write it as 26h, 7 DAYS, 2 WEEKS or 1 MONTH", s)
	}
	return time.Duration(n) * unit, nil
}

// nearest is the name that differs least from one that is wrong.
func nearest(name string, names []string) string {
	return slices.MinFunc(names, func(a, b string) int { return cmp.Compare(distance(name, a), distance(name, b)) })
}

// distance is the number of characters to change, insert or remove (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := before
			if a[i] != b[j] {
				cost = min(before, row[j], row[j+1]) + 1
			}
			before, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
