package cli

import (
	"cmp"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/config"
)

// TestReference: docs/configuration.md and docs/exit-codes.md are what the code says (-update writes them).
func TestReference(t *testing.T) {
	for file, text := range map[string]string{"configuration.md": configuration(t), "exit-codes.md": exitCodes(t)} {
		path := filepath.Join("../../docs", file)
		if *update {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if there, err := os.ReadFile(path); err != nil || string(there) != text {
			t.Errorf("docs/%s is not what the code says (%v): run the test with -update, and read the difference", file, err)
		}
	}
}

func configuration(t *testing.T) string {
	k, err := kong.New(&grammar{}, kong.Name("pgobj"), kong.Vars{"version": ""})
	if err != nil {
		t.Fatal(err)
	}
	prose, err := os.ReadFile("testdata/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString(`# Configuration reference

Made from the code; a test holds them equal.

` + string(prose) + `
## For every command

`)
	flags(&b, k.Model.Flags)
	commands := slices.Clone(k.Model.Leaves(true))
	slices.SortFunc(commands, func(a, b *kong.Node) int { return cmp.Compare(a.Path(), b.Path()) })
	for _, c := range commands {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n", c.Path(), c.Help)
		if len(c.Positional) > 0 || len(c.Flags) > 0 {
			b.WriteString("\n")
		}
		for _, p := range c.Positional {
			fmt.Fprintf(&b, "- `%s`: %s\n", p.Summary(), p.Help)
		}
		if len(c.Positional) > 0 && len(c.Flags) > 0 {
			b.WriteString("\n")
		}
		flags(&b, c.Flags)
	}
	return b.String()
}

func flags(b *strings.Builder, all []*kong.Flag) {
	first := true
	for _, f := range all {
		if f.Hidden {
			continue
		}
		if first {
			b.WriteString("| flag | variable | in a file | default | meaning |\n| --- | --- | --- | --- | --- |\n")
			first = false
		}
		cell := func(s string) string {
			if s = strings.ReplaceAll(s, "|", "\\|"); s == "" {
				return ""
			}
			return "`" + s + "`"
		}
		inFile := ""
		if len(f.Envs) > 0 && f.Name != "config" {
			inFile = config.Name(f.Envs[0])
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s |\n", cell("--"+f.Name), cell(strings.Join(f.Envs, ", ")), cell(inFile), cell(f.Default), strings.ReplaceAll(f.Help, "|", "\\|"))
	}
}

func exitCodes(t *testing.T) string {
	file, err := parser.ParseFile(token.NewFileSet(), "app/errors.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString(`# Exit codes

Made from the code; a test holds them equal. 0: it is done. ` + "`wal-fetch`" + ` answers PostgreSQL, and has rules of its own: 1 only when it is
proven that the file does not exist, above 125 to stop a recovery.

| code | meaning |
| --- | --- |
`)
	n, codes := 0, []int{}
	for _, d := range file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, s := range g.Specs {
			v := s.(*ast.ValueSpec)
			if !strings.HasPrefix(v.Names[0].Name, "Exit") {
				continue
			}
			if v.Comment == nil {
				t.Fatalf("%s has no comment that says what it means", v.Names[0].Name)
			}
			fmt.Fprintf(&b, "| %s | %s |\n", v.Values[0].(*ast.BasicLit).Value, strings.TrimSpace(v.Comment.Text()))
			code, err := strconv.Atoi(v.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			codes = append(codes, code)
			n++
		}
	}
	if n == 0 {
		t.Fatal("errors.go has no exit codes")
	}
	b.WriteString(`
A command for several servers (` + "`--server all`, `--server a,b`" + `) ends with the worst of the servers' codes; 0 only when each has 0. The worst comes first:
` + ranked(t, codes) + `. Stored data that is damaged comes before what a person has to set right, and that before what may pass by itself. A
process that crashed counts as 1.
`)
	errorKinds(&b)
	return b.String()
}

// ranked are all exit codes from the worst on.
func ranked(t *testing.T, codes []int) string {
	for _, code := range codes {
		if app.Worst([]int{0, code}) != code {
			t.Errorf("of exit code %d it is not known how bad it is: add it to worst", code)
		}
	}
	slices.SortFunc(codes, func(a, b int) int {
		if app.Worst([]int{a, b}) == a {
			return -1
		}
		return 1
	})
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(codes), " ", ", "), "[]")
}

// TestSampleConfiguration: the files that README and docs/configuration.md show are right.
func TestSampleConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pgobj.conf")
	for _, doc := range []string{"../../README.md", "testdata/configuration.md"} {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(text), "```ini\n")
		sample, _, _ := strings.Cut(rest, "```")
		if err := os.WriteFile(file, []byte(sample), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(file, "", settingNames())
		if err != nil || len(c.Names()) == 0 || len(c.Global) < 4 {
			t.Errorf("%s: %+v (%v) of\n%s", doc, c, err, sample)
		}
	}
}

func errorKinds(b *strings.Builder) {
	b.WriteString(`
## Kinds of errors

The exit code says what sort of trouble it is, and the kind what exactly. With ` + "`--json`" + ` it is the member ` + "`error.kind`" + ` on standard output, with
` + "`--log-format json`" + ` on standard error: see [JSON.md](../cmd/cli/JSON.md). Where no code stands here, the kind is a cause: the code is that of
the trouble that it causes, such as 3 of the storage's and 9 of PostgreSQL's. ` + "`wal-fetch`" + ` has the same kinds with its own codes.

| kind | code | meaning |
| --- | --- | --- |
`)
	all := append(slices.Clone(meanings), meaning{errors.New("none of these; the text says what"), app.ExitFailure, otherKind, ""})
	slices.SortFunc(all, func(a, b meaning) int { return cmp.Compare(a.kind, b.kind) })
	for _, m := range all {
		code := map[bool]string{true: strconv.Itoa(m.code)}[m.code != 0]
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", m.kind, code, m.err)
	}
}
