package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/backup/part"
)

func file(path string, size int64) *File {
	f := &File{Type: TypeFile, Mode: 0o600, Size: size, Mtime: time.Unix(1e9, 123).UTC()}
	f.SetPath(path)
	for at := int64(0); at < size; at += part.ChunkSize {
		n := min(part.ChunkSize, size-at)
		f.Chunks = append(f.Chunks, Chunk{Extents: []Extent{{At: at, Len: int(n), Part: "b/00001.tar.zst", Off: at, Size: 100, Skip: 512}}})
	}
	return f
}

// write returns the lines, which read takes.
func write(t *testing.T, files ...*File) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := NewWriter(func(section []byte, _ int) error { buf.Write(section); return nil })
	for _, f := range files {
		if err := w.Add(f); err != nil {
			t.Fatal(err)
		}
	}
	n, err := w.Close()
	if err != nil || n != int64(len(files)) {
		t.Fatal(n, err)
	}
	return buf.Bytes()
}

func read(data []byte, entries int) ([]*File, error) {
	r := NewReader(bytes.NewReader(data), "b", int64(entries))
	var files []*File
	for {
		f, err := r.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
}

func TestRoundTrip(t *testing.T) {
	dir := &File{Type: TypeDir, Mode: 0o700}
	dir.SetPath("base")
	link := &File{Type: TypeLink}
	link.SetPath("pg_tblspc/16400")
	link.SetLink("/mnt/\xff space\n")
	root := &File{Type: TypeDir, Mode: 0o700, Path: Root}
	want := []*File{root, file("PG_VERSION", 3), dir, file("base/1\xfe\n\\", 0), file("base/2", 3*part.ChunkSize+5), link, file("backup_label", 9), file("global/pg_control", 8192)}
	got, err := read(write(t, want...), len(want))
	if err != nil {
		t.Fatal(err)
	}
	if a, b := fmt.Sprintf("%+v", deref(want)), fmt.Sprintf("%+v", deref(got)); a != b {
		t.Errorf("wrote %s\nread  %s", a, b)
	}
	if got[3].RawPath() != "base/1\xfe\n\\" || got[5].RawLink() != "/mnt/\xff space\n" {
		t.Error("bytes of a path that is no UTF-8 were not kept")
	}
}

func deref(files []*File) (out []File) {
	for _, f := range files {
		out = append(out, *f)
	}
	return out
}

// Every line here would, if believed, write outside of the target, twice to one place, or leave a gap.
func TestHostileLinesAreRefused(t *testing.T) {
	change := func(f func(*File)) *File {
		x := file("base/1", 2*part.ChunkSize)
		f(x)
		return x
	}
	cases := map[string]*File{
		"parent":         change(func(f *File) { f.Path = "../x" }),
		"inner parent":   change(func(f *File) { f.Path = "base/../../x" }),
		"absolute":       change(func(f *File) { f.Path = "/etc/passwd" }),
		"empty":          change(func(f *File) { f.Path = "" }),
		"hex parent":     change(func(f *File) { f.Path, f.Hex = "", "2e2e2f78" }),
		"hex NUL":        change(func(f *File) { f.Path, f.Hex = "", "62006300" }),
		"no hex":         change(func(f *File) { f.Path, f.Hex = "", "zz" }),
		"setuid":         change(func(f *File) { f.Mode = 0o4755 }),
		"device":         change(func(f *File) { f.Type = "dev" }),
		"negative size":  change(func(f *File) { f.Size = -1 }),
		"too few chunks": change(func(f *File) { f.Chunks = f.Chunks[:1] }),
		"overlap":        change(func(f *File) { f.Chunks[0].Extents = append(f.Chunks[0].Extents, f.Chunks[0].Extents[0]) }),
		"gap":            change(func(f *File) { f.Chunks[1].Extents[0].Len-- }),
		"outside":        change(func(f *File) { f.Chunks[1].Extents[0].Len++ }),
		"part":           change(func(f *File) { f.Chunks[0].Extents[0].Part = "../../x.tar.zst" }),
		"huge frame":     change(func(f *File) { f.Chunks[0].Extents[0].Size = 1 << 30 }),
		"negative skip":  change(func(f *File) { f.Chunks[0].Extents[0].Skip = -1 }),
		"order":          file("aaa", 1),
		"twice":          file("base", 0),
		"after tail":     file("zzz", 1),
	}
	for name, f := range cases {
		first := file("base", 0)
		if name == "after tail" {
			first = file("global/pg_control", 8192)
		}
		if _, err := read(write(t, first, f), 2); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCutManifestIsRefused(t *testing.T) {
	good := write(t, file("a", 1), file("b", 1))
	for n := range len(good) - 1 { // the last newline says nothing
		if _, err := read(good[:n], 2); !errors.Is(err, ErrDamaged) {
			t.Fatalf("a manifest cut at byte %d of %d: %v", n, len(good), err)
		}
	}
	if _, err := read(good, 1); !errors.Is(err, ErrDamaged) {
		t.Errorf("more lines than there have to be: %v", err)
	}
	if _, err := read(bytes.Repeat([]byte("x"), 2*maxLine), 1); !errors.Is(err, ErrDamaged) {
		t.Errorf("an endless line: %v", err)
	}
}

func TestList(t *testing.T) {
	want := []Section{
		{part.Sum([]byte("1")), Extent{At: 0, Len: 100, Part: "b/00001.tar.zst", Size: 50, Skip: 512}},
		{part.Sum([]byte("2")), Extent{At: 100, Len: 7, Part: "a/00009.tar.lz4", Off: 9, Size: 50, Skip: 512}},
	}
	stored, err := WriteList("b", want, 3)
	if err != nil {
		t.Fatal(err)
	}
	got, entries, err := ReadList(stored, "b")
	if err != nil || entries != 3 || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("read %v, %d entries, %v", got, entries, err)
	}
	for n := range stored {
		if _, _, err := ReadList(stored[:n], "b"); err == nil {
			t.Fatalf("a list cut at byte %d of %d was taken for whole", n, len(stored))
		}
	}
	if _, _, err := ReadList(stored, "other"); !errors.Is(err, ErrDamaged) {
		t.Errorf("the list of another backup: %v", err)
	}
	want[1].Extent.At++
	if stored, err = WriteList("b", want, 3); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ReadList(stored, "b"); !errors.Is(err, ErrDamaged) {
		t.Errorf("a gap between sections: %v", err)
	}
}

// A line that changes leaves all sections but its own as they were, also when lines come and go.
func TestSectionsAreStable(t *testing.T) {
	sections := func(skip int) map[string]bool {
		out := map[string]bool{}
		w := NewWriter(func(s []byte, _ int) error { out[string(s)] = true; return nil })
		for i := range 5000 {
			if i == skip {
				continue
			}
			if err := w.Add(file(fmt.Sprintf("base/%05d", i), 8192)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out
	}
	all, without := sections(-1), sections(2500)
	fresh := 0
	for s := range without {
		if !all[s] {
			fresh++
		}
	}
	if len(all) < 50 || fresh != 1 {
		t.Errorf("one file fewer makes %d of %d sections new", fresh, len(all))
	}
}

func FuzzReader(f *testing.F) {
	line, err := json.Marshal(file("base/1", part.ChunkSize+1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(line)
	f.Add([]byte(`{"path":"a/../b","type":"file"}`))
	f.Fuzz(func(t *testing.T, lines []byte) {
		r := NewReader(bytes.NewReader(lines), "b", 1)
		for {
			f, err := r.Next()
			if err != nil {
				return
			}
			if p := f.RawPath(); strings.HasPrefix(p, "/") || strings.Contains("/"+p+"/", "/../") || f.Size < 0 {
				t.Errorf("read %q of %d bytes from %q", p, f.Size, lines)
			}
		}
	})
}
