package settings

import "strings"

// maxDepth is how deep files may include each other (CONF_FILE_MAX_DEPTH in PostgreSQL's conffiles.h).
const maxDepth = 10

// Source is where the text of configuration files comes from. Paths are absolute.
type Source struct {
	Read func(file string) (text string, ok bool)
	List func(dir string) (files []string, ok bool) // those that count, in the order in which they are read
}

// Values is what the files say, from the main one on: the last line counts (ParseConfigFp in guc-file.l). nil: a file or directory that is
// included is not known.
func (s Source) Values(main string) map[string]string {
	values := map[string]string{}
	if !s.collect(main, values, 0) {
		return nil
	}
	return values
}

func (s Source) collect(file string, values map[string]string, depth int) bool {
	text, ok := s.Read(file)
	if !ok || depth > maxDepth {
		return false
	}
	for line := range strings.Lines(text) {
		name, value := Parse(line)
		included := []string{resolve(file, value)}
		switch name {
		case "include_dir":
			included, ok = s.List(included[0])
		case "include", "include_if_exists":
		default:
			values[name], included = value, nil
		}
		for _, f := range included {
			ok = ok && s.collect(f, values, depth+1)
		}
		if !ok {
			return false
		}
	}
	return true
}
