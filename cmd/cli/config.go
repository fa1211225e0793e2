package cli

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/config"
)

// loadConfig reads the configuration files, and puts what they say for the server that is meant into the environment of this process,
// where it is not set already: flags come first, then the environment, the server's section, and what holds for all. There the
// clients of the storage find their credentials, and processes that are started do, too.
func loadConfig(args []string) (*config.Config, error) {
	c, err := config.Load(flagValue(args, configFlag, os.Getenv("PGOBJ_CONFIG")), userDir(), settingNames())
	if err != nil {
		return c, fmt.Errorf("%w: configuration: %w", app.ErrUsage, err)
	}
	named, by := flagValue(args, serverFlag, ""), serverFlag
	if named == "" {
		named, by = os.Getenv("PGOBJ_SERVER"), "PGOBJ_SERVER"
	}
	dataDir := ""
	if named == "" && len(c.Sections) > 0 {
		dataDir, _ = datadir.Of(".", os.Getenv("PGDATA")) // none: no section is found by it
	}
	if err = c.Choose(named, by, dataDir); err != nil {
		err = fmt.Errorf("%w: %w", app.ErrUsage, err)
	}
	if len(c.Servers) == 1 && c.By == "" {
		c.Values = maps.Clone(c.Values)
		c.Values["PGOBJ_SERVER"] = c.Heads[c.Servers[0]]
	}
	return c, errors.Join(err, apply(c))
}

// apply puts what holds into the environment, under what is there.
func apply(c *config.Config) error {
	c.Overridden = map[string]bool{}
	for name, v := range c.Values {
		_, set := os.LookupEnv(name)
		if c.Overridden[name] = set; set || config.Only[name] != nil {
			continue
		}
		if err := os.Setenv(name, v.Text); err != nil {
			return app.Usagef("%v: %s: %v", v, name, err)
		}
	}
	return nil
}

const configFlag, serverFlag = "--config", "--server"

// flagValue finds a flag of a command line that is not parsed yet: of several, the last.
func flagValue(args []string, name, otherwise string) string {
	for i, arg := range args {
		value, is := strings.CutPrefix(arg, name+"=")
		switch {
		case is:
			otherwise = value
		case arg == name && i+1 < len(args):
			otherwise = args[i+1]
		}
	}
	return otherwise
}

// userDir is where the user's programs have their configuration. PostgreSQL may run without HOME.
func userDir() string {
	dir, err := os.UserConfigDir()
	if err == nil {
		return dir
	}
	u, err := user.Current()
	if err != nil || u.HomeDir == "" {
		return ""
	}
	return filepath.Join(u.HomeDir, ".config")
}

// settingNames are the variables of the grammar.
func settingNames() (g config.Grammar) {
	all := environment(reflect.TypeFor[grammar]())
	return config.Grammar{
		Variables: slices.DeleteFunc(all, func(name string) bool { return name == "PGOBJ_CONFIG" }),
		Paths:     append(environment(reflect.TypeFor[grammar](), "FILE", "DIR"), strings.Fields(config.Elsewhere)...),
	}
}

// environment lists the variables that the fields of a grammar stand for; of those with certain placeholders, if any are given.
func environment(t reflect.Type, placeholders ...string) (names []string) {
	for f := range t.Fields() {
		name, ok := f.Tag.Lookup("env")
		if ok && (placeholders == nil || slices.Contains(placeholders, f.Tag.Get("placeholder"))) {
			names = append(names, name)
		}
		if f.Type.Kind() == reflect.Struct {
			names = append(names, environment(f.Type, placeholders...)...)
		}
	}
	return names
}
