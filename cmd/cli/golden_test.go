package cli

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/cmd/cli/show"
)

var update = flag.Bool("update", false, "write the golden files again")

// hash is not compared: each addition to the format changes all of them.
var hash = regexp.MustCompile(`[0-9a-f]{64}`)

const policyArg = "--retention=RECOVERY WINDOW OF 4 HOURS"

// goldens are command lines by the file that holds what they print.
var goldens = map[string][][]string{
	"backup-list": {{"backup-list"}, {"backup-list", "--all"}, {"backup-list", "--all", "--json"}, {"backup-list", "--server=none"}, {"backup-list", "--server=none", "--json"}},
	"backup-show": {{"backup-show", "oldest"}, {"backup-show", "20261116T09", policyArg}, {"backup-show", "latest", policyArg}, {"backup-show", "last", "--server=db2"},
		{"backup-show", "first", "--server=db3"}, {"backup-show", "first", "--server=db4"}, {"backup-show", "last", "--server=db4"}, {"backup-show", "2027"}, {"backup-show", "latest", "--retention=forever"}},
	"backup-show-json": {{"backup-show", "first", "--json"}, {"backup-show", "20261116T09", policyArg, "--json"}, {"backup-show", "latest", "--json"}, {"backup-show", "latest", "--server=db2", "--json"}},
	"backup-files": {{"backup-files", "oldest", "--target=data"}, {"backup-files", "oldest"}, {"backup-files", "oldest", "--target=wal"}, {"backup-files", "oldest", "--target=full", "--json"},
		{"backup-files", "latest", "--target=standalone", "--url"}, {"backup-files", "latest", "--target=wal"}, {"backup-files", "20261116T09", "--target=wal"}, {"backup-files", "2027"}, {"backup-files", "first", "--server=db4", "--target=full"}, {"backup-files", "last", "--server=db4"}},
	"server-list": {{"server-list"}, {"server-list", "--sizes"}, {"server-list", "--json"}, {"server-list", "db1", "--sizes", "--json"}, {"server-list", "not-there"}},
	"catalog-log": {{"catalog-log"}, {"catalog-log", "--limit=2"}, {"catalog-log", "--since=2026-11-16 15:00:00+01"}, {"catalog-log", "--server=db2"},
		{"catalog-log", "--server=db3"}, {"catalog-log", "--server=db4", "--limit=3"}, {"catalog-log", "--server=none"}, {"catalog-log", "--json"}, {"catalog-log", "--json", "--server=db2", "--limit=1"}, {"catalog-log", "--json", "--server=db3", "--limit=1"},
		{"catalog-log", "--since=yesterday"}},
}

// TestGolden: what people and their scripts read. Scripts rely on the JSON's members: none may change its name or
// meaning.
func TestGolden(t *testing.T) {
	w := newWorld(t)
	w.story()
	for name, lines := range goldens {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			for _, args := range lines {
				fmt.Fprintf(&out, "$ pgobj %s\n%s\n", show.CommandLine(args)[len("pgobj "):], w.pgobj(args...))
			}
			got := hash.ReplaceAllString(out.String(), "SHA256")
			file := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if string(want) != got {
				t.Errorf("%s is not what is printed now (run with -update, and read the difference):\n%s", file, got)
			}
		})
	}
}
