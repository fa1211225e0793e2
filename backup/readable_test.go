package backup

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pgobj/pgobj/backup/part"
)

// rewritePages writes every nth page of a file anew.
func (x *site) rewritePages(name string, nth int, seed uint64) {
	x.t.Helper()
	f, err := os.OpenFile(filepath.Join(x.pgdata, name), os.O_WRONLY, 0)
	if err != nil {
		x.t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		x.t.Fatal(err)
	}
	for at := int64(0); at < st.Size(); at += int64(nth) * page {
		if _, err := f.WriteAt(random(seed+uint64(at), page), at); err != nil {
			x.t.Fatal(err)
		}
	}
}

// Of a large table every fourth page changes: as many extents as a chunk may have. The line that lists them all has to fit
// into a section.
func TestManyExtentsFitIntoALine(t *testing.T) {
	x := newMemSite(t)
	x.write("base/5/16384", random(1, 100*part.ChunkSize))
	x.mustPush(nil)
	for night := range 2 {
		x.rewritePages("base/5/16384", 4, uint64(night)*1000)
		b := x.mustPush(nil)
		if _, err := x.verify(b.ID); err != nil {
			t.Error(err)
		}
	}
}
