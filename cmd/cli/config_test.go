package cli

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseConfig(t *testing.T) {
	known := []string{"PGOBJ_STORAGE", "PGOBJ_SERVER"}
	got, err := parseConfig("# a comment\n; another\n\nPGOBJ_STORAGE=s3://b/p?x=y\r\n PGOBJ_SERVER = \"my server\" \nAWS_SECRET_ACCESS_KEY='a\"b#c$d'\nPGHOST=", known)
	want := map[string]string{"PGOBJ_STORAGE": "s3://b/p?x=y", "PGOBJ_SERVER": "my server", "AWS_SECRET_ACCESS_KEY": `a"b#c$d`, "PGHOST": ""}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
	for text, says := range map[string]string{
		"\nPGOBJ_STORAGE": "line 2: ", "PGOBJ_STORE=x": `line 1: "PGOBJ_STORE"`, "PATH=/x": "is not a setting",
		"#\n#\nPGOBJ_SERVER='x": "line 3: the value of PGOBJ_SERVER", "PGOBJ_SERVER='": "no closing quote", "[section]": "NAME=VALUE",
	} {
		if got, err := parseConfig(text, known); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q gives %v (%v), want an error with %q", text, got, err, says)
		}
	}
}

// TestConfigPaths: a path in the file is one from the file's directory, wherever the command runs.
func TestConfigPaths(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(t.TempDir())
	file := filepath.Join(dir, "pgobj.conf")
	text := "PGOBJ_STORAGE=s3://b/p\nPGOBJ_S3_CA_FILE=ca.pem\nPGOBJ_DRILL_SCRATCH=../scratch\nPGOBJ_BINDIR=/usr/bin\nPGPASSFILE=./pass\nPGSSLROOTCERT=system\nPGSSLCERT=\nAWS_SHARED_CREDENTIALS_FILE=aws/credentials\nPGHOST=db\nPGOBJ_SERVER=main\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := readConfig(file)
	want := map[string]string{"PGOBJ_STORAGE": "s3://b/p", "PGOBJ_S3_CA_FILE": dir + "/ca.pem", "PGOBJ_DRILL_SCRATCH": filepath.Dir(dir) + "/scratch", "PGOBJ_BINDIR": "/usr/bin",
		"PGPASSFILE": dir + "/pass", "PGSSLROOTCERT": "system", "PGSSLCERT": "", "AWS_SHARED_CREDENTIALS_FILE": dir + "/aws/credentials", "PGHOST": "db", "PGOBJ_SERVER": "main"}
	if err != nil || !maps.Equal(c.Values, want) {
		t.Errorf("got %v (%v), want %v", c.Values, err, want)
	}
	if _, err := parseConfig("PGHOSTADDR=10.0.0.1\nPGTARGETSESSIONATTRS=primary\nPGREQUIREPEER=postgres\n", nil); err != nil {
		t.Error(err)
	}
}
