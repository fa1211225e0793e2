package push

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgobj/pgobj/backup/content"
	"github.com/pgobj/pgobj/catalog"
)

// manifestSize is what the manifest of a backup occupies in the repository: the list of its sections, and every frame that
// has one, with what else is in that.
func (x *site) manifestSize(b *catalog.Backup) int64 {
	x.t.Helper()
	m, err := content.FetchManifest(x.t.Context(), x.store, b)
	if err != nil {
		x.t.Fatal(err)
	}
	defer m.Close()
	type frame struct {
		part string
		off  int64
	}
	seen, size := map[frame]bool{}, b.Manifest.Size
	for _, s := range m.Sections {
		if f := (frame{s.Extent.Part, s.Extent.Off}); !seen[f] {
			seen[f] = true
			size += int64(s.Extent.Size)
		}
	}
	return size
}

// A manifest is at most 0.05 % of the database, also when each chunk of that is changed a little every night: then it
// lists the most extents.
func TestTheManifestStaysSmall(t *testing.T) {
	x := newMemSite(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	const files, pages, nights = 4, 2048, 30
	for i := range files {
		x.write(filepath.Join("base/5", string(rune('1'+i))+"6384"), random(uint64(i), pages*page))
	}
	most := 0.0
	for night := range nights {
		b := x.mustPush(nil)
		share := float64(x.manifestSize(b)) / float64(b.Size)
		if most = max(most, share); share > 0.0005 {
			t.Errorf("night %d: the manifest is %.4f %% of the database", night, 100*share)
		}
		for i := range files {
			f, err := os.OpenFile(filepath.Join(x.pgdata, "base/5", string(rune('1'+i))+"6384"), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			for range pages / 100 {
				if _, err := f.WriteAt(random(rnd.Uint64(), page), page*rnd.Int64N(pages)); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("the largest manifest of %d nights is %.4f %% of the database", nights, 100*most)
}
