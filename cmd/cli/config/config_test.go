package config

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/storage/owned"
)

var grammar = Grammar{
	Variables: []string{"PGOBJ_STORAGE", "PGOBJ_SERVER", "PGOBJ_S3_CA_FILE", "PGOBJ_S3_ENDPOINT", "PGOBJ_RETRY_FOR", "PGOBJ_DRILL_SCRATCH", "PGOBJ_BINDIR"},
	Paths:     append([]string{"PGOBJ_S3_CA_FILE", "PGOBJ_DRILL_SCRATCH", "PGOBJ_BINDIR"}, strings.Fields(Elsewhere)...),
}

func write(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func texts(s Section) map[string]string {
	all := map[string]string{}
	for name, v := range s {
		all[name] = v.Text
	}
	return all
}

// TestLines: what a line means, in a flat file and in one with sections. A path is one from the file's directory.
func TestLines(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(t.TempDir())
	for _, c := range []struct {
		name, text string
		global     map[string]string
		main       map[string]string
	}{
		{"flat", "# a comment\n; another\n\nPGOBJ_STORAGE=s3://b/p?x=y\r\n PGOBJ_SERVER = \"my server\" \nAWS_SECRET_ACCESS_KEY='a\"b#c$d'\nPGHOST=",
			map[string]string{"PGOBJ_STORAGE": "s3://b/p?x=y", "PGOBJ_SERVER": "my server", "AWS_SECRET_ACCESS_KEY": `a"b#c$d`, "PGHOST": ""}, nil},
		{"paths", "PGOBJ_S3_CA_FILE=ca.pem\nPGOBJ_DRILL_SCRATCH=../scratch\nPGOBJ_BINDIR=/usr/bin\nPGPASSFILE=./pass\nPGSSLROOTCERT=system\nPGSSLCERT=\nAWS_SHARED_CREDENTIALS_FILE=aws/c",
			map[string]string{"PGOBJ_S3_CA_FILE": dir + "/ca.pem", "PGOBJ_DRILL_SCRATCH": filepath.Dir(dir) + "/scratch", "PGOBJ_BINDIR": "/usr/bin", "PGPASSFILE": dir + "/pass",
				"PGSSLROOTCERT": "system", "PGSSLCERT": "", "AWS_SHARED_CREDENTIALS_FILE": dir + "/aws/c"}, nil},
		{"sections", "\ufeffretry_for = 1m\n[main]\nstorage=file:///b ; no comment\npgdata = data\nactive = no\n[global]\ns3_endpoint = https://x\n[ db-2 ]\nPGHOST = /run\n",
			map[string]string{"PGOBJ_RETRY_FOR": "1m", "PGOBJ_S3_ENDPOINT": "https://x"}, map[string]string{"PGOBJ_STORAGE": "file:///b ; no comment", "PGDATA": dir + "/data", "active": "no"}},
		{"only a file has these", "last_backup_maximum_age = 26h\n[main]\ndescription = the password=x of nobody\nwal_maximum_age = 2 Weeks\n",
			map[string]string{"last_backup_maximum_age": "26h"}, map[string]string{"description": "the password=x of nobody", "wal_maximum_age": "2 Weeks"}},
	} {
		got, err := Load(write(t, dir+"/pgobj.conf", c.text, 0o600), "", grammar)
		if err != nil || !maps.Equal(texts(got.Global), c.global) || !maps.Equal(texts(got.Sections["main"]), c.main) {
			t.Errorf("%s: got %v, %v (%v)", c.name, got.Global, got.Sections, err)
		}
	}
}

// TestWrongLines: every mistake is told with its line and what is right.
func TestWrongLines(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pgobj.conf")
	for text, says := range map[string]string{
		"\nPGOBJ_STORAGE":                    "line 2: write it as NAME = VALUE",
		"PGOBJ_STORE=x":                      `line 1: "PGOBJ_STORE" is not a setting of pgobj; the nearest name is PGOBJ_STORAGE`,
		"[main]\nstorge = x":                 `line 2: "storge" is not a setting of pgobj; the nearest name is storage`,
		"[main]\ns3-endpoint = x":            "the nearest name is s3_endpoint",
		"[main]\nretention_policy = x":       "is not a setting",
		"PATH=/x":                            "is not a setting",
		"config = x":                         "is not a setting",
		"#\n#\nPGOBJ_SERVER='x":              "line 3: the value of PGOBJ_SERVER has no closing quote",
		"PGOBJ_SERVER='":                     "no closing quote",
		"storage =":                          "line 1: storage is empty",
		"storage = ''":                       "line 1: storage is empty",
		"[main]\ndescription =":              "line 2: description is empty",
		"storage = a\nstorage = b":           "line 2: storage is set in line 1 already",
		"storage = a\nPGOBJ_STORAGE = b":     "line 2: PGOBJ_STORAGE is set in line 1 already",
		"[main]\n[b]\n[main]":                "line 3: the section [main] is in " + file + ", line 1 already",
		"[main":                              "write a section as [global] or [SERVER]",
		"[main] # x":                         "write a section as [global] or [SERVER]",
		"[]":                                 "the name of a server",
		"[a/b]":                              "the name of a server",
		"[all]":                              "no server can have the name all",
		"[main]\nserver = x":                 "line 2: server: the name of the section is the name of the server",
		"active = no":                        "belongs into the section of a server",
		"[main]\nactive = perhaps":           `active: "perhaps" is neither yes nor no`,
		"[main]\nwal_maximum_age = old":      `"old" is not an age`,
		"[main]\nwal_maximum_age = 0 DAYS":   "is not an age",
		"[main]\nwal_maximum_age = 1 DAY or": "is not an age",
	} {
		if got, err := Load(write(t, file, text, 0o600), "", grammar); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), file+", line ") {
			t.Errorf("%q gives %v (%v), want an error with %q", text, got.Global, err, says)
		}
	}
}

func TestAge(t *testing.T) {
	for text, want := range map[string]time.Duration{"26h": 26 * time.Hour, "1 DAY": 24 * time.Hour, "36 hours": 36 * time.Hour, "2 WEEKS": 336 * time.Hour, "1 month": 744 * time.Hour} {
		if got, err := Age(text); err != nil || got != want {
			t.Errorf("%s is %v (%v)", text, got, err)
		}
	}
}

// TestDirectory: pgobj.conf first, then conf.d in the order of the names; a later file holds, and a server is in one of them.
func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir, "", grammar); err == nil {
		t.Error("a directory without a file is no error")
	}
	write(t, dir+"/pgobj.conf", "storage = file:///a\nretry_for = 1m\n[a]\nbindir = bin\n", 0o600)
	write(t, dir+"/conf.d/20.conf", "[b]\nbindir = bin\n", 0o600)
	write(t, dir+"/conf.d/10.conf", "storage = file:///b\n", 0o600)
	write(t, dir+"/conf.d/30.conf.dpkg-old", "nonsense", 0o600)
	write(t, dir+"/conf.d/.40.conf", "nonsense", 0o600)
	c, err := Load(dir, "", grammar)
	if err != nil || c.Global["PGOBJ_STORAGE"].Text != "file:///b" || strings.Join(c.Names(), " ") != "a b" {
		t.Fatalf("got %+v (%v)", c, err)
	}
	if a, b := c.Sections["a"]["PGOBJ_BINDIR"].Text, c.Sections["b"]["PGOBJ_BINDIR"].Text; a != dir+"/bin" || b != dir+"/conf.d/bin" {
		t.Errorf("paths %s and %s", a, b)
	}
	write(t, dir+"/conf.d/30.conf", "[a]\nbindir = bin\n", 0o600)
	if _, err := Load(dir, "", grammar); err == nil || !strings.Contains(err.Error(), "30.conf, line 1") {
		t.Errorf("a server in two files: %v", err)
	}
}

// TestLeaks: a secret in a file that everybody can read is told.
func TestLeaks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pgobj.conf")
	for text, secret := range map[string]bool{"AWS_SECRET_ACCESS_KEY=x": true, "[main]\nPGPASSWORD=x": true, "[main]\nPGOPTIONS=password=x": true, "PGHOST=x": false, "AWS_ACCESS_KEY_ID=x": false} {
		for mode, readable := range map[os.FileMode]bool{0o644: true, 0o640: false} {
			c, err := Load(write(t, file, text, mode), "", grammar)
			if os.Remove(file) != nil || err != nil || (len(c.Leaks) > 0) != (secret && readable) {
				t.Errorf("%q, %o: %v (%v)", text, mode, c.Leaks, err)
			}
		}
	}
}

// TestChoose: which server is meant, and that none is guessed that could be another.
func TestChoose(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "link"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); name != "link" && err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(dir + "/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	two := "[a]\npgdata = link\n[b]\npgdata = b\n"
	for _, c := range []struct{ text, named, data, want, fails string }{
		{"storage = file:///b\n", "", "", "", ""},
		{"server = x\n", "", "", "x", ""},
		{"server = x\n", "y", "", "y", ""},
		{"[a]\n", "", "", "a", ""},
		{"[a]\nactive = no\n", "", "", "a", ""}, // refused later, by the commands that store
		{two, "", "", "", "several servers"},
		{two, "", "/tmp", "", "several servers"},
		{two, "", dir + "/a", "a", ""},
		{two, "", dir + "/b", "b", ""},
		{two, "b", dir + "/a", "b", ""},
		{"server = b\n" + two, "", dir + "/a", "b", ""},
		{"pgdata = a\n[a]\n[b]\n", "", dir + "/a", "", "several servers"},
		{"[a]\npgdata = a\n[b]\npgdata = a\n", "", dir + "/a", "", "several servers"},
		{two, "c", "", "", "no section for this server"},
		{two, "a,c", "", "", "no section for this server"},
		{two, "b,a", "", "b a", ""},
		{two, "a,a", "", "", "each once"},
		{two, "a,", "", "", "each once"},
		{two, "a,all", "", "", "each once"},
		{two, "all", "", "a b", ""},
		{"[a]\nactive = off\n[b]\n", "all", "", "b", ""},
		{"[a]\nactive = off\n", "all", "", "", "not active"},
		{"storage = x\n", "all", "", "", ""},
		{"storage = x\n", "a,b", "", "a b", ""},
	} {
		conf, err := Load(write(t, dir+"/pgobj.conf", c.text, 0o600), "", grammar)
		if err != nil {
			t.Fatal(err)
		}
		err = conf.Choose(c.named, "--server", c.data)
		if c.fails != "" {
			if err == nil || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%+v: %v", c, err)
			}
			continue
		}
		if got := strings.Join(conf.Servers, " "); err != nil || got != c.want {
			t.Errorf("%+v: got %s (%v)", c, got, err)
		}
		if many := c.named == "all" || strings.Contains(c.named, ","); conf.Many() != many {
			t.Errorf("%+v: many is %v", c, !many)
		}
	}
}

// TestGuard: WAL of a data directory that is not the section's goes there only when a flag or a variable names the server.
func TestGuard(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		text, named string
		fails       bool
	}{
		{"[a]\npgdata = .\n", "", true},
		{"server = a\n[a]\npgdata = .\n", "", true},
		{"[a]\npgdata = .\n", "a", false},
		{"[a]\n", "", false},
		{"PGDATA=.\n", "", false},
	} {
		conf, err := Load(write(t, dir+"/pgobj.conf", c.text, 0o600), "", grammar)
		if err == nil {
			err = conf.Choose(c.named, "--server", "")
		}
		if err != nil || conf.Guard(dir) != nil || (conf.Guard(t.TempDir()) != nil) != c.fails {
			t.Errorf("%+v: %v, %v", c, err, conf.Guard(dir))
		}
	}
}

// TestWhoWrote: what another user could have written is not read.
func TestWhoWrote(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/pgobj.conf", "storage = file:///b\n", 0o600)
	write(t, dir+"/conf.d/a.conf", "", 0o600)
	read := func() error {
		_, err := Load(dir, "", grammar)
		return err
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", "/conf.d", "/pgobj.conf", "/conf.d/a.conf"} {
		st, err := os.Stat(dir + path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir+path, st.Mode()|0o022); err != nil {
			t.Fatal(err)
		}
		if err := read(); !errors.Is(err, owned.ErrStranger) {
			t.Errorf("%s is writable for others: %v", path, err)
		}
		if err := os.Chmod(dir+path, st.Mode()); err != nil {
			t.Fatal(err)
		}
	}
}
