package house

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/testenv"
)

var update = flag.Bool("update", false, "write the golden file again")

// TestMessages: testdata/messages.golden has every text that the program can say to a person, package by package, in the order of the
// source, so that a reviewer reads all of them from top to bottom. Run with -update, and read the difference aloud: a subject, a verb, an
// object; what happened, to what, what to do next.
func TestMessages(t *testing.T) {
	root, err := testenv.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, dir := range slices.Sorted(maps.Keys(arrows)) {
		if dir == "storage/storagetest" { // a test speaks to those who write drivers
			continue
		}
		b.WriteString(textsOf(t, root, dir))
	}
	const file = "testdata/messages.golden"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	there, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if want, got := string(there), b.String(); want != got {
		t.Errorf("%s is not what the source says: run the test with -update, and read the difference\n%s", file, firstDifference(want, got))
	}
}

func firstDifference(want, got string) string {
	old, now := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(old), len(now)) {
		if old[i] != now[i] {
			return fmt.Sprintf("line %d was %q, is %q", i+1, old[i], now[i])
		}
	}
	return fmt.Sprintf("it had %d lines, there are %d", len(old), len(now))
}

// textsOf is the part of the golden file for one package; empty if it says nothing.
func textsOf(t *testing.T, root, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		fset := token.NewFileSet()
		parsed, err := parser.ParseFile(fset, file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		c := textCollector{fset: fset}
		ast.Walk(&c, parsed)
		if len(c.texts) > 0 {
			fmt.Fprintf(&b, "\n## %s\n\n%s\n", path.Join(dir, filepath.Base(file)), strings.Join(c.texts, "\n"))
		}
	}
	return b.String()
}

// textCollector gathers the string expressions of a file that have two words or more: a single word has no grammar, and the
// tables that print them have golden files of their own.
type textCollector struct {
	fset  *token.FileSet
	texts []string
}

func (c *textCollector) Visit(n ast.Node) ast.Visitor {
	switch n := n.(type) {
	case *ast.ImportSpec:
		return nil
	case *ast.Field:
		c.help(n.Tag)
		ast.Walk(c, n.Type)
		return nil
	case *ast.CallExpr:
		if notSaid.MatchString(c.source(n.Fun)) {
			return nil
		}
	case *ast.CompositeLit:
		if name, text := c.entry(n); text != "" {
			c.add(name + ": " + text)
			return nil
		}
	case *ast.ValueSpec:
		if len(n.Values) == 1 && strings.HasPrefix(strings.ToLower(n.Names[0].Name), "err") {
			if call, ok := n.Values[0].(*ast.CallExpr); ok && len(call.Args) == 1 {
				c.add(n.Names[0].Name + ": " + c.text(call.Args[0]))
				return nil
			}
		}
	case *ast.BinaryExpr, *ast.BasicLit:
		if text := c.text(n.(ast.Expr)); text != "" {
			if twoWords.MatchString(text) && !sql.MatchString(text) {
				c.add(text)
			}
			return nil
		}
	}
	return c
}

// notSaid are functions whose texts nobody reads: what is searched for, and what only a fault of the program shows.
var notSaid = regexp.MustCompile(`^(regexp\.\w+|strings\.(Contains|HasPrefix|HasSuffix|Cut|CutPrefix|CutSuffix|Index|TrimPrefix|TrimSuffix|NewReplacer)|panic)$`)

var (
	twoWords = regexp.MustCompile(`(\pL{2}|%[a-z]|[})])[^\pL\n]*[ \n][^\pL\n]*\pL{2}|\pL{2}[^\pL\n]*[ \n][^\pL\n]*(\pL{2}|%[a-z]|\{)`)
	sql      = regexp.MustCompile(`^\s*(SELECT|SHOW|SET|WITH|BEGIN|CREATE|DROP|ALTER|EXPLAIN|START_REPLICATION|CREATE_REPLICATION_SLOT|READ_REPLICATION_SLOT|TIMELINE_HISTORY)\b[^.]*( |$)`)
)

// entry is a line of a table that begins with an error and ends with a text, as the table of hints does.
func (c *textCollector) entry(n *ast.CompositeLit) (name, text string) {
	if len(n.Elts) < 2 {
		return "", ""
	}
	name = c.source(n.Elts[0])
	if !sentinel.MatchString(name) {
		return "", ""
	}
	return name, c.text(n.Elts[len(n.Elts)-1])
}

var sentinel = regexp.MustCompile(`^(\w+\.)?[eE]rr[A-Z]\w*$`)

// text is what a string expression says; what is not constant in it stands in braces. Empty: it is none.
func (c *textCollector) text(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.ParenExpr:
		return c.text(e.X)
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			text, _ := strconv.Unquote(e.Value) // the parser has accepted it
			return text
		}
	case *ast.BinaryExpr:
		x, y := c.text(e.X), c.text(e.Y)
		if e.Op != token.ADD || x == "" && y == "" {
			return ""
		}
		return c.orSource(x, e.X) + c.orSource(y, e.Y)
	}
	return ""
}

func (c *textCollector) orSource(text string, e ast.Expr) string {
	if text != "" {
		return text
	}
	if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
		return ""
	}
	return "{" + strings.Join(strings.Fields(c.source(e)), " ") + "}"
}

func (c *textCollector) source(n ast.Node) string {
	var b bytes.Buffer
	_ = printer.Fprint(&b, c.fset, n) // a buffer takes everything
	return b.String()
}

// help adds what a flag's or a command's tag says in --help.
func (c *textCollector) help(tag *ast.BasicLit) {
	if tag == nil {
		return
	}
	text, _ := strconv.Unquote(tag.Value) // the parser has accepted it
	if help := reflect.StructTag(text).Get("help"); help != "" {
		c.add("help: " + help)
	}
}

func (c *textCollector) add(text string) {
	c.texts = append(c.texts, strings.ReplaceAll(strings.Trim(text, "\n"), "\n", "\n  | "))
}
