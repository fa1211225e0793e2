package cli

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/pgobj/pgobj/cmd/cli/config"
)

// leaf is a command of the grammar with arguments that it can be parsed with.
type leaf struct {
	*kong.Node
	words []string // its name
	args  []string // one for each argument that it needs
}

// line is a command line of it.
func (l leaf) line(flags ...string) []string { return slices.Concat(l.words, flags, l.args) }

// leaves are all commands, the hidden ones too.
func leaves(t *testing.T) (all []leaf) {
	t.Helper()
	parser, err := kong.New(&grammar{}, kong.KindMapper(reflect.String, kong.MapperFunc(verbatim)))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range parser.Model.Leaves(false) {
		l := leaf{Node: n, words: strings.Fields(n.Path())}
		for _, arg := range n.Positional {
			if arg.Required {
				l.args = append(l.args, "1")
			}
		}
		all = append(all, l)
	}
	if len(all) < 25 {
		t.Fatalf("the grammar has %d commands only", len(all))
	}
	return all
}

// refused checks that a command line ends with the exit code of a usage error that names the culprit, before anything is done.
func (w *world) refused(culprit string, args ...string) {
	w.t.Helper()
	code := "2"
	if slices.Contains(args, "wal-fetch") { // to which PostgreSQL listens
		code = "255"
	}
	got := w.pgobj(args...)
	if !strings.HasPrefix(got, "ERROR:  invalid setting: ") || !strings.HasSuffix(got, "\nexit code "+code+"\n") || !strings.Contains(got, culprit) {
		w.t.Errorf("%q: want exit code %s and an error that names %s:\n%s", args, code, culprit, got)
	}
}

// TestEmptyIsNotAbsent: what a script makes of "$PLAN" where PLAN is not set does not mean that there is no such flag.
func TestEmptyIsNotAbsent(t *testing.T) {
	w := newWorld(t)
	w.refused("unexpected argument", "")
	n := 0
	for _, l := range leaves(t) {
		for _, group := range l.AllFlags(false) {
			for _, f := range group {
				if f.Name == "help" {
					continue
				}
				n++
				w.refused("--"+f.Name, l.line("--"+f.Name+"=")...)
				if !f.IsBool() {
					w.refused("--"+f.Name, l.line("--"+f.Name, "")...)
				}
				if f.IsSlice() {
					w.refused("--"+f.Name, l.line("--"+f.Name+"=a=b", "--"+f.Name+"=")...)
				}
			}
		}
		for i, arg := range l.Positional {
			args := make([]string, i+1)
			for j := range args[:i] {
				args[j] = "1"
			}
			w.refused("<"+arg.Name+">", slices.Concat(l.words, args)...)
		}
	}
	if n < 300 {
		t.Errorf("only %d flags were tried", n)
	}
}

// TestEmptyVariables: a variable of ours that is set and empty is refused by every command that has its flag, and so is a
// line of the configuration file. What libpq and AWS make of theirs is their matter.
func TestEmptyVariables(t *testing.T) {
	w := newWorld(t)
	tried := map[string]bool{}
	for _, l := range leaves(t) {
		for _, group := range l.AllFlags(false) {
			for _, f := range group {
				for _, name := range f.Envs {
					tried[name] = true
					t.Run(strings.Join(l.words, " ")+" "+name, func(t *testing.T) {
						t.Setenv(name, "")
						at := *w
						at.t = t
						at.refused(name, l.line()...)
					})
				}
			}
		}
	}
	if len(tried) < 25 {
		t.Errorf("only %d variables were tried", len(tried))
	}
	file := filepath.Join(t.TempDir(), "pgobj.conf")
	for name := range tried {
		if name == "PGOBJ_CONFIG" {
			continue // no file can name it
		}
		w.must(os.WriteFile(file, []byte("\n"+name+"="), 0o600))
		if _, err := config.Load(file, "", settingNames()); err == nil || !strings.Contains(err.Error(), "line 2: "+name+" is empty") {
			t.Errorf("%s= in a configuration file: %v", name, err)
		}
	}
}

// TestHalfEmpty: values in two parts, of which a variable that is not set leaves one.
func TestHalfEmpty(t *testing.T) {
	w := newWorld(t)
	w.story()
	for _, line := range []string{
		"backup-fetch new --link pg_stat=", "backup-fetch new --tablespace fast=", "backup-fetch new --tablespace =/srv", "backup-fetch new --link =/srv",
		"wal-verify --range 000000010000000000000007..", "wal-verify --range ..000000010000000000000007",
		"wal-verify --reason lost --acknowledge 000000020000000000000012..", "wal-verify --reason lost --acknowledge ..000000020000000000000012",
		"backup-push --label =x", "backup-push --compression zstd:", "backup-push --compression :3",
	} {
		args := strings.Fields(line)
		w.refused(args[len(args)-1], args...)
	}
}

func isJSON(f *kong.Flag) bool { return f.Name == "json" }
