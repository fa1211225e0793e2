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
	var b strings.Builder
	b.WriteString(`# Configuration reference

Made from the code; a test holds them equal. Every flag has an environment variable, where one is named. A flag comes before the
environment, and the environment before the file of ` + "`--config`" + `, which has lines ` + "`NAME=VALUE`" + ` with the names of the variables.

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
			b.WriteString("| flag | variable | default | meaning |\n| --- | --- | --- | --- |\n")
			first = false
		}
		cell := func(s string) string {
			if s = strings.ReplaceAll(s, "|", "\\|"); s == "" {
				return ""
			}
			return "`" + s + "`"
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", cell("--"+f.Name), cell(strings.Join(f.Envs, ", ")), cell(f.Default), strings.ReplaceAll(f.Help, "|", "\\|"))
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
	n := 0
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
			n++
		}
	}
	if n == 0 {
		t.Fatal("errors.go has no exit codes")
	}
	errorKinds(&b)
	return b.String()
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
