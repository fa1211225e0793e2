package lists

import (
	"maps"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/cmd/cli/show"
)

// labelText is labels as they were given, by name.
func labelText(labels map[string]string) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		out = append(out, name+"="+show.ShellQuote(labels[name]))
	}
	return strings.Join(out, " ")
}
