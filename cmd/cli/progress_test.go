package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/cmd/cli/show"
)

// What was counted before the work began is not the last word: there is never more done than there is.
func TestProgressIsNeverMoreThanAll(t *testing.T) {
	for _, c := range []struct {
		done, total int64
		want        string
	}{{0, 0, "0 B,"}, {500, 1000, "(50 %)"}, {999, 1000, "(99 %)"}, {1000, 1000, "(100 %)"}, {1010, 1000, "of 1010 B (100 %)"}} {
		p := &backup.Progress{}
		p.Bytes.Store(c.done)
		p.TotalBytes.Store(c.total)
		if got := show.ProgressLine("x", p, time.Second); !strings.Contains(got, c.want) {
			t.Errorf("%d of %d: %s", c.done, c.total, got)
		}
	}
}
