package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/catalog"
)

var (
	// ErrNoChoice: the files have several servers, and nothing says which of them is meant.
	ErrNoChoice = errors.New("several servers are configured, and none is named")
	// ErrUnknown: the files have sections, and none for this server.
	ErrUnknown = errors.New("the configuration has no section for this server")
	// ErrInactive: no backups and no WAL are taken of this server any more.
	ErrInactive = errors.New("the configuration says that this server is not active")
	// ErrOther: the section is for the server of another data directory.
	ErrOther = errors.New("the configuration is for another data directory")
)

// Choose decides which servers are meant. named is what a flag or a variable says, and by which of them; dataDir is the data directory
// in which the process runs, if it is one. Errors: ErrNoChoice, ErrUnknown, a list that is none.
func (c *Config) Choose(named, by, dataDir string) error {
	c.Named = named != ""
	if v, set := c.Global["PGOBJ_SERVER"]; named == "" && set {
		named, by = v.Text, v.String()
	}
	c.Values = c.Global
	var err error
	switch {
	case named == All && len(c.Sections) == 0:
		c.By, c.Everything = by, true
	case named != "":
		c.By = by
		err = c.choose(named)
	case len(c.Sections) > 0:
		err = c.guess(dataDir)
	}
	if len(c.Servers) == 1 && !c.Many() {
		c.Values = c.With(c.Servers[0])
	}
	return err
}

// Many says that the command has to run once for each server, although it may be one.
func (c *Config) Many() bool { return c.Everything || c.all || len(c.Servers) > 1 }

func (c *Config) choose(named string) error {
	if c.all = named == All; c.all {
		if c.Servers = c.actives(); len(c.Servers) == 0 {
			return fmt.Errorf("%w: none of %s is (active = no)", ErrInactive, strings.Join(c.Names(), ", "))
		}
		return nil
	}
	c.Servers = strings.Split(named, ",")
	for i, name := range c.Servers {
		switch {
		case len(c.Servers) > 1 && (catalog.CheckServer(name) != nil || name == All || slices.Contains(c.Servers[:i], name)):
			return fmt.Errorf("%s is %q: write a list of servers as NAME,NAME, each once", c.By, named)
		case len(c.Sections) > 0 && c.Sections[name] == nil:
			return fmt.Errorf("%w: %s is %s, and the sections are %s", ErrUnknown, c.By, name, strings.Join(c.Names(), ", "))
		}
	}
	return nil
}

// guess takes the server whose data directory this is, or the only one.
func (c *Config) guess(dataDir string) error {
	c.Servers = slices.DeleteFunc(c.Names(), func(name string) bool {
		v, set := c.Sections[name]["PGDATA"]
		return !set || dataDir == "" || !same(v.Text, dataDir)
	})
	if len(c.Servers) != 1 {
		c.Servers = c.Names()
	}
	if len(c.Servers) > 1 {
		c.Servers = nil
		return fmt.Errorf("%w: the sections are %s", ErrNoChoice, strings.Join(c.Names(), ", "))
	}
	return nil
}

// Guard refuses to archive for a server that no flag or variable named when its data directory is another than the one that WAL comes from: the
// archive of the original is no place for the WAL of a copy. Errors: ErrOther.
func (c *Config) Guard(dataDir string) error {
	v, set := c.Values["PGDATA"]
	if c.Named || len(c.Sections) == 0 || !set || same(v.Text, dataDir) {
		return nil
	}
	dataDir, err := filepath.Abs(dataDir)
	if err != nil {
		return err
	}
	return fmt.Errorf("%w: %v has pgdata = %s for server %s, and this is %s", ErrOther, v, v.Text, c.Servers[0], dataDir)
}

func same(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(one, other)
}
