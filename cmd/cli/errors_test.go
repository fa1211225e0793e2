package cli

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/retention/sweep"
	"github.com/pgobj/pgobj/storage"
)

// inner are sentinels that no user ever sees: the package that asks acts on them.
var inner = []string{"datadir.ErrNoSummaries", "object.ErrEnough"}

// TestEverySentinelHasAMeaning: an error that libraries tell apart, the user is told apart, too.
func TestEverySentinelHasAMeaning(t *testing.T) {
	declared := sentinels(t, "../..")
	if len(declared) < 20 {
		t.Fatalf("found only %v: does this test look in the right place?", declared)
	}
	known := inTable(t)
	for _, name := range declared {
		if !slices.Contains(known, name) && !slices.Contains(inner, name) {
			t.Errorf("%s has no entry in meanings, with an exit code and a hint", name)
		}
	}
	for _, name := range inner {
		if !slices.Contains(declared, name) || slices.Contains(known, name) {
			t.Errorf("%s is called an inner matter: it is not, or not any more", name)
		}
	}
}

// sentinels lists the exported errors of all packages below root, as PACKAGE.NAME.
func sentinels(t *testing.T, root string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "test" || d.Name() == "storagetest" || strings.HasPrefix(d.Name(), ".") && d.Name() != "..") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			v, ok := n.(*ast.ValueSpec)
			for i := 0; ok && i < len(v.Values); i++ {
				if call, ok := v.Values[i].(*ast.CallExpr); ok && selector(call.Fun) == "errors.New" && v.Names[i].IsExported() {
					names = append(names, f.Name.Name+"."+v.Names[i].Name)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// inTable lists the errors that the sources of meanings name.
func inTable(t *testing.T) (names []string) {
	t.Helper()
	for _, file := range []string{"errors.go", "causes.go"} {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			v, ok := n.(*ast.ValueSpec)
			if !ok || !slices.Contains([]string{"endings", "causes", "kinds"}, v.Names[0].Name) {
				return true
			}
			for _, entry := range v.Values[0].(*ast.CompositeLit).Elts {
				names = append(names, selector(entry.(*ast.CompositeLit).Elts[0]))
			}
			return false
		})
	}
	if len(names) != len(meanings) {
		t.Fatalf("the sources of meanings have %d entries, the table %d", len(names), len(meanings))
	}
	return names
}

func selector(e ast.Expr) string {
	if s, ok := e.(*ast.SelectorExpr); ok {
		if x, ok := s.X.(*ast.Ident); ok {
			return x.Name + "." + s.Sel.Name
		}
	}
	return ""
}

// TestKinds: a script that knows a kind knows one entry of the table.
func TestKinds(t *testing.T) {
	seen := map[string]error{otherKind: nil}
	for _, m := range meanings {
		if !regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`).MatchString(m.kind) {
			t.Errorf("%v has the kind %q: want short words in lower case, with hyphens", m.err, m.kind)
		}
		if other, twice := seen[m.kind]; twice {
			t.Errorf("%v and %v have the kind %s", m.err, other, m.kind)
		}
		seen[m.kind] = m.err
	}
}

func TestExitCodesSuitPostgreSQL(t *testing.T) {
	for _, m := range meanings {
		if m.code < 0 || m.code > 125 {
			t.Errorf("%v has exit code %d", m.err, m.code)
		}
	}
	for code := range 6 { // an error of every kind, as deep as it comes
		err := fmt.Errorf("back up: %w", &storage.Error{Op: "put", Key: "k", Store: "s", Kind: storage.Kind(code)})
		if got := report(&bytes.Buffer{}, "text", err); got < 1 || got > 125 {
			t.Errorf("%v has exit code %d", err, got)
		}
	}
}

func TestReport(t *testing.T) {
	var out bytes.Buffer
	if code := report(&out, "text", nil); code != 0 || out.Len() != 0 {
		t.Errorf("no error: %d %q", code, &out)
	}
	code := report(&out, "text", fmt.Errorf("do it: %w\nfirst detail\n\nsecond detail", app.ErrUsage))
	want := "ERROR:  do it: invalid setting\nDETAIL:  first detail\nDETAIL:  second detail\nHINT:  See pgobj --help, and --help of the command. The help names the environment variables, too.\n"
	if code != app.ExitUsage || out.String() != want {
		t.Errorf("%d %q, want %q", code, out.String(), want)
	}
	out.Reset()
	if code := report(&out, "text", errors.New("what nobody foresaw")); code != app.ExitFailure || out.String() != "ERROR:  what nobody foresaw\n" {
		t.Errorf("%d %q", code, out.String())
	}
}

// TestTimes: every place that takes a time refuses one that is not one point in time, as it does what is none.
func TestTimes(t *testing.T) {
	w := newWorld(t)
	w.story()
	berlin, err := time.LoadLocation("Europe/Berlin")
	w.must(err)
	for _, c := range []struct {
		zone       *time.Location
		tz         string
		text, says string
	}{
		{berlin, "Europe/Berlin", "2026-10-25 02:30", "'2026-10-25 02:30:00+02:00', the second '2026-10-25 02:30:00+01:00'"},
		{berlin, "Europe/Berlin", "2026-03-29 02:30", "never show"},
		{time.UTC, "<+01>-1", "2026-11-16 02:30", `("<+01>-1", from the variable TZ`},
		{time.UTC, "Europe/Berlni", "2026-11-16", `("Europe/Berlni", from the variable TZ`},
	} {
		local := time.Local
		time.Local = c.zone
		t.Setenv("TZ", c.tz)
		for _, args := range [][]string{
			{"delete", "before", c.text}, {"backup-mark", "latest", "--pin", "--until", c.text}, {"catalog-log", "--since", c.text},
			{"backup-fetch", "new", "--target-time", c.text}, {"drill", "--target-time", c.text},
		} {
			w.refused(c.says, args...)
		}
		time.Local = local
	}
	for _, args := range [][]string{{"backup-mark", "latest", "--pin", "--until", "tomorrow"}, {"catalog-log", "--since", "tomorrow"}, {"backup-fetch", "new", "--target-time", "tomorrow"}} {
		w.refused("tomorrow", args...)
	}
	t.Setenv("TZ", "")
	for _, text := range []string{"2026-11-16", "2026-11-16 05:00"} {
		if got := w.pgobj("delete", "before", text); !strings.Contains(got, "20261116T090000Z-0003") || strings.Contains(got, "exit code") {
			t.Errorf("%s: %s", text, got)
		}
	}
}

func TestShellQuote(t *testing.T) {
	for text, want := range map[string]string{"s3://b/p": "s3://b/p", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$(id)": "'$(id)'", "~": "'~'", "a\nb": "'a\nb'"} {
		if got := show.ShellQuote(text); got != want {
			t.Errorf("%q is quoted as %s, want %s", text, got, want)
		}
	}
}

// What is left of a deletion the same command does not finish, whatever stopped it: delete oldest takes one more.
func TestUnfinishedDeletion(t *testing.T) {
	outage := &storage.Error{Op: "delete", Key: "k", Store: "s", Kind: storage.KindTransient}
	left := fmt.Errorf("%w: %w", sweep.ErrUnfinished, outage)
	for want, err := range map[int]error{
		app.ExitInterrupted: fmt.Errorf("%w: %w", app.ErrInterrupted, left), app.ExitTimeout: fmt.Errorf("%w\n%w", app.ErrTimeout, left), app.ExitStorage: left,
		app.ExitFailure: fmt.Errorf("%w: no space left on device", sweep.ErrUnfinished),
	} {
		var out bytes.Buffer
		if code := report(&out, "text", err); code != want || !strings.Contains(out.String(), "delete garbage --confirm") || strings.Contains(out.String(), "Run the command again") {
			t.Errorf("exit code %d, want %d\n%s", code, want, out.String())
		}
	}
}
