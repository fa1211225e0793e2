// Package settings knows PostgreSQL's configuration files: how a line is read, which other files it leads to, and what has to be
// different in a copy of them. It owns no file: it turns text
// into text. It also knows what a restored server is told, and which settings of a backup are dangerous to a copy.
package settings

import (
	"path/filepath"
	"strings"
)

// Parse reads a line of a configuration file as PostgreSQL does (guc-file.l): NAME [=] VALUE, the value quoted or not. The name is
// in lower case, and empty for a comment and the like.
func Parse(line string) (name, value string) {
	line = strings.TrimSpace(line)
	i := strings.IndexAny(line, "= \t#")
	if i <= 0 || line[i] == '#' {
		return "", ""
	}
	name = strings.ToLower(line[:i])
	value = strings.TrimLeft(line[i:], " \t")
	value = strings.TrimLeft(strings.TrimPrefix(value, "="), " \t")
	if quoted, ok := strings.CutPrefix(value, "'"); ok {
		return name, unquote(quoted)
	}
	value, _, _ = strings.Cut(value, "#")
	return name, strings.TrimSpace(value)
}

// unquote reads up to the closing quote. Of the backslash's escapes it knows that the next character stands for
// itself, which is enough for paths.
func unquote(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
		case s[i] == '\'' && i+1 < len(s) && s[i+1] == '\'':
			i++
		case s[i] == '\'':
			return out.String()
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// Value is what a file says of a setting: the last line counts. False: it says nothing.
func Value(text, name string) (value string, ok bool) {
	for line := range strings.Lines(text) {
		if n, v := Parse(line); n == name {
			value, ok = v, true
		}
	}
	return value, ok
}

// Include is a line that leads to other settings.
type Include struct {
	Path string // absolute
	Dir  bool   // all of its files that end in .conf count
}

// Includes are the lines of a file with an absolute path that lead to others.
func Includes(file, text string) (all []Include) {
	for line := range strings.Lines(text) {
		switch name, value := Parse(line); {
		case value == "":
		case name == "include_dir", name == "include", name == "include_if_exists":
			all = append(all, Include{resolve(file, value), name == "include_dir"})
		}
	}
	return all
}

// resolve is where a path in a configuration file leads: relative ones count from the file's own directory (AbsoluteConfigLocation in
// PostgreSQL's conffiles.c).
func resolve(file, value string) string {
	if filepath.IsAbs(value) {
		return filepath.Clean(value)
	}
	return filepath.Join(filepath.Dir(file), value)
}
