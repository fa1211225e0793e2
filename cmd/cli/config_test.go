package cli

import (
	"maps"
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
		"\nPGOBJ_STORAGE": "line 2: write it as NAME=VALUE", "PGOBJ_STORE=x": `line 1: "PGOBJ_STORE" is no setting`, "PATH=/x": "is no setting",
		"#\n#\nPGOBJ_SERVER='x": "line 3: the value of PGOBJ_SERVER has no closing quote", "PGOBJ_SERVER='": "no closing quote", "[section]": "NAME=VALUE",
	} {
		if got, err := parseConfig(text, known); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q gives %v (%v), want an error with %q", text, got, err, says)
		}
	}
}
