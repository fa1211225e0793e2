package readback

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/storage/codec"
)

const foreign = "a/00001.tar.zst" // a part of another backup, of 1000 bytes

// world is a part, and a manifest of files that lie in it.
type world struct {
	name   string
	body   []byte
	index  part.Hash
	frames []*part.Frame
	skips  []int
	files  []*manifest.File
}

const contents = 40 // that the part has, each of 10,000 bytes and more

func newWorld(t *testing.T, rnd *rand.Rand) *world {
	t.Helper()
	w := &world{name: part.Name("b", 1, codec.Default)}
	pw, err := part.NewWriter(codec.Default, nil, func() string { return w.name }, func(f part.Full) ([]byte, error) {
		w.body, w.index = bytes.Clone(f.Body), f.Index
		return nil, nil
	})
	for i := 0; err == nil && i < contents; i++ {
		data := bytes.Repeat([]byte{byte(i)}, 10_000+i)
		var f *part.Frame
		var skip int
		f, skip, err = pw.Add(part.Content{Path: "x", Data: data, SHA256: part.Sum(data), CRC32C: crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))})
		w.frames, w.skips = append(w.frames, f), append(w.skips, skip)
	}
	if err == nil {
		err = pw.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	w.add(".", manifest.TypeDir, 0)
	for i := range 200 + rnd.IntN(300) {
		switch name := fmt.Sprintf("base/%06d\xff<&>\u2028", i); rnd.IntN(4) {
		case 0:
			w.add(name, manifest.TypeDir, 0)
		case 1:
			w.add(name, manifest.TypeLink, 0)
		case 2:
			w.add(name, manifest.TypeFile, 0)
		default:
			w.add(name, manifest.TypeFile, rnd.IntN(contents))
		}
	}
	w.add("pg_wal/000000010000000000000001", manifest.TypeFile, 0)
	for i, name := range manifest.Tail {
		w.add(name, manifest.TypeFile, i+1)
	}
	return w
}

// add lists something whose content is the nth of the part.
func (w *world) add(path string, typ manifest.Type, nth int) {
	f := &manifest.File{Type: typ, Mode: 0o600, Mtime: time.Unix(1e9, 7).UTC(), Hot: nth%2 == 0}
	f.SetPath(path)
	if typ == manifest.TypeLink {
		f.SetLink("/\xfe" + path)
	}
	if typ == manifest.TypeFile && nth > 0 {
		fr := w.frames[nth]
		f.Size = int64(10_000 + nth)
		f.Chunks = []manifest.Chunk{{CRC32C: 1, SHA256: part.Sum([]byte(path)), Extents: []manifest.Extent{{Len: int(f.Size), Part: fr.Part, Off: fr.Off, Size: fr.Size, SHA256: fr.SHA256, Skip: w.skips[nth]}}}}
		if nth == 7 { // two extents, the second in a part of another backup
			x := &f.Chunks[0].Extents[0]
			x.Len -= 10
			f.Chunks[0].Extents = append(f.Chunks[0].Extents, manifest.Extent{At: int64(x.Len), Len: 10, Part: foreign, Off: 900, Size: 100})
		}
	}
	w.files = append(w.files, f)
}

// check writes one list of files where another is meant, and reads it back; of the sections, known ones are passed over.
func (w *world) check(t *testing.T, meant, written []*manifest.File, known bool) error {
	t.Helper()
	frames, err := NewFrames(func(name string) (int64, bool) { return 1000, name == foreign })
	if err != nil {
		t.Fatal(err)
	}
	defer frames.Close()
	if err := frames.Add(w.name, w.body, w.index); err != nil {
		t.Fatal(err)
	}
	m := &Meant{}
	m.Require("backup_label", "pg_wal/000000010000000000000001")
	for _, f := range meant {
		m.Line(f)
	}
	var sections [][]byte
	var stored []Stored
	mw := manifest.NewWriter(func(s []byte, lines int) error {
		m.Section(min(lines, len(m.pending)))
		sections, stored = append(sections, bytes.Clone(s)), append(stored, Stored{part.Sum(s), lines})
		return nil
	})
	for _, f := range written {
		if err := mw.Add(f); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := mw.Close()
	if err != nil {
		t.Fatal(err)
	}
	var seen *Seen
	if known {
		seen = NewSeen(stored)
		for _, f := range written[:len(written)-len(manifest.Tail)] { // the merge ends before those
			seen.Line(f)
		}
	}
	c, err := NewCheck("b", len(sections), entries, m, frames)
	passed := 0
	for i, s := range sections {
		if err != nil {
			return err
		}
		if e, ok := seen.Edges(stored[i].SHA256); ok {
			passed++
			err = c.Known(e)
		} else {
			err = c.Section(s)
		}
	}
	if known && passed < len(sections)-2 {
		t.Errorf("of %d sections only %d were known", len(sections), passed)
	}
	if err != nil {
		return err
	}
	return c.End()
}

func TestWhatIsMeantIsReadBack(t *testing.T) {
	for seed := range uint64(20) {
		w := newWorld(t, rand.New(rand.NewPCG(seed, 1)))
		for _, known := range []bool{false, true} {
			if err := w.check(t, w.files, w.files, known); err != nil {
				t.Errorf("seed %d, known sections %t: %v", seed, known, err)
			}
		}
	}
}

// Each of these is written as it is meant, or instead of what is meant, and no restore could use it.
func TestWhatIsWrongIsRefused(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(1, 1)))
	n := slices.IndexFunc(w.files, func(f *manifest.File) bool { return f.Size > 0 && len(f.Chunks[0].Extents) == 1 })
	two := slices.IndexFunc(w.files, func(f *manifest.File) bool { return f.Size > 0 && len(f.Chunks[0].Extents) == 2 })
	last := len(w.files) - 1
	change := func(i int, how func(f *manifest.File)) func([]*manifest.File) []*manifest.File {
		return func(files []*manifest.File) []*manifest.File {
			f := *files[i]
			f.Chunks = slices.Clone(f.Chunks)
			for k := range f.Chunks {
				f.Chunks[k].Extents = slices.Clone(f.Chunks[k].Extents)
			}
			how(&f)
			files[i] = &f
			return files
		}
	}
	swap := func(i, k int) func([]*manifest.File) []*manifest.File {
		return func(files []*manifest.File) []*manifest.File {
			files[i], files[k] = files[k], files[i]
			return files
		}
	}
	drop := func(i int) func([]*manifest.File) []*manifest.File {
		return func(files []*manifest.File) []*manifest.File { return slices.Delete(files, i, i+1) }
	}
	extent := func(f *manifest.File) *manifest.Extent { return &f.Chunks[0].Extents[0] }
	for name, wrong := range map[string]func([]*manifest.File) []*manifest.File{
		"order":                 swap(20, 21),
		"far order":             swap(3, 150),
		"twice":                 func(files []*manifest.File) []*manifest.File { return slices.Insert(files, 30, files[30]) },
		"without its first":     drop(0),
		"without backup_label":  drop(last - 3),
		"without WAL":           drop(last - 4),
		"without pg_control":    drop(last),
		"control file too soon": swap(last-1, last),
		"beyond the frame":      change(n, func(f *manifest.File) { extent(f).Skip = part.MaxFrame - extent(f).Len }),
		"between frames":        change(n, func(f *manifest.File) { extent(f).Off++ }),
		"other size":            change(n, func(f *manifest.File) { extent(f).Size-- }),
		"other hash":            change(n, func(f *manifest.File) { extent(f).SHA256[0] ^= 1 }),
		"unknown part":          change(n, func(f *manifest.File) { extent(f).Part = "b/00002.tar.zst" }),
		"beyond another's part": change(two, func(f *manifest.File) { f.Chunks[0].Extents[1].Off++ }),
		"gap":                   change(n, func(f *manifest.File) { extent(f).Len-- }),
		"too large":             change(n, func(f *manifest.File) { f.Size++ }),
		"mode":                  change(n, func(f *manifest.File) { f.Mode = 0o4700 }),
		"path":                  change(n, func(f *manifest.File) { f.SetPath("../" + f.RawPath()) }),
	} {
		bad := wrong(slices.Clone(w.files))
		if err := w.check(t, bad, bad, false); !errors.Is(err, ErrRefused) && !errors.Is(err, manifest.ErrDamaged) {
			t.Errorf("%s, meant so: %v", name, err)
		}
		if err := w.check(t, w.files, bad, false); !errors.Is(err, ErrRefused) && !errors.Is(err, manifest.ErrDamaged) {
			t.Errorf("%s, not meant so: %v", name, err)
		}
	}
	for name, other := range map[string]func(f *manifest.File){ // a reader takes it, and it is not what was meant
		"time":    func(f *manifest.File) { f.Mtime = f.Mtime.Add(1) },
		"hot":     func(f *manifest.File) { f.Hot = !f.Hot },
		"link":    func(f *manifest.File) { f.SetLink("elsewhere") },
		"content": func(f *manifest.File) { f.Chunks[0].SHA256[3] ^= 1 },
		"place":   func(f *manifest.File) { extent(f).Skip-- },
	} {
		if err := w.check(t, w.files, change(n, other)(slices.Clone(w.files)), false); !errors.Is(err, ErrRefused) {
			t.Errorf("another %s: %v", name, err)
		}
	}
}

// Sections that are known have to follow each other as their lines do.
func TestKnownSectionsInOrder(t *testing.T) {
	line := func(path string) manifest.Place {
		f := &manifest.File{Type: manifest.TypeFile}
		f.SetPath(path)
		return f.Place()
	}
	for _, c := range []struct {
		paths []string // first and last of each section
		ok    bool
	}{
		{[]string{".", "a", "b", "c", "d", "e"}, true}, {[]string{".", "a", "b", "c", "c", "e"}, false}, {[]string{"a", "d", "b", "c"}, false},
		{[]string{"a", "b", ".", "c"}, false},
	} {
		r := manifest.NewReader(nil, "b", int64(len(c.paths)))
		var err error
		for i := 0; i < len(c.paths) && err == nil; i += 2 {
			err = r.Pass(line(c.paths[i]), line(c.paths[i+1]), 2)
		}
		if err == nil {
			err = r.End()
		}
		if (err == nil) != c.ok || err != nil && !errors.Is(err, manifest.ErrDamaged) {
			t.Errorf("%q: %v", c.paths, err)
		}
	}
}
