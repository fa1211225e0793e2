package cli

import (
	"strings"
	"testing"

	"github.com/pgobj/pgobj/catalog"
)

// TestLogWithAHole: the hole is one line, however far away its end is.
func TestLogWithAHole(t *testing.T) {
	w := newWorld(t)
	w.add("db1", catalog.Record{Type: "begin", Begin: &catalog.Begin{Backup: "20261116T010000Z-0001"}})
	w.put("db1", "catalog/log/9999999999.json", 2)
	for _, args := range [][]string{{"catalog-log"}, {"catalog-log", "--since=2000-01-01 00:00:00"}, {"catalog-log", "--json"}} {
		got := w.pgobj(args...)
		for _, text := range []string{"20261116T010000Z-0001", "it is missing, and so are all up to 9999999998", "9999999999"} {
			if !strings.Contains(got, text) || len(got) > 2000 {
				t.Errorf("%q does not say %q:\n%.2000s", args, text, got)
			}
		}
	}
}
