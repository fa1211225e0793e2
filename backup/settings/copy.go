package settings

import (
	"path/filepath"
	"strings"

	"github.com/pgobj/pgobj/backup/recovery"
)

// Copy says where a copy of a configuration lies, and of which files. All paths are absolute and clean.
type Copy struct {
	From, To string            // data directory of the original, and of the copy
	Places   map[string]string // where each of the files and directories of the configuration goes, by where it was
	Whole    bool              // a file that is not among Places is nothing to the copy: lines that lead there are taken out
}

// Change is a line that is different in the copy.
type Change struct {
	File string // where it was
	Line int
	Now  string // what stands there now; empty: it is taken out
}

const (
	changed  = "# before pgobj's restore: "
	takenOut = "# taken out by pgobj's restore: "
)

// Adapt makes of the text of a file what the copy needs: lines that lead to the original's data directory, to its configuration, or to a
// file that both would write, lead to the copy, or are taken out. The line as it was stays as a comment. A copy in the original's place stays as it was.
func (c Copy) Adapt(file, text string) (string, []Change) {
	var out strings.Builder
	var changes []Change
	n := 0
	for line := range strings.Lines(text) {
		n++
		name, value := Parse(line)
		now, keep := c.line(file, name, value)
		if keep {
			out.WriteString(line)
			continue
		}
		mark := takenOut
		if now != "" {
			mark = changed
		}
		out.WriteString(mark + strings.TrimSpace(line) + "\n")
		if now != "" {
			out.WriteString(now + "\n")
		}
		changes = append(changes, Change{file, n, now})
	}
	return out.String(), changes
}

// line is what a line becomes; keep: it stays as it is.
func (c Copy) line(file, name, value string) (now string, keep bool) {
	var to string
	ok := true
	switch name {
	case "data_directory":
		to = c.To
	case "hba_file", "ident_file":
		if !filepath.IsAbs(value) { // counts from where the server is started
			return "", true
		}
		to, ok = c.place(value)
	case "include", "include_if_exists", "include_dir":
		to, ok = c.place(resolve(file, value))
		if here, known := c.place(file); ok && known && resolve(here, value) == to {
			return "", true // they lie to each other as they did
		}
	case "external_pid_file", "stats_temp_directory":
		if !filepath.IsAbs(value) || c.From == c.To {
			return "", true
		}
		to, ok = c.inside(value)
		if !ok {
			return "", false
		}
	default:
		return "", true
	}
	switch {
	case value == "" || ok && to == filepath.Clean(value):
		return "", true
	case ok:
		return recovery.Setting{Name: name, Value: to}.String(), false
	}
	return "", !c.Whole
}

// place is where a file or directory of the original is in the copy.
func (c Copy) place(path string) (string, bool) {
	if to, ok := c.Places[filepath.Clean(path)]; ok {
		return to, true
	}
	return c.inside(path)
}

// inside is place for what was in the data directory.
func (c Copy) inside(path string) (string, bool) {
	rel, err := filepath.Rel(c.From, path)
	if err != nil || !filepath.IsLocal(rel) {
		return "", false
	}
	return filepath.Join(c.To, rel), true
}
