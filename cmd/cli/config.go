package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/storage/owned"
)

// loadConfig finds the file that a command line or the environment names, and puts what it says into the environment
// of this process, where it is not set already: flags come first, then the environment, then the file. There the
// clients of the storage find their credentials, and processes that are started do, too.
func loadConfig(args []string) (app.Config, error) {
	path := flagValue(args, configFlag, os.Getenv("PGOBJ_CONFIG"))
	if path == "" {
		return app.Config{}, nil
	}
	c, err := readConfig(path)
	if err != nil {
		return c, fmt.Errorf("%w: %s (PGOBJ_CONFIG): %w", app.ErrUsage, configFlag, err)
	}
	for name, value := range c.Values {
		if _, set := os.LookupEnv(name); !set {
			if err := os.Setenv(name, value); err != nil {
				return c, app.Usagef("%s (PGOBJ_CONFIG): %s: %v", configFlag, name, err)
			}
		}
	}
	return c, nil
}

const configFlag = "--config"

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

// filesElsewhere are variables that name a file or a directory, of those that are not pgobj's own.
const filesElsewhere = `PGPASSFILE PGSERVICEFILE PGSYSCONFDIR PGSSLCERT PGSSLKEY PGSSLROOTCERT PGSSLCRL PGSSLCRLDIR PGDATA SSL_CERT_FILE SSL_CERT_DIR
	AWS_CA_BUNDLE AWS_CONFIG_FILE AWS_SHARED_CREDENTIALS_FILE AWS_WEB_IDENTITY_TOKEN_FILE AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE`

// resolve takes paths that are relative for those of the configuration file's directory: commands are run from anywhere,
// and PostgreSQL runs its own from the data directory.
func resolve(c app.Config) {
	paths := append(environment(reflect.TypeFor[grammar](), "FILE", "DIR"), strings.Fields(filesElsewhere)...)
	for name, value := range c.Values {
		keyword := name == "PGSSLROOTCERT" && value == "system"
		if value != "" && !keyword && !filepath.IsAbs(value) && slices.Contains(paths, name) {
			c.Values[name] = filepath.Join(filepath.Dir(c.Path), value)
		}
	}
}

func readConfig(path string) (c app.Config, err error) {
	if c.Path, err = filepath.Abs(path); err != nil {
		return c, err
	}
	f, err := os.Open(c.Path)
	if err != nil {
		return c, fmt.Errorf("%w: %w", errConfigFile, err)
	}
	defer f.Close()
	if err := owned.Named(f); err != nil {
		return c, err
	}
	st, err := f.Stat()
	if err != nil {
		return c, err
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return c, err
	}
	if c.Values, err = parseConfig(string(data), environment(reflect.TypeFor[grammar]())); err != nil {
		return c, fmt.Errorf("%s, %w", c.Path, err)
	}
	resolve(c)
	for _, secret := range []string{"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PGPASSWORD"} {
		if _, has := c.Values[secret]; has && st.Mode().Perm()&0o004 != 0 {
			c.Leaks = true
		}
	}
	return c, nil
}

// parseConfig reads the lines. A value may stand in quotes; nothing is expanded.
func parseConfig(text string, known []string) (map[string]string, error) {
	// Not pgobj's own: those of libpq, and of Go's HTTP client. AWS has too many.
	foreign := strings.Fields(filesElsewhere + ` PGHOST PGHOSTADDR PGPORT PGUSER PGDATABASE PGPASSWORD PGSERVICE PGSSLMODE PGSSLPASSWORD PGSSLNEGOTIATION PGSSLCERTMODE PGSSLSNI
		PGSSLCOMPRESSION PGSSLMINPROTOCOLVERSION PGSSLMAXPROTOCOLVERSION PGMINPROTOCOLVERSION PGMAXPROTOCOLVERSION PGCHANNELBINDING PGREQUIREAUTH PGREQUIREPEER PGTARGETSESSIONATTRS
		PGLOADBALANCEHOSTS PGGSSENCMODE PGGSSLIB PGGSSDELEGATION PGKRBSRVNAME PGCLIENTENCODING PGCONNECT_TIMEOUT PGOPTIONS PGAPPNAME PGTZ HTTP_PROXY HTTPS_PROXY NO_PROXY`)
	values := map[string]string{}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		switch {
		case !ok:
			return nil, fmt.Errorf("line %d: write it as NAME=VALUE, as in PGOBJ_STORAGE=s3://bucket/prefix", n)
		case !slices.Contains(known, name) && !slices.Contains(foreign, name) && !strings.HasPrefix(name, "AWS_"):
			return nil, fmt.Errorf("line %d: %q is not a setting of pgobj: use the names of the environment variables in pgobj --help", n, name)
		case value != "" && (value[0] == '"' || value[0] == '\''):
			if len(value) < 2 || value[len(value)-1] != value[0] {
				return nil, fmt.Errorf("line %d: the value of %s has no closing quote", n, name)
			}
			value = value[1 : len(value)-1]
		}
		if value == "" && slices.Contains(known, name) {
			return nil, fmt.Errorf("line %d: %s is empty: give a value, or remove the line", n, name)
		}
		values[name] = value
	}
	return values, nil
}
