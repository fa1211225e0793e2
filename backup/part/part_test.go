package part

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/storage/codec"
	"github.com/pgobj/pgobj/storage/mem"
)

// write packs members of the sizes given and returns the parts with their contents by path.
func write(t *testing.T, c codec.Codec, sizes []int) (parts []Full, frames []*Frame, skips []int, contents []Content) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	no := 0
	w, err := NewWriter(c, nil, func() string { no++; return Name("b", no, c) }, func(s Full) ([]byte, error) {
		parts = append(parts, s)
		return nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range sizes {
		data := make([]byte, n)
		for j := range data {
			data[j] = byte(rnd.Uint32() >> (20 + i%8))
		}
		c := Content{Path: fmt.Sprintf("base/5/%d", i), Data: data, SHA256: Sum(data), CRC32C: crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)), Whole: i%2 == 0, At: int64(i%2) * 8192, Mode: 0o600, Relation: i%3 == 0}
		if i == 3 {
			c.Path = "odd\n\\name \xff" + strings.Repeat("x", 200)
		}
		f, skip, err := w.Add(c)
		if err != nil {
			t.Fatal(err)
		}
		frames, skips, contents = append(frames, f), append(skips, skip), append(contents, c)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return parts, frames, skips, contents
}

var sizes = []int{0, 1, 511, 512, 8192, ChunkSize, 100, ChunkSize, ChunkSize - 1, 300000, 300000, 300000, 300000, 5}

func TestFramesGiveBackTheirContent(t *testing.T) {
	for _, c := range []codec.Codec{codec.Default, {Name: "zstd", Level: 9}, {Name: "lz4"}} {
		parts, frames, skips, contents := write(t, c, sizes)
		body := map[string][]byte{}
		for _, p := range parts {
			body[p.Name] = p.Body
		}
		dec, err := codec.NewDecoder()
		if err != nil {
			t.Fatal(err)
		}
		for i, f := range frames {
			if err := f.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			stored := body[f.Part][f.Off:][:f.Size]
			if Sum(stored) != f.SHA256 {
				t.Fatalf("%s: frame of member %d has another hash", c, i)
			}
			raw, err := dec.Decode(c, nil, stored, MaxFrame)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(raw[skips[i]:][:len(contents[i].Data)], contents[i].Data) {
				t.Fatalf("%s: member %d differs", c, i)
			}
		}
	}
}

// A part explains itself: its index, found by its trailer alone, names every member with its place.
func TestReadIndex(t *testing.T) {
	parts, _, skips, contents := write(t, codec.Default, sizes)
	s := mem.New()
	var members []Member
	for _, p := range parts {
		if err := s.Put(t.Context(), Key(p.Name), bytes.NewReader(p.Body), int64(len(p.Body))); err != nil {
			t.Fatal(err)
		}
		lines, sum, err := ReadIndex(t.Context(), s, p.Name, int64(len(p.Body)), p.Index)
		if err != nil {
			t.Fatal(err)
		}
		if sum != p.Index {
			t.Errorf("part %s: ReadIndex returns another hash than the writer", p.Name)
		}
		for _, l := range lines {
			members = append(members, l.Members...)
		}
	}
	if len(members) != len(contents) {
		t.Fatalf("index has %d members, %d were written", len(members), len(contents))
	}
	for i, m := range members {
		if m.Len != len(contents[i].Data) || m.Skip != skips[i] || m.SHA256 != contents[i].SHA256 || m.At != contents[i].At {
			t.Errorf("member %d: index says %+v", i, m)
		}
		if contents[i].Relation != (len(m.Pages) > 0) && len(contents[i].Data) >= PageSize {
			t.Errorf("member %d: %d page hashes", i, len(m.Pages))
		}
	}
}

// No flipped bit anywhere after the frames goes unnoticed, and none makes the reader panic.
func TestReadIndexNoticesDamage(t *testing.T) {
	parts, _, _, _ := write(t, codec.Default, []int{100, 20000, 7})
	p := parts[0]
	lines := 0
	for i := range p.Body {
		bad := bytes.Clone(p.Body)
		bad[i] ^= 1 << (i % 8)
		s := mem.New()
		if err := s.Put(t.Context(), Key(p.Name), bytes.NewReader(bad), int64(len(bad))); err != nil {
			t.Fatal(err)
		}
		got, _, err := ReadIndex(t.Context(), s, p.Name, int64(len(bad)), p.Index)
		if err == nil {
			lines++
			if int64(i) >= got[len(got)-1].Off+int64(got[len(got)-1].Size) {
				t.Fatalf("bit flipped in byte %d of %d, in the index or trailer, was not noticed", i, len(p.Body))
			}
		}
	}
	if lines == 0 {
		t.Fatal("flips in frames cannot show in the index, yet it was refused each time")
	}
}

// Stock tools list a part, with the names that a person expects.
func TestStockToolsReadParts(t *testing.T) {
	for _, c := range []codec.Codec{codec.Default, {Name: "lz4"}} {
		parts, _, _, _ := write(t, c, sizes[:6])
		file := filepath.Join(t.TempDir(), "part")
		if err := os.WriteFile(file, parts[0].Body, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("sh", "-c", "set -e; "+c.Name+" -dc < "+file+" | tar -tv").CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", c, err, out)
		}
		for _, want := range []string{"base/5/0\n", "base/5/1@8192+1\n", "base/5/4\n", IndexName} {
			if !strings.Contains(string(out), want) {
				t.Errorf("%s: no %q in\n%s", c, want, out)
			}
		}
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"b/00001.tar.zst", "b/99999.tar.lz4", "b/100000.tar.zst", "20261121T014500Z-7f3a/134217728.tar.zst"} {
		backup, no, err := ParseName(name)
		if c, _ := CodecOf(name); err != nil || Name(backup, no, c) != name {
			t.Errorf("%s is number %d of %q: %v", name, no, backup, err)
		}
	}
	for _, name := range []string{"", "b", "b/", "b/00001", "b/1.tar.zst", "b/000001.tar.zst", "b/+0001.tar.zst", "b/-0001.tar.zst", "b/00000.tar.zst", "b/134217729.tar.zst",
		"b/900000000000000000.tar.zst", "b/99999999999999999999.tar.zst", "b/c/00001.tar.zst", "../00001.tar.zst", "/00001.tar.zst", "b/0x001.tar.zst", "b/00001.tar.zst/"} {
		if backup, no, err := ParseName(name); err == nil {
			t.Errorf("%s is number %d of %q", name, no, backup)
		}
	}
}
