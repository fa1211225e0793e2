package cli

import (
	"os"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/cmd/cli/app"
)

// `pgobj COMMAND --help | head` ends well, whenever head has seen enough.
func TestHelpForAReaderWhoHasGone(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"backup-fetch", "--help"}, {"delete", "policy", "--help"}} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		var stderr strings.Builder
		if code := Run(t.Context(), "test", args, app.Streams{Out: w, Err: &stderr}); code != 0 || stderr.Len() > 0 {
			t.Errorf("%v: exit code %d\n%s", args, code, stderr.String())
		}
		w.Close()
	}
}
