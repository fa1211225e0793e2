package house

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/testenv"
)

const module = "github.com/pgobj/pgobj/"

// arrows: which of our packages each of our packages may import (its tests aside). Two are words that
// everyone may speak: storage (the interface, no driver) and walstore/segment (pure coordinates); a
// package that has to do without them stands in speechless. When a package wants another arrow, the design is
// wrong or this table is: change one of them on purpose. Packages below test may import anything.
var arrows = map[string][]string{
	"cmd/pgobj":   {"cmd/cli"},
	"cmd/instant": {},
	"cmd/cli": {"cmd/instant", "backup", "backup/archiving", "backup/conninfo", "backup/cluster", "backup/drill", "backup/postmaster", "backup/manifest", "backup/part", "backup/readback", "walstore", "walstore/receive", "walstore/spool", "walstore/tail", "walstore/admit", "retention", "retention/sweep", "catalog",
		"storage/connect", "storage/retry", "storage/owned"},

	"retention":         {"catalog"},
	"retention/sweep":   {"retention", "catalog", "backup/part", "walstore"},
	"backup":            {"backup/archiving", "backup/cluster", "backup/manifest", "backup/part", "backup/readback", "backup/replay", "backup/settings", "catalog", "walstore", "walstore/tail"},
	"backup/archiving":  {"backup/cluster", "walstore"},
	"backup/cluster":    {"backup/conninfo"},
	"backup/conninfo":   {},
	"backup/drill":      {"backup", "backup/cluster", "backup/postmaster", "catalog"},
	"backup/manifest":   {"backup/part"},
	"backup/postmaster": {},
	"backup/readback":   {"backup/manifest", "backup/part"},
	"backup/part":       {"storage/frames", "storage/sha256x2"},
	"backup/replay":     {},
	"backup/settings":   {},
	"catalog":           {},

	"walstore":         {"walstore/spool", "storage/frames", "storage/sha256x2", "storage/owned"},
	"walstore/admit":   {"walstore", "walstore/spool", "catalog"},
	"walstore/receive": {"walstore", "backup/cluster"}, // the server's side of replication is where the rest of PostgreSQL is
	"walstore/segment": {},
	"walstore/spool":   {"storage/owned"},
	"walstore/tail":    {},

	"storage":             {},
	"storage/connect":     {"storage/s3", "storage/minio", "storage/file", "storage/mem", "storage/s3store", "storage/retry", "storage/limit"},
	"storage/s3":          {"storage/s3store"},
	"storage/minio":       {"storage/s3store"},
	"storage/s3store":     {},
	"storage/file":        {},
	"storage/mem":         {},
	"storage/retry":       {},
	"storage/limit":       {},
	"storage/frames":      {},
	"storage/owned":       {},
	"storage/sha256x2":    {},
	"storage/storagetest": {},
}

var words = []string{"storage", "walstore/segment"}

// speechless packages may not even import one or both of the words.
var speechless = map[string][]string{
	"storage":             {"storage", "walstore/segment"},
	"walstore/segment":    {"storage", "walstore/segment"},
	"backup/cluster":      {"storage"},
	"backup/conninfo":     {"storage", "walstore/segment"},
	"backup/drill":        {"storage"},
	"backup/postmaster":   {"storage", "walstore/segment"},
	"retention":           {"storage"},
	"cmd/pgobj":           {"storage", "walstore/segment"},
	"cmd/instant":         {"storage", "walstore/segment"},
	"backup/part":         {"walstore/segment"},
	"backup/readback":     {"storage", "walstore/segment"},
	"backup/settings":     {"storage", "walstore/segment"},
	"walstore/spool":      {"storage"},
	"walstore/tail":       {"storage"},
	"walstore/admit":      {"walstore/segment"},
	"storage/s3":          {"walstore/segment"},
	"storage/minio":       {"walstore/segment"},
	"storage/s3store":     {"walstore/segment"},
	"storage/file":        {"walstore/segment"},
	"storage/mem":         {"walstore/segment"},
	"storage/retry":       {"walstore/segment"},
	"storage/limit":       {"walstore/segment"},
	"storage/connect":     {"walstore/segment"},
	"storage/storagetest": {"walstore/segment"},

	"storage/frames":   {"storage", "walstore/segment"},
	"storage/owned":    {"storage", "walstore/segment"},
	"storage/sha256x2": {"storage", "walstore/segment"},
}

// libraries: the one room (or few) that each large library is let into, so that it can be replaced there.
var libraries = map[string][]string{
	"github.com/alecthomas/kong":     {"cmd/cli"},
	"github.com/jackc/pgx/":          {"backup/cluster", "backup/conninfo"},
	"github.com/aws/":                {"storage/s3", "storage/minio", "storage/s3store", "storage/connect"},
	"github.com/minio/minio-go/":     {"storage/minio"},
	"github.com/klauspost/compress/": {"storage/frames", "backup/part", "backup/manifest", "walstore"},
	"github.com/pierrec/lz4/":        {"backup/part"},
	"golang.org/x/term":              {"cmd/cli"},
	"net/http":                       {"storage/s3", "storage/minio", "storage/s3store", "storage/connect"},
	"log":                            {},
}

// calls: functions that only some rooms may use. Configuration is a value passed in, and only main ends
// the process.
var calls = map[string][]string{
	"os.Getenv":    {"cmd/cli", "backup/conninfo"}, // libpq's variables, of which pgconn reads the most by itself
	"os.LookupEnv": {"cmd/cli"},
	"os.Environ":   {"cmd/cli"},
	"os.ExpandEnv": {"cmd/cli"},
	"os.Exit":      {"cmd/pgobj"},
	"os.Args":      {"cmd/pgobj"},
}

// longFiles may have more than maxLines lines, each for a reason that is said here.
var longFiles = map[string]string{}

const maxLines = 500

func TestArrows(t *testing.T) {
	for _, p := range ours(t) {
		name := short(p.ImportPath)
		if inTest(name) {
			continue
		}
		allowed, known := arrows[name]
		if !known {
			t.Errorf("%s is a package that nobody has planned: give it a line in arrows (test/arrows_test.go)", name)
			continue
		}
		for _, imp := range p.Imports {
			if target, own := strings.CutPrefix(imp, module); own {
				word := slices.Contains(words, target) && !slices.Contains(speechless[name], target)
				if !word && !slices.Contains(allowed, target) {
					t.Errorf("%s imports %s, which is no arrow of ours", name, target)
				}
			}
			for library, rooms := range libraries {
				hit := imp == library || strings.HasSuffix(library, "/") && strings.HasPrefix(imp, library)
				if hit && !slices.Contains(rooms, name) {
					t.Errorf("%s imports %s, which is for %v only", name, imp, rooms)
				}
			}
		}
	}
}

// Packages that are pure by contract reach nothing but the standard library, however far one looks.
func TestPurePackagesReachOnlyTheStandardLibrary(t *testing.T) {
	all := list(t, "-deps")
	for _, name := range []string{"storage", "walstore/segment"} {
		p, ok := all[module+name]
		if !ok {
			t.Errorf("%s is not there", name)
		}
		for _, dep := range p.Deps {
			if d, ok := all[dep]; !ok || !d.Standard {
				t.Errorf("%s reaches %s", name, dep)
			}
		}
	}
}

func TestHouseRules(t *testing.T) {
	root, err := testenv.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	seen := 0
	err = filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && file != root {
			return fs.SkipDir
		}
		if d.IsDir() || path.Ext(file) != ".go" {
			return nil
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		seen++
		fset := token.NewFileSet()
		parsed, err := parser.ParseFile(fset, file, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if strings.HasSuffix(rel, "_test.go") {
			return nil // tests are lists of cases, and may be long
		}
		if lines := fset.File(parsed.FileStart).LineCount(); lines > maxLines && longFiles[rel] == "" {
			t.Errorf("%s has %d lines: it hides a second thing (or has its reason in longFiles)", rel, lines)
		}
		dir := path.Dir(rel)
		documented[dir] = documented[dir] || parsed.Doc != nil
		if !inTest(dir) {
			checkCalls(t, fset, parsed, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range slices.Sorted(maps.Keys(documented)) {
		if !documented[dir] {
			t.Errorf("%s has no package comment that says what it owns and what it refuses", dir)
		}
	}
	if seen == 0 {
		t.Error("found no Go file to look at")
	}
}

func checkCalls(t *testing.T, fset *token.FileSet, f *ast.File, rel string) {
	for _, decl := range f.Decls {
		if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
			t.Errorf("%s does work in init", rel)
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		pkg, ok := sel.X.(*ast.Ident)
		if !ok {
			return true
		}
		name := pkg.Name + "." + sel.Sel.Name
		if rooms, limited := calls[name]; limited && !slices.Contains(rooms, path.Dir(rel)) {
			t.Errorf("%s:%d uses %s, which is for %v only", rel, fset.Position(n.Pos()).Line, name, rooms)
		}
		return true
	})
}

type listed struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
}

// ours are the packages of this module, sorted.
func ours(t *testing.T) []listed {
	t.Helper()
	all := list(t)
	var own []listed
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if strings.HasPrefix(name, module) {
			own = append(own, all[name])
		}
	}
	if len(own) == 0 {
		t.Fatal("go list shows no package of ours")
	}
	return own
}

func list(t *testing.T, flags ...string) map[string]listed {
	t.Helper()
	root, err := testenv.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", append(append([]string{"list", "-json=ImportPath,Standard,Imports,Deps"}, flags...), "./...")...)
	cmd.Dir = root
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	all := map[string]listed{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("read what go list says: %v", err)
		}
		all[p.ImportPath] = p
	}
}

func short(importPath string) string { return strings.TrimPrefix(importPath, module) }

func inTest(name string) bool { return name == "test" || strings.HasPrefix(name, "test/") }
