package push

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/backup/content"
	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/outcome"
	"github.com/pgobj/pgobj/backup/pack"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/backup/readback"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage/storagetest"
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

// What is stored is not what was meant: then there is no backup, the older ones are as they were, and the next one is whole.
func TestABackupThatCannotBeReadIsNotCommitted(t *testing.T) {
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[at] ^= 1; return b }
	}
	for name, c := range map[string]struct {
		before string // the key that is asked for when the fault comes
		spoil  func(x *site, id string)
	}{
		"list":            {"manifest.jsonl.zst", func(x *site, id string) { x.spoil(catalog.ManifestKey(id), flip(20)) }},
		"list is gone":    {"manifest.jsonl.zst", func(x *site, id string) { x.spoil(catalog.ManifestKey(id), nil) }},
		"section":         {"manifest.jsonl.zst", func(x *site, id string) { x.spoilSection(id, flip(100)) }},
		"part is gone":    {"manifest.jsonl.zst", func(x *site, id string) { x.spoilSection(id, nil) }},
		"description":     {"backup.json", func(x *site, id string) { x.spoil(catalog.BackupKey(id), flip(200)) }},
		"nothing of that": {"backup.json", func(x *site, id string) { x.spoil(catalog.BackupKey(id), nil) }},
	} {
		x := newMemSite(t)
		x.write("base/5/16384", random(1, 3*part.ChunkSize))
		first := x.mustPush(nil)
		x.write("base/5/16390", random(2, 1000))
		real := x.store
		spoilt := false
		x.store = storagetest.NewFaulty(real, storagetest.Fault{Mode: storagetest.Pass, Hook: func(op storagetest.Op) {
			id, key, _ := strings.Cut(strings.TrimPrefix(op.Key, "backups/"), "/")
			if !spoilt && op.Name == "get" && key == c.before && id != first.ID {
				spoilt = true
				under := *x
				under.store = real
				c.spoil(&under, id)
			}
		}})
		_, err := x.push(nil)
		x.store = real
		if !spoilt || !errors.Is(err, readback.ErrRefused) {
			t.Errorf("%s: spoilt %t, %v", name, spoilt, err)
		}
		state, err := x.catalog().Load(t.Context())
		if err != nil || len(state.Complete()) != 1 || state.Complete()[0].ID != first.ID {
			t.Errorf("%s: listed are %v, %v", name, state.Complete(), err)
		}
		if _, err := x.verify(first.ID); err != nil {
			t.Errorf("%s: the backup before: %v", name, err)
		}
		if _, err := x.verify(x.mustPush(func(r *Request) { r.Full = true }).ID); err != nil {
			t.Errorf("%s: the next: %v", name, err)
		}
	}
}

// spoilSection changes the part in which a backup has stored sections of its manifest.
func (x *site) spoilSection(id string, change func([]byte) []byte) {
	x.t.Helper()
	for p, err := range part.List(x.t.Context(), x.store, id) {
		if err != nil {
			x.t.Fatal(err)
		}
		lines, _, err := part.ReadIndex(x.t.Context(), x.store, p.Name, p.Size, part.Hash{})
		if err != nil {
			x.t.Fatal(err)
		}
		if lines[0].Members[0].Path == manifest.SectionPath {
			x.spoil(part.Key(p.Name), change)
			return
		}
	}
	x.t.Fatal("no part has sections")
}

// Of a database that has not changed the manifest is not fetched a second time: only the section of the rewritten files is.
func TestKnownSectionsAreNotFetchedAgain(t *testing.T) {
	x := newMemSite(t)
	for i := range 3000 {
		x.write(fmt.Sprintf("base/%d/%d", i%7, 20000+i), random(uint64(i), 10))
	}
	x.mustPush(nil)
	real := x.store
	faulty := storagetest.NewFaulty(real)
	x.store = faulty
	b := x.mustPush(nil)
	x.store = real
	m, err := content.FetchManifest(t.Context(), real, b)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	begun, fetched := false, 0
	for _, op := range faulty.Ops() {
		begun = begun || op.Name == "put" && op.Key == catalog.ManifestKey(b.ID)
		if begun && op.Name == "get" && strings.HasPrefix(op.Key, "parts/") {
			fetched++
		}
	}
	if !begun || fetched != 1 || len(m.Sections) < 50 {
		t.Errorf("of %d sections %d were fetched again", len(m.Sections), fetched)
	}
}

// Whatever anybody has put into a data directory: the backup is taken and comes back as it was, night after night, but for links in
// pg_tblspc that PostgreSQL has not made.
func TestAnyDataDirectoryComesBack(t *testing.T) {
	for seed := range uint64(2) {
		x := newMemSite(t)
		rnd := rand.New(rand.NewPCG(seed, 3))
		x.oddTree(rnd, 100)
		for night := range 2 {
			b := x.mustPush(nil)
			want := x.tree(x.pgdata)
			maps.DeleteFunc(want, func(name, what string) bool { // what the server would look through is not led out of the copy
				return path.Dir(name) == "pg_tblspc" && strings.HasPrefix(what, "link /nowhere")
			})
			if got := x.tree(x.fetch(b.ID)); !maps.Equal(got, want) {
				t.Errorf("seed %d, night %d: %v", seed, night, unequal(got, want))
			}
			x.oddTree(rnd, 20)
		}
	}
}

// oddTree makes files, directories and links, with names in which everything is that sorts before, after or like a slash.
func (x *site) oddTree(rnd *rand.Rand, n int) {
	x.t.Helper()
	pieces := []string{"a", "b", ".", "-", "/", "/", "0", "!", "~", "\n", "\xff", "\xc3\x28", "é", "\u2028", "\\", "\"", "<", "pg_wal", "00000002.history", "000000020000000000000004"}
	pgdata := x.pgdata
	dirs := []string{"base/5", "pg_tblspc", "global", "odd"}
	for range n {
		name := dirs[rnd.IntN(len(dirs))] + "/"
		for range 1 + rnd.IntN(6) {
			name += pieces[rnd.IntN(len(pieces))]
		}
		p := filepath.Join(pgdata, name)
		if !strings.HasPrefix(p, pgdata+"/") || os.MkdirAll(filepath.Dir(p), 0o700) != nil {
			continue
		}
		switch rnd.IntN(6) {
		case 0:
			_ = os.Mkdir(p, 0o700)
		case 1: // to nothing, or to something that is there
			_ = os.Symlink([]string{"/nowhere/at all", "nothing\xff", filepath.Join(pgdata, "PG_VERSION")}[rnd.IntN(3)], p)
		case 2:
			_ = os.WriteFile(p, nil, 0o600)
		default:
			_ = os.WriteFile(p, random(rnd.Uint64(), rnd.IntN(3*part.PageSize)), 0o600)
		}
		_ = os.Chtimes(p, time.Time{}, time.Unix([]int64{1, 1e9, -1e9, 1e12, 1 << 40}[rnd.IntN(5)], 5))
	}
	for _, space := range []string{"007", "99999999999", "space", "16400x"} { // what is no tablespace
		_ = os.Symlink("/nowhere", filepath.Join(pgdata, "pg_tblspc", space))
	}
}

// tree is what a data directory has, by path; what a backup makes itself is left out.
func (x *site) tree(root string) map[string]string {
	x.t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, p) // it is below
		if err != nil || slices.Contains(manifest.Tail, rel) || strings.HasPrefix(rel, "recovery.") || strings.HasPrefix(rel, "postgresql.auto") || rel == outcome.RestoredFile {
			return err
		}
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			found[rel] = "link " + strings.Replace(to, root, "", 1)
			return err
		case d.IsDir():
			found[rel] = "directory"
			return nil
		}
		data, err := os.ReadFile(p)
		st, e := d.Info()
		found[rel] = fmt.Sprintf("%x", part.Sum(data))
		if e == nil && st.ModTime().Year() < 9999 {
			found[rel] += st.ModTime().String()
		}
		return errors.Join(err, e)
	})
	if err != nil {
		x.t.Fatal(err)
	}
	return found
}

func unequal(got, want map[string]string) (paths []string) {
	for p := range want {
		if got[p] != want[p] {
			paths = append(paths, fmt.Sprintf("%q: %q, was %q", p, got[p], want[p]))
		}
	}
	for p := range got {
		if _, ok := want[p]; !ok {
			paths = append(paths, fmt.Sprintf("%q is new", p))
		}
	}
	return paths[:min(5, len(paths))]
}

// A file may be dated in a year that has no place in the manifest.
func TestTimesThatTheManifestCannotHave(t *testing.T) {
	for _, unix := range []int64{1 << 40, 253402300800, -62135596801, -1 << 40} {
		at := time.Unix(unix, 0)
		f := pack.Describe(datadir.Entry{Path: "log/x", Mtime: at, Ctime: at}, time.Now())
		f.SetPath("log/x")
		w := manifest.NewWriter(func([]byte, int) error { return nil })
		if err := w.Add(&f); err != nil || !f.Mtime.IsZero() {
			t.Errorf("%d: %v, %v", unix, f.Mtime, err)
		}
	}
}
