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
	"os"
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
	"cmd/pgobj":   {"cmd/cli", "cmd/cli/app"},
	"cmd/instant": {},
	"cmd/cli": {"backup", "backup/archiving", "backup/conninfo", "backup/content", "backup/datadir", "backup/drill", "backup/manifest", "backup/outcome",
		"backup/part", "backup/readback", "backup/recovery", "backup/server", "catalog", "cmd/cli/app", "cmd/cli/backups", "cmd/cli/config", "cmd/cli/lists", "cmd/cli/show",
		"cmd/cli/wal", "cmd/cli/watch", "cmd/instant", "retention", "retention/sweep", "storage/owned", "storage/retry", "walstore", "walstore/admit", "walstore/object",
		"walstore/receive", "storage/codec"},
	"cmd/cli/app": {"backup", "backup/restore", "catalog", "cmd/cli/config", "cmd/cli/show", "cmd/instant", "storage/connect", "storage/retry",
		"walstore", "walstore/admit", "walstore/ahead", "walstore/object", "walstore/spool", "walstore/survey"},
	"cmd/cli/config": {"catalog", "cmd/cli/show", "storage/owned"},
	"cmd/cli/show":   {"backup"},
	"cmd/cli/wal": {"backup/datadir", "backup/server", "cmd/cli/app", "cmd/cli/show", "storage/retry", "walstore", "walstore/ahead", "walstore/object",
		"walstore/patience", "walstore/receive", "walstore/tail", "walstore/admit"},
	"cmd/cli/backups": {"backup", "backup/content", "backup/datadir", "backup/drill", "backup/manifest", "backup/outcome", "backup/part", "backup/push", "backup/recovery",
		"backup/restore", "backup/server", "backup/target", "backup/verify", "catalog", "cmd/cli/app", "cmd/cli/config", "cmd/cli/show", "storage/connect", "storage/retry", "storage/codec"},
	"cmd/cli/lists": {"backup/part", "backup/rebuild", "backup/recovery", "catalog", "cmd/cli/app", "cmd/cli/show", "cmd/instant", "retention", "retention/sweep",
		"storage/retry", "walstore", "walstore/object"},
	"cmd/cli/watch": {"catalog", "cmd/cli/app", "cmd/cli/show", "walstore", "walstore/object", "walstore/survey"},

	"retention":       {"catalog", "walstore/timeline"},
	"retention/sweep": {"retention", "catalog", "backup/part", "walstore", "walstore/object", "walstore/timeline"},

	"backup":           {}, // what all stages share: progress and errors
	"backup/part":      {"storage/codec"},
	"backup/manifest":  {"backup/part"},
	"backup/conninfo":  {},
	"backup/datadir":   {},
	"backup/replay":    {},
	"backup/readback":  {"backup/manifest", "backup/part"},
	"backup/server":    {"backup/conninfo", "backup/datadir", "catalog", "walstore/timeline"},
	"backup/archiving": {"backup/server", "walstore/object"},
	"backup/content":   {"backup", "backup/datadir", "backup/manifest", "backup/part", "catalog", "storage/codec"},
	"backup/pack":      {"backup", "backup/content", "backup/datadir", "backup/manifest", "backup/part", "backup/readback", "catalog", "storage/codec"},
	"backup/recovery":  {"backup", "catalog", "walstore", "walstore/object", "walstore/partial", "walstore/patience", "walstore/timeline"},
	"backup/push": {"backup", "backup/archiving", "backup/content", "backup/datadir", "backup/manifest", "backup/pack", "backup/part", "backup/readback", "backup/recovery", "backup/replay",
		"backup/server", "backup/settings", "catalog", "walstore", "walstore/object", "walstore/timeline", "storage/codec"},
	"backup/target":   {"backup", "backup/content", "backup/datadir", "backup/manifest", "backup/part", "catalog"},
	"backup/unpack":   {"backup", "backup/content", "backup/manifest", "backup/part", "backup/target"},
	"backup/settings": {"backup/datadir", "backup/recovery", "catalog"},
	"backup/outcome":  {"backup", "backup/datadir", "backup/recovery", "backup/server", "backup/settings", "backup/target", "catalog", "walstore/survey", "walstore/timeline"},
	"backup/restore": {"backup", "backup/content", "backup/datadir", "backup/manifest", "backup/outcome", "backup/recovery", "backup/settings", "backup/target", "backup/unpack",
		"catalog", "walstore", "walstore/object", "walstore/partial", "walstore/survey", "walstore/tail", "walstore/timeline"},
	"backup/verify":  {"backup", "backup/content", "backup/manifest", "backup/part", "backup/recovery", "backup/unpack", "catalog", "walstore", "walstore/object"},
	"backup/rebuild": {"backup/content", "backup/datadir", "backup/manifest", "backup/pack", "backup/part", "catalog", "walstore", "walstore/object"},
	"backup/drill":   {"backup/datadir", "backup/outcome", "backup/recovery", "backup/restore", "backup/server", "backup/target", "catalog"},
	"catalog":        {},

	"walstore/segment":  {},
	"walstore/timeline": {},
	"walstore/object":   {"storage/codec"},
	"walstore/partial":  {"walstore/object"},
	"walstore":          {"storage/codec", "storage/owned", "walstore/object", "walstore/partial", "walstore/patience", "walstore/timeline"},
	"walstore/survey":   {"walstore", "walstore/object", "walstore/partial", "walstore/timeline"},
	"walstore/admit":    {"walstore", "walstore/spool", "catalog"},
	"walstore/ahead":    {"backup/datadir", "storage/owned", "storage/retry", "walstore", "walstore/object", "walstore/patience", "walstore/spool"},
	"walstore/patience": {},                                                                                                           // how long who waits for what
	"walstore/receive":  {"backup/server", "walstore", "walstore/object", "walstore/partial", "walstore/survey", "walstore/timeline"}, // the server's side of replication is where the rest of PostgreSQL is
	"walstore/spool":    {"storage/owned"},
	"walstore/tail":     {},

	"storage":             {},
	"storage/connect":     {"storage/s3", "storage/minio", "storage/file", "storage/s3store", "storage/retry"},
	"storage/s3":          {"storage/s3store"},
	"storage/minio":       {"storage/s3store"},
	"storage/s3store":     {},
	"storage/file":        {},
	"storage/mem":         {},
	"storage/retry":       {},
	"storage/owned":       {},
	"storage/codec":       {},
	"storage/storagetest": {},
}

var words = []string{"storage", "walstore/segment"}

// speechless packages may not even import one or both of the words.
var speechless = map[string][]string{
	"cmd/cli/show":        {"storage", "walstore/segment"},
	"cmd/cli/backups":     {"storage"},
	"cmd/instant":         {"storage", "walstore/segment"},
	"cmd/pgobj":           {"storage", "walstore/segment"},
	"retention":           {"storage"},
	"backup":              {"storage"},
	"backup/part":         {"walstore/segment"},
	"backup/manifest":     {"storage", "walstore/segment"},
	"backup/conninfo":     {"storage", "walstore/segment"},
	"backup/readback":     {"storage", "walstore/segment"},
	"backup/replay":       {"storage"},
	"backup/datadir":      {"storage"},
	"backup/server":       {"storage"},
	"backup/settings":     {"storage"},
	"backup/drill":        {"storage"},
	"backup/content":      {"walstore/segment"},
	"backup/target":       {"storage", "walstore/segment"},
	"backup/unpack":       {"walstore/segment"},
	"walstore/segment":    {"storage", "walstore/segment"},
	"walstore/admit":      {"walstore/segment"},
	"walstore/patience":   {"storage", "walstore/segment"},
	"walstore/spool":      {"storage", "walstore/segment"},
	"walstore/tail":       {"storage"},
	"walstore/timeline":   {"storage"},
	"storage":             {"storage", "walstore/segment"},
	"storage/s3":          {"walstore/segment"},
	"storage/minio":       {"walstore/segment"},
	"storage/s3store":     {"walstore/segment"},
	"storage/file":        {"walstore/segment"},
	"storage/mem":         {"walstore/segment"},
	"storage/retry":       {"walstore/segment"},
	"storage/connect":     {"walstore/segment"},
	"storage/storagetest": {"walstore/segment"},
	"storage/owned":       {"storage", "walstore/segment"},
	"storage/codec":       {"storage", "walstore/segment"},
}

// libraries: the one room (or few) that each large library is let into, so that it can be replaced there.
var libraries = map[string][]string{
	"github.com/alecthomas/kong":     {"cmd/cli"},
	"github.com/jackc/pgx/":          {"backup/server", "backup/conninfo"},
	"github.com/aws/":                {"storage/s3", "storage/minio", "storage/s3store", "storage/connect"},
	"github.com/minio/minio-go/":     {"storage/minio"},
	"github.com/klauspost/compress/": {"storage/codec", "backup/manifest", "walstore/object"},
	"github.com/pierrec/lz4/":        {"storage/codec"},
	"golang.org/x/term":              {"cmd/cli/app"},
	"net/http":                       {"storage/s3", "storage/s3store"},
	"log":                            {},
}

// calls: functions that only some rooms may use. Configuration is a value passed in, and only main ends
// the process.
var calls = map[string][]string{
	"os.Getenv":    {"cmd/cli", "cmd/cli/app", "cmd/cli/backups", "cmd/cli/wal", "backup/conninfo"}, // libpq's variables, of which pgconn reads the most by itself
	"os.LookupEnv": {"cmd/cli", "cmd/cli/app"},
	"os.Environ":   {"cmd/cli", "cmd/cli/backups"},
	"os.ExpandEnv": {},
	"os.Exit":      {"cmd/pgobj"},
	"os.Args":      {"cmd/pgobj"},
}

// longFiles may have more than maxLines lines, each for a reason that is said here.
var longFiles = map[string]string{}

const maxLines = 500

func TestArrows(t *testing.T) {
	rooms, used := map[string]bool{}, map[string]bool{}
	for _, p := range ours(t) {
		name := short(p.ImportPath)
		rooms[name] = true
		if inTest(name) {
			continue
		}
		allowed, known := arrows[name]
		if !known {
			t.Errorf("%s is a package that nobody has planned: give it a line in arrows (test/house/arrows_test.go)", name)
			continue
		}
		for _, target := range allowed {
			if !slices.Contains(p.Imports, module+target) {
				t.Errorf("arrows is stale: %s does not import %s any more", name, target)
			}
		}
		for _, imp := range p.Imports {
			if target, own := strings.CutPrefix(imp, module); own {
				word := slices.Contains(words, target) && !slices.Contains(speechless[name], target)
				if !word && !slices.Contains(allowed, target) {
					t.Errorf("%s imports %s, which is no arrow of ours", name, target)
				}
			}
			for library, doors := range libraries {
				hit := imp == library || strings.HasSuffix(library, "/") && strings.HasPrefix(imp, library)
				if hit && !slices.Contains(doors, name) {
					t.Errorf("%s imports %s, which is for %v only", name, imp, doors)
				}
				if hit {
					used[library+" "+name] = true
				}
			}
		}
	}
	for _, table := range []map[string][]string{arrows, speechless} {
		for name := range table {
			if !rooms[name] {
				t.Errorf("a table is stale: there is no package %s", name)
			}
		}
	}
	for library, doors := range libraries {
		for _, door := range doors {
			if !used[library+" "+door] {
				t.Errorf("libraries is stale: %s does not import %s any more", door, library)
			}
		}
	}
}

// mostLines is what a package may have without its tests: beyond, it hides rooms. The root of backup is only what its rooms share.
const mostLines, mostRoot = 3000, 300

// largeRooms may have more, each for a reason that is said here.
var largeRooms = map[string]string{"test/site": "it is what the tests of all areas share"}

func TestRoomsAreSmall(t *testing.T) {
	root, err := testenv.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ours(t) {
		lines, name := 0, short(p.ImportPath)
		for _, file := range p.GoFiles {
			data, err := os.ReadFile(filepath.Join(root, name, file))
			if err != nil {
				t.Fatal(err)
			}
			lines += strings.Count(string(data), "\n")
		}
		if most := map[bool]int{true: mostRoot, false: mostLines}[name == "backup"]; lines > most && largeRooms[name] == "" {
			t.Errorf("%s has %d lines, more than %d: which rooms hide in it?", name, lines, most)
		}
	}
}

// Packages that are pure by contract reach nothing but the standard library and each other, however far one looks.
func TestPurePackagesReachOnlyTheStandardLibrary(t *testing.T) {
	all := list(t, "-deps")
	pure := []string{"storage", "walstore/segment", "walstore/timeline"}
	for _, name := range pure {
		p, ok := all[module+name]
		if !ok {
			t.Errorf("%s is not there", name)
		}
		for _, dep := range p.Deps {
			if d, ok := all[dep]; !ok || !d.Standard && !slices.Contains(pure, short(dep)) {
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
	GoFiles    []string
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
	cmd := exec.CommandContext(t.Context(), "go", append(append([]string{"list", "-json=ImportPath,Standard,Imports,Deps,GoFiles"}, flags...), "./...")...)
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
