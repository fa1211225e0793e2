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

	"github.com/klauspost/compress/zstd"

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

func write(t *testing.T, files ...*File) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := NewWriter(&buf, "b")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := w.Add(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func read(data []byte) ([]*File, error) {
	r, err := NewReader(bytes.NewReader(data), "b")
	if err != nil {
		return nil, err
	}
	defer r.Close()
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
	got, err := read(write(t, want...))
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

// Every line here would, if believed, write outside of the target, twice to one place, or leave a hole.
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
		if _, err := read(write(t, first, f)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDamagedManifestIsRefused(t *testing.T) {
	good := write(t, file("a", 1), file("b", 1))
	for n := range good {
		if _, err := read(good[:n]); err == nil {
			t.Fatalf("a manifest cut at byte %d of %d was taken for whole", n, len(good))
		}
	}
	if _, err := NewReader(bytes.NewReader(good), "other"); !errors.Is(err, ErrDamaged) {
		t.Errorf("the manifest of another backup: %v", err)
	}
	long := file(strings.Repeat("x", maxLine), 1)
	if _, err := read(write(t, long)); !errors.Is(err, ErrDamaged) {
		t.Errorf("an endless line: %v", err)
	}
}

func FuzzReader(f *testing.F) {
	line, err := json.Marshal(file("base/1", part.ChunkSize+1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(line)
	f.Add([]byte(`{"end":true,"entries":0}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var buf bytes.Buffer
		zw, err := zstd.NewWriter(&buf)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(zw, `{"format":"pgobj manifest","version":1,"backup":"b"}`+"\n%s\n{\"end\":true,\"entries\":1}\n", line)
		zw.Close()
		files, err := read(buf.Bytes())
		if err != nil {
			return
		}
		for _, f := range files {
			if p := f.RawPath(); strings.HasPrefix(p, "/") || strings.Contains("/"+p+"/", "/../") || f.Size < 0 {
				t.Errorf("read %q of %d bytes from %q", p, f.Size, line)
			}
		}
	})
}
