package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/storage/owned"
)

// None in the place of a path: no file is read.
const None = "none"

// System is the directory that is looked into when nothing is named.
const System = "/etc/pgobj"

// ErrUnreadable: a configuration file is not there, or this process may not read it.
var ErrUnreadable = errors.New("the configuration file cannot be read")

// Grammar is what may stand in a file.
type Grammar struct {
	Variables []string // of settings; in small letters and without PGOBJ_ each is the setting's name
	Paths     []string // those of any program that name a file or directory
}

// Load reads the file or directory at path; without a path, what there is in the default places. userDir is ~/.config.
// Errors: ErrUnreadable, owned.ErrStranger, and what is wrong with which line.
func Load(path, userDir string, g Grammar) (*Config, error) {
	r := &reader{Grammar: g, Config: &Config{Global: Section{}, Sections: map[string]Section{}, Heads: map[string]Value{}}}
	var err error
	switch path {
	case None:
		if files, _ := configured(System); files != nil { // what is written for other processes has to say so, too
			r.Path = None
		}
	case "":
		err = r.defaults(userDir)
	default:
		err = r.named(path)
	}
	return r.Config, err
}

// configured lists the files of a directory in the order in which they are read: a later one holds.
func configured(dir string) ([]string, error) {
	there, err := list(dir)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var files []string
	if slices.Contains(there, "pgobj.conf") {
		files = append(files, filepath.Join(dir, "pgobj.conf"))
	}
	names, err := list(filepath.Join(dir, "conf.d"))
	if err != nil && !absent(err) {
		return files, err
	}
	for _, name := range slices.Sorted(slices.Values(names)) {
		if strings.HasSuffix(name, ".conf") && name[0] != '.' {
			files = append(files, filepath.Join(dir, "conf.d", name))
		}
	}
	return files, nil
}

// list names what is in a directory to which nobody else can have added anything.
func list(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	defer d.Close()
	if err := owned.Named(d); err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	return names, nil
}

func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) }

type reader struct {
	Grammar
	*Config
	user bool // the files of the user are being read
}

func (r *reader) defaults(userDir string) error {
	files, err := configured(System)
	if err != nil {
		return err
	}
	if err := r.all(files); err != nil || userDir == "" {
		return err
	}
	r.user = true
	files, err = configured(filepath.Join(userDir, "pgobj"))
	if errors.Is(err, fs.ErrPermission) { // the home of another user, after su or sudo
		return nil
	}
	if err != nil {
		return err
	}
	return r.all(files)
}

func (r *reader) named(path string) (err error) {
	if r.Path, err = filepath.Abs(path); err != nil {
		return err
	}
	files := []string{r.Path}
	if st, err := os.Stat(r.Path); err == nil && st.IsDir() {
		if files, err = configured(r.Path); err != nil {
			return err
		}
		if files == nil {
			return fmt.Errorf("%w: the directory %s has neither pgobj.conf nor conf.d/*.conf", ErrUnreadable, r.Path)
		}
	}
	return r.all(files)
}

func (r *reader) all(files []string) error {
	for _, file := range files {
		if err := r.file(file); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) file(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	defer f.Close()
	if err := r.check(f); err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	secret, err := r.parse(path, string(data))
	if secret && st.Mode().Perm()&0o004 != 0 {
		r.Leaks = append(r.Leaks, path)
	}
	return err
}

// check looks at who may have written the file. That root was told of a file is trust in its owner; that HOME is another user's is not.
func (r *reader) check(f *os.File) error {
	if !r.user {
		return owned.Named(f)
	}
	path, err := filepath.EvalSymlinks(f.Name())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	return owned.File(path)
}

// parse reads the lines of a file, and says whether it has secrets. A value may stand in quotes; nothing is expanded, included or continued.
func (r *reader) parse(file, text string) (secret bool, err error) {
	section, inServer, n := r.Global, false, 0
	for line := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
		n++
		v := Value{File: file, Line: n, User: r.user}
		name := ""
		switch line = strings.TrimSpace(line); {
		case line == "" || line[0] == '#' || line[0] == ';':
			continue
		case line[0] == '[':
			section, inServer, err = r.section(v, line)
		default:
			name, err = r.set(section, inServer, v, line)
		}
		if err != nil {
			return secret, fmt.Errorf("%v: %w", v, err)
		}
		secret = secret || name != "" && Hide(name, section[name].Text) != section[name].Text
	}
	return secret, nil
}

// section begins one. That of a server is in one place only: two that were copied from each other must not become one.
func (r *reader) section(v Value, line string) (s Section, server bool, err error) {
	name, closed := strings.CutSuffix(line[1:], "]")
	name = strings.TrimSpace(name)
	before, again := r.Heads[name]
	switch {
	case !closed:
		return nil, false, fmt.Errorf("write a section as [%s] or [SERVER], alone on its line", Global)
	case name == Global:
		return r.Global, false, nil
	case name == All:
		return nil, false, fmt.Errorf("no server can have the name %s: --server %[1]s means every server. Settings for all servers are in the section [%s]", All, Global)
	case again:
		return nil, false, fmt.Errorf("the section [%s] is in %v already: put all settings of a server into one section", name, before)
	}
	if err := catalog.CheckServer(name); err != nil {
		return nil, false, fmt.Errorf("section [%s]: the name of a server: %w", name, err)
	}
	v.Text = name
	r.Heads[name], r.Sections[name] = v, Section{}
	return r.Sections[name], true, nil
}

// set takes a line NAME = VALUE, and returns the name under which it is kept.
func (r *reader) set(section Section, inServer bool, v Value, line string) (string, error) {
	written, text, ok := strings.Cut(line, "=")
	written, text = strings.TrimSpace(written), strings.TrimSpace(text)
	if !ok {
		return "", errors.New("write it as NAME = VALUE, as in storage = s3://bucket/prefix")
	}
	name, err := r.name(written)
	if err != nil {
		return "", err
	}
	if text != "" && (text[0] == '"' || text[0] == '\'') {
		if len(text) < 2 || text[len(text)-1] != text[0] {
			return "", fmt.Errorf("the value of %s has no closing quote", written)
		}
		text = text[1 : len(text)-1]
	}
	judge, only := Only[name]
	before, again := section[name]
	switch {
	case text == "" && !Foreign(name):
		return "", fmt.Errorf("%s is empty: give a value, or remove the line", written)
	case again && before.File == v.File:
		return "", fmt.Errorf("%s is set in line %d already", written, before.Line)
	case inServer && name == "PGOBJ_SERVER":
		return "", fmt.Errorf("%s: the name of the section is the name of the server: remove the line", written)
	case !inServer && only && name != BackupAge && name != WALAge:
		return "", fmt.Errorf("%s belongs into the section of a server, such as [main]", written)
	case only:
		err = judge(text)
	case slices.Contains(r.Paths, name) && text != "" && !filepath.IsAbs(text) && (name != "PGSSLROOTCERT" || text != "system"):
		text = filepath.Join(filepath.Dir(v.File), text) // commands are run from anywhere, PostgreSQL's from the data directory
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", written, err)
	}
	v.Text = text
	section[name] = v
	return name, nil
}

// name is the variable that a name in a file stands for, or a setting that only files have.
func (r *reader) name(written string) (string, error) {
	variable := "PGOBJ_" + strings.ToUpper(written)
	switch _, only := Only[written]; {
	case only, slices.Contains(r.Variables, written), Foreign(written):
		return written, nil
	case written == "pgdata":
		return "PGDATA", nil
	case written == strings.ToLower(written) && slices.Contains(r.Variables, variable):
		return variable, nil
	}
	names := slices.Concat(r.Variables, strings.Fields(foreign))
	if written != strings.ToUpper(written) {
		names = append(slices.Collect(maps.Keys(Only)), "pgdata")
		for _, v := range r.Variables {
			names = append(names, Name(v))
		}
	}
	return "", fmt.Errorf("%q is not a setting of pgobj; the nearest name is %s (docs/configuration.md has all)", written, nearest(written, names))
}

// Name is how a file calls the setting of a variable.
func Name(variable string) string {
	if own, ok := strings.CutPrefix(variable, "PGOBJ_"); ok {
		return strings.ToLower(own)
	}
	return variable
}

// Foreign says of a variable that it is of a program that pgobj is linked with.
func Foreign(name string) bool {
	return strings.HasPrefix(name, "AWS_") || slices.Contains(strings.Fields(foreign), name)
}

// Hide is the value of a setting without what must not be seen.
func Hide(name, value string) string {
	switch name {
	case "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN", "PGPASSWORD", "PGSSLPASSWORD":
		if value != "" {
			return "…"
		}
	case Description:
		return value
	}
	return show.HidePassword(value)
}

// Elsewhere are variables that name a file or a directory, of those that are not pgobj's own.
const Elsewhere = `PGPASSFILE PGSERVICEFILE PGSYSCONFDIR PGSSLCERT PGSSLKEY PGSSLROOTCERT PGSSLCRL PGSSLCRLDIR PGDATA SSL_CERT_FILE SSL_CERT_DIR
	AWS_CA_BUNDLE AWS_CONFIG_FILE AWS_SHARED_CREDENTIALS_FILE AWS_WEB_IDENTITY_TOKEN_FILE AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE`

// foreign are variables of libpq and of Go's HTTP client. AWS has too many.
const foreign = Elsewhere + ` PGHOST PGHOSTADDR PGPORT PGUSER PGDATABASE PGPASSWORD PGSERVICE PGSSLMODE PGSSLPASSWORD PGSSLNEGOTIATION PGSSLCERTMODE PGSSLSNI
	PGSSLCOMPRESSION PGSSLMINPROTOCOLVERSION PGSSLMAXPROTOCOLVERSION PGMINPROTOCOLVERSION PGMAXPROTOCOLVERSION PGCHANNELBINDING PGREQUIREAUTH PGREQUIREPEER PGTARGETSESSIONATTRS
	PGLOADBALANCEHOSTS PGGSSENCMODE PGGSSLIB PGGSSDELEGATION PGKRBSRVNAME PGCLIENTENCODING PGCONNECT_TIMEOUT PGOPTIONS PGAPPNAME PGTZ HTTP_PROXY HTTPS_PROXY NO_PROXY`
