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
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/retention/sweep"
	"github.com/pgobj/pgobj/storage"
)

// inner are sentinels that no user ever sees: the package that asks acts on them.
var inner = []string{"cluster.ErrNoSummaries"}

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

func TestExitCodesSuitPostgreSQL(t *testing.T) {
	for _, m := range meanings {
		if m.code < 0 || m.code > 125 {
			t.Errorf("%v has exit code %d", m.err, m.code)
		}
	}
	for code := range 6 { // an error of every kind, as deep as it comes
		err := fmt.Errorf("back up: %w", &storage.Error{Op: "put", Key: "k", Store: "s", Kind: storage.Kind(code)})
		if got := report(&bytes.Buffer{}, err); got < 1 || got > 125 {
			t.Errorf("%v has exit code %d", err, got)
		}
	}
}

func TestReport(t *testing.T) {
	var out bytes.Buffer
	if code := report(&out, nil); code != 0 || out.Len() != 0 {
		t.Errorf("no error: %d %q", code, &out)
	}
	code := report(&out, fmt.Errorf("do it: %w\nfirst detail\n\nsecond detail", errUsage))
	want := "ERROR:  do it: invalid setting\nDETAIL:  first detail\nDETAIL:  second detail\nHINT:  See pgobj --help; every flag has an environment variable.\n"
	if code != exitUsage || out.String() != want {
		t.Errorf("%d %q, want %q", code, out.String(), want)
	}
	out.Reset()
	if code := report(&out, errors.New("what nobody foresaw")); code != exitFailure || out.String() != "ERROR:  what nobody foresaw\n" {
		t.Errorf("%d %q", code, out.String())
	}
}

func TestParseTime(t *testing.T) {
	for text, want := range map[string]string{
		"2026-11-21 14:05:00+01": "2026-11-21T13:05:00Z", "2026-11-21 14:05:00.123456+00": "2026-11-21T14:05:00.123456Z",
		"2026-11-21T14:05:00Z": "2026-11-21T14:05:00Z", "2026-11-21 14:05:00 -03:30": "2026-11-21T17:35:00Z",
		"2026-11-21 14:05:00 UTC": "2026-11-21T14:05:00Z", "2026-11-21 14:05:00-0800": "2026-11-21T22:05:00Z",
	} {
		if got, err := parseTime(text); err != nil || got.UTC().Format("2006-01-02T15:04:05.999999Z") != want {
			t.Errorf("%q is %v, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"yesterday", "2026-11-21", "14:05", "2026-11-21 14:05:00 XYZ", "2026-13-01 00:00:00", "2026-11-21 25:00:00", "1700000000", " "} {
		if got, err := parseTime(text); !errors.Is(err, errUsage) || !strings.Contains(err.Error(), strconv.Quote(text)) {
			t.Errorf("%q is %v, %v, want an error that names it", text, got, err)
		}
	}
}

func TestShellQuote(t *testing.T) {
	for text, want := range map[string]string{"s3://b/p": "s3://b/p", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$(id)": "'$(id)'", "~": "'~'", "a\nb": "'a\nb'"} {
		if got := shellQuote(text); got != want {
			t.Errorf("%q is quoted as %s, want %s", text, got, want)
		}
	}
}

// What is left of a deletion the same command does not finish, whatever stopped it: delete oldest takes one more.
func TestUnfinishedDeletion(t *testing.T) {
	outage := &storage.Error{Op: "delete", Key: "k", Store: "s", Kind: storage.KindTransient}
	left := fmt.Errorf("%w: %w", sweep.ErrUnfinished, outage)
	for want, err := range map[int]error{
		exitInterrupted: fmt.Errorf("%w: %w", errInterrupted, left), exitTimeout: fmt.Errorf("%w\n%w", errTimeout, left), exitStorage: left,
		exitFailure: fmt.Errorf("%w: no space left on device", sweep.ErrUnfinished),
	} {
		var out bytes.Buffer
		if code := report(&out, err); code != want || !strings.Contains(out.String(), "delete garbage --confirm") || strings.Contains(out.String(), "Run the command again") {
			t.Errorf("exit code %d, want %d\n%s", code, want, out.String())
		}
	}
}
