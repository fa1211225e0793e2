package settings

import (
	"fmt"
	"strings"
	"testing"
)

func TestAdapt(t *testing.T) {
	c := Copy{From: "/var/lib/postgresql/15/main", To: "/srv/copy", Whole: true, Places: map[string]string{
		"/etc/postgresql/15/main/postgresql.conf": "/srv/etc/postgresql.conf", "/etc/postgresql/15/main/pg_hba.conf": "/srv/etc/pg_hba.conf",
		"/etc/postgresql/15/main/conf.d": "/srv/etc/conf.d", "/etc/common.conf": "/srv/etc/common.conf"}}
	for line, want := range map[string]string{
		"data_directory = '/var/lib/postgresql/15/main'\t# use data in another directory": "data_directory = '/srv/copy'",
		"DATA_DIRECTORY '/elsewhere'":                                       "data_directory = '/srv/copy'",
		"data_directory='/srv/copy/'":                                       "=",
		"hba_file = '/etc/postgresql/15/main/pg_hba.conf'":                  "hba_file = '/srv/etc/pg_hba.conf'",
		"hba_file = '/var/lib/postgresql/15/main/pg_hba.conf'":              "hba_file = '/srv/copy/pg_hba.conf'",
		"hba_file = 'pg_hba.conf'":                                          "=",
		"ident_file = '/etc/lost.conf'":                                     "",
		"external_pid_file = '/var/run/postgresql/15-main.pid'":             "",
		"external_pid_file = '/var/lib/postgresql/15/main/the.pid'":         "external_pid_file = '/srv/copy/the.pid'",
		"stats_temp_directory = '/var/run/postgresql/15-main.pg_stat_tmp'":  "",
		"stats_temp_directory = 'pg_stat_tmp'":                              "=",
		"include_dir = 'conf.d'":                                            "=",
		"include_dir '/etc/postgresql/15/main/conf.d'":                      "include_dir = '/srv/etc/conf.d'",
		"include '/etc/common.conf'":                                        "include = '/srv/etc/common.conf'",
		"include '../../../common.conf'":                                    "include = '/srv/etc/common.conf'",
		"include_if_exists 'absent.conf'":                                   "",
		"include '/var/lib/postgresql/15/main/inside.conf'":                 "include = '/srv/copy/inside.conf'",
		"work_mem = '7MB'":                                                  "=",
		"# data_directory = 'ConfigDir'":                                    "=",
		"port = 5432":                                                       "=",
		"log_directory = '/var/log/postgresql'":                             "=",
		"ssl_cert_file = '/etc/ssl/certs/ssl-cert-snakeoil.pem'":            "=",
		"hba_file = '/etc/postgresql/15/main/../main/pg_hba.conf' # a note": "hba_file = '/srv/etc/pg_hba.conf'",
	} {
		text, changes := c.Adapt("/etc/postgresql/15/main/postgresql.conf", "before = 1\n"+line+"\nafter = 2")
		got := "="
		if len(changes) == 1 && changes[0].Line == 2 {
			got = changes[0].Now
		}
		if got != want || len(changes) > 1 || (want == "=") != (text == "before = 1\n"+line+"\nafter = 2") {
			t.Errorf("%s\nbecomes %q, should be %q; the file: %s", line, got, want, text)
		}
		if v, ok := Value(text, strings.ToLower(strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune("= \t", r) })[0])); want == "" && ok {
			t.Errorf("%s is still there as %q: %s", line, v, text)
		}
		if !strings.Contains(text, strings.TrimSpace(line)) || !strings.HasSuffix(text, "after = 2") {
			t.Errorf("the file does not tell of %s: %s", line, text)
		}
	}
	c.Whole = false
	if text, changes := c.Adapt("/x/postgresql.conf", "include '/y.conf'\n"); len(changes) > 0 || text != "include '/y.conf'\n" {
		t.Errorf("of a copy that is not whole: %q %v", text, changes)
	}
	c.To = c.From
	if _, changes := c.Adapt("/x/postgresql.conf", "external_pid_file = '/run/x.pid'\n"); len(changes) > 0 {
		t.Errorf("in the original's place: %v", changes)
	}
}

func TestIncludes(t *testing.T) {
	got := fmt.Sprint(Includes("/etc/pg/postgresql.conf", "include_dir 'conf.d'\ninclude = '/a/b.conf'\n#include 'no'\ninclude_if_exists '../c.conf'\n"))
	if want := "[{/etc/pg/conf.d true} {/a/b.conf false} {/etc/c.conf false}]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestValues(t *testing.T) {
	texts := map[string]string{"/etc/pg/postgresql.conf": "a = 1\nb = 1\ninclude_dir 'conf.d'\ninclude = '../c.conf'\nc = 3 # the last one\n",
		"/etc/pg/conf.d/1.conf": "a = 2\nb = 2\n", "/etc/pg/conf.d/2.conf": "B = 3\n", "/etc/c.conf": "c = 2\nd = 'x y'\n", "/loop.conf": "include 'loop.conf'\n",
		"/lost.conf": "a = 1\ninclude_if_exists 'gone.conf'\n", "/closed.conf": "a = 1\ninclude_dir 'gone'\n"}
	s := Source{func(file string) (string, bool) { text, ok := texts[file]; return text, ok },
		func(dir string) ([]string, bool) {
			return []string{dir + "/1.conf", dir + "/2.conf"}, dir == "/etc/pg/conf.d"
		}}
	if got := fmt.Sprint(s.Values("/etc/pg/postgresql.conf")); got != "map[a:2 b:3 c:3 d:x y]" {
		t.Errorf("it says %s", got)
	}
	for _, main := range []string{"/loop.conf", "/lost.conf", "/closed.conf", "/none.conf"} {
		if got := s.Values(main); got != nil {
			t.Errorf("%s is not known in full, and says %v", main, got)
		}
	}
}
