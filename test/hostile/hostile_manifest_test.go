package hostile

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/test/site"
)

// hostilePaths is every kind of name that is none, for every kind of entry, in both spellings.
func hostilePaths() (all []site.Forgery) {
	for what, path := range map[string]string{
		"up":                      "../evil",
		"up, far":                 strings.Repeat("../", 40) + "tmp/evil",
		"up from within":          "base/../../evil",
		"up at the end":           "base/..",
		"up alone":                "..",
		"absolute":                "/tmp/evil",
		"with a dot":              "./evil",
		"with a dot within":       "base/./evil",
		"with two slashes":        "base//evil",
		"with a slash at the end": "evil/",
		"with a zero byte":        "ev\x00il",
		"empty":                   "",
		"the data directory":      ".",
		"no UTF-8, up":            "\xff/../../evil",
		"too long a name":         strings.Repeat("x", 300),
		"too long a path":         "base/" + strings.Repeat("x/", 3000) + "x",
		"in a file":               "PG_VERSION/evil",
		"in no directory":         "aaa/bbb/ccc",
		"tablespace's up":         "pg_tblspc/../../evil",
		"tablespace of no name":   "pg_tblspc/evil",
	} {
		for _, kind := range []manifest.Type{manifest.TypeFile, manifest.TypeDir, manifest.TypeLink} {
			for _, spelled := range []string{"plain", "hexadecimal"} {
				if spelled == "hexadecimal" && kind != manifest.TypeFile && what != "up" {
					continue
				}
				// What has a name that only a tablespace should have is inside, and a link that leads out is not made.
				harmless := what == "tablespace of no name"
				all = append(all, site.Forgery{Name: fmt.Sprintf("%s, %s, %s", kind, what, spelled), Harmless: harmless, Do: func(f *site.Forger) {
					l := map[manifest.Type]manifest.File{manifest.TypeFile: f.File(""), manifest.TypeDir: f.Dir(""), manifest.TypeLink: f.Link("", f.Victim)}[kind]
					if l.SetPath(path); spelled == "hexadecimal" {
						l.Path, l.Hex = "", hex.EncodeToString([]byte(path))
					}
					f.Insert(l)
				}})
			}
		}
	}
	for what, to := range map[string]string{"with a zero byte": "a\x00b", "empty": "", "too long": strings.Repeat("x/", 5000)} {
		all = append(all, site.Forgery{Name: "link to a place " + what, Do: func(f *site.Forger) { f.Insert(f.Link("aaa", to)) }})
	}
	for what, to := range map[string]string{"itself": "aaa", "the root": "/", "above": "..", "a device": "/dev/zero", "the processes": "/proc/self/cwd"} {
		all = append(all,
			site.Forgery{Name: "link to " + what, Harmless: true, Do: func(f *site.Forger) { f.Insert(f.Link("aaa", to)) }},
			site.Forgery{Name: "file behind a link to " + what, Do: func(f *site.Forger) { f.Insert(f.Link("aaa", to), f.File("aaa/evil")) }},
			site.Forgery{Name: "directory behind a link to " + what, Do: func(f *site.Forger) { f.Insert(f.Link("aaa", to), f.Dir("aaa/evil")) }})
	}
	// What pgobj itself writes at the end must not go through a link that the manifest made.
	for _, name := range []string{"pgobj-restore-incomplete", "pgobj-restore-incomplete.pgobj", "tablespace_map", "backup_label", "recovery.signal.pgobj", "global/pg_control.pgobj-before", "postmaster.pid"} {
		all = append(all, site.Forgery{Name: name + " is a link", Harmless: true, Do: func(f *site.Forger) {
			f.Drop(name)
			f.Insert(f.Link(name, f.Victim+"/precious"))
		}})
	}
	for _, name := range []string{"base/1", "pg_wal", "pg_wal/archive_status", "pg_tblspc", "pg_xact"} {
		all = append(all, site.Forgery{Name: name + " is a link", Do: func(f *site.Forger) {
			l := f.Link(name, f.Victim)
			if i := slices.IndexFunc(f.Lines, func(l manifest.File) bool { return l.RawPath() == name }); i >= 0 {
				f.Lines[i] = l
			}
			if name == "pg_wal" || name == "pg_tblspc" || name == "pg_wal/archive_status" {
				f.Insert(f.File(name + "/evil"))
			}
		}})
	}
	return all
}

// hostileLines are lines that lie about sizes and places, or are no lines.
func hostileLines() (all []site.Forgery) {
	add := func(name string, do func(f *site.Forger)) { all = append(all, site.Forgery{Name: name, Do: do}) }
	for _, n := range []int64{-1, math.MinInt64, math.MaxInt64, 1 << 62} {
		add(fmt.Sprintf("size %d", n), func(f *site.Forger) { f.Big().Size = n })
		add(fmt.Sprintf("file goes on at %d", n), func(f *site.Forger) { f.Big().At = n })
		add(fmt.Sprintf("extent at %d", n), func(f *site.Forger) { f.Extent().At = n })
		add(fmt.Sprintf("frame at %d", n), func(f *site.Forger) { f.Extent().Off = n })
		add(fmt.Sprintf("%d bytes of content", n), func(f *site.Forger) { f.Extent().Len = int(n) })
		add(fmt.Sprintf("%d bytes in the frame are passed over", n), func(f *site.Forger) { f.Extent().Skip = int(n) })
		add(fmt.Sprintf("frame of %d bytes", n), func(f *site.Forger) { f.Extent().Size = int(n) })
	}
	add("frame of no bytes", func(f *site.Forger) { f.Extent().Size = 0 })
	add("no extents", func(f *site.Forger) { f.Chunk().Extents = nil })
	add("a chunk too many", func(f *site.Forger) { l := f.Big(); l.Chunks = append(l.Chunks, l.Chunks[0]) })
	add("a chunk too few", func(f *site.Forger) { l := f.Big(); l.Chunks = l.Chunks[1:] })
	add("a gap between extents", func(f *site.Forger) {
		c := f.Chunk()
		a, b := c.Extents[0], c.Extents[0]
		a.Len /= 2
		b.At, b.Len = a.At+int64(a.Len)+1, b.Len-a.Len-1
		c.Extents = []manifest.Extent{a, b}
	})
	add("extents in the wrong order", func(f *site.Forger) {
		c := f.Chunk()
		a, b := c.Extents[0], c.Extents[0]
		a.Len /= 2
		b.At, b.Len = a.At+int64(a.Len), b.Len-a.Len
		c.Extents = []manifest.Extent{b, a}
	})
	add("a frame is described in two ways", func(f *site.Forger) {
		c := f.Chunk()
		a, b := c.Extents[0], c.Extents[0]
		a.Len /= 2
		b.At, b.Len, b.Skip, b.Size = a.At+int64(a.Len), b.Len-a.Len, a.Len, b.Size-1
		c.Extents = []manifest.Extent{a, b}
	})
	add("frames overlap", func(f *site.Forger) {
		c := f.Chunk()
		a, b := c.Extents[0], c.Extents[0]
		a.Len /= 2
		b.At, b.Len, b.Off = a.At+int64(a.Len), b.Len-a.Len, b.Off+1
		c.Extents = []manifest.Extent{a, b}
	})
	add("pages put together have another hash", func(f *site.Forger) {
		c := f.Chunk()
		a, b := c.Extents[0], c.Extents[0]
		a.Len = 8192
		b.At, b.Len = a.At+8192, b.Len-8192
		c.Extents = []manifest.Extent{a, b}
	})
	for what, name := range map[string]string{
		"no number": "evil.tar.zst", "a short number": "1.tar.zst", "a negative number": "-0001.tar.zst", "too high a number": "99999999999999999999.tar.zst",
		"no compression": "00001.tar", "another compression": "00001.tar.gz", "a directory": "a/00001.tar.zst", "up": "../../00001.tar.zst", "that is not there": "77777.tar.zst", "of no backup": "",
	} {
		add("part with "+what, func(f *site.Forger) { f.Extent().Part = f.Id + "/" + name })
	}
	add("part of another compression", func(f *site.Forger) {
		x := f.Extent()
		data := site.ReadFile(f.T, f.Repo+"/main/parts/"+x.Part)
		x.Part = strings.TrimSuffix(x.Part, ".zst") + ".lz4"
		site.PutFile(f.T, f.Repo+"/main/parts/"+x.Part, data)
	})
	for what, stored := range map[string]func(t *testing.T) []byte{
		"of nothing":         func(*testing.T) []byte { return []byte{0} },
		"of garbage":         func(*testing.T) []byte { return bytes.Repeat([]byte("garbage "), 1000) },
		"with a huge window": func(*testing.T) []byte { return []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0x01, 0x00, 0x00} },
		"that says 2^60": func(*testing.T) []byte {
			return append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0}, 0, 0, 0, 0, 0, 0, 0, 0x10, 1, 0, 0)
		},
		"of a skippable one":  func(*testing.T) []byte { return []byte{0x50, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0x7f} },
		"with a dictionary":   func(*testing.T) []byte { return []byte{0x28, 0xb5, 0x2f, 0xfd, 0x03, 0x00, 1, 2, 3, 4, 1, 0, 0} },
		"cut in the middle":   func(t *testing.T) []byte { return site.Compress(t, bytes.Repeat([]byte("x"), 1<<20))[:20] },
		"of many empty ones":  func(t *testing.T) []byte { return bytes.Repeat(site.Compress(t, nil), 50_000) },
		"of two":              func(t *testing.T) []byte { c := site.Compress(t, make([]byte, 1<<20)); return slices.Concat(c, c, c) },
		"of less than wanted": func(t *testing.T) []byte { return site.Compress(t, []byte("little")) },
	} {
		add("frame "+what, func(f *site.Forger) {
			x := f.Extent()
			b := f.Object(stored(f.T), x.Len)
			x.Part, x.Off, x.Size, x.SHA256, x.Skip = b.Part, 0, b.Size, b.SHA256, 0
		})
	}
	add("frame that expands without end, lz4", func(f *site.Forger) {
		x := f.Extent()
		b := f.Object(lz4Bomb(), x.Len)
		name := strings.TrimSuffix(b.Part, ".zst") + ".lz4"
		site.PutFile(f.T, f.Repo+"/main/parts/"+name, lz4Bomb())
		x.Part, x.Off, x.Size, x.SHA256, x.Skip = name, 0, b.Size, b.SHA256, 0
	})
	for what, mode := range map[string]manifest.Mode{"set-user-id": 0o4755, "set-group-id": 0o2755, "sticky": 0o1777} {
		add("directory with mode "+what, func(f *site.Forger) { f.Find("base").Mode = mode })
		add("file with mode "+what, func(f *site.Forger) { f.Find("PG_VERSION").Mode = mode })
	}
	for what, line := range map[string]string{
		"of no type":            `{"path":"aaa","mode":"0600"}`,
		"of a device":           `{"path":"aaa","type":"char","mode":"0600"}`,
		"of a pipe":             `{"path":"aaa","type":"fifo","mode":"0600"}`,
		"of a socket":           `{"path":"aaa","type":"socket"}`,
		"with a mode in words":  `{"path":"aaa","type":"dir","mode":"rwx"}`,
		"with a decimal mode":   `{"path":"aaa","type":"dir","mode":384}`,
		"with too high a mode":  `{"path":"aaa","type":"dir","mode":"77777"}`,
		"with half a byte":      `{"path_hex":"2e2","type":"dir"}`,
		"with a number as path": `{"path":7,"type":"dir"}`,
		"that is a list":        `[]`,
		"that is nothing":       ``,
		"that is null":          `null`,
		"of two objects":        `{"path":"aaa","type":"dir"} {"path":"bbb","type":"dir"}`,
		"with a huge number":    `{"path":"aaa","type":"file","size":1e400}`,
		"with a bad time":       `{"path":"aaa","type":"dir","mtime":"9999999-01-01"}`,
		"with chunks of a dir":  `{"path":"aaa","type":"dir","chunks":[{"extents":[]}]}`,
		"of a link with chunks": `{"path":"aaa","type":"link","link":"x","chunks":[{"extents":[]}]}`,
		"out of order":          `{"path":"PG_VERSION","type":"dir"}`,
		"of the root again":     `{"path":".","type":"dir","mode":"0700"}`,
	} {
		add("line "+what, func(f *site.Forger) { f.Raw = []string{line} })
	}
	add("file goes on without a beginning", func(f *site.Forger) {
		l := f.File("aaa")
		l.At, l.Size = 256<<20, 256<<20+l.Size
		l.Chunks[0].Extents[0].At = l.At
		f.Insert(l)
	})
	add("lines after the last", func(f *site.Forger) {
		f.Raw = make([]string, 0, 20_000)
		for i := range 20_000 {
			f.Raw = append(f.Raw, fmt.Sprintf(`{"path":"zz%06d","type":"dir","mode":"0700"}`, i))
		}
	})
	return all
}

// lz4Bomb is a frame of blocks that each expand 200-fold.
func lz4Bomb() []byte {
	frame := []byte{0x04, 0x22, 0x4d, 0x18, 0x40, 0x70, 0xdf}
	block := append([]byte{0x1f, 0, 1, 0}, bytes.Repeat([]byte{0xff}, 16_000)...)
	block = append(block, 0, 0x50, 1, 2, 3, 4, 5)
	for range 50 {
		frame = append(frame, byte(len(block)), byte(len(block)>>8), byte(len(block)>>16), 0)
		frame = append(frame, block...)
	}
	return append(frame, 0, 0, 0, 0)
}

// expanding is a zstd stream that expands to so many megabytes of one byte.
func expanding(t testing.TB, head string, b byte, megabytes int, tail string) []byte {
	t.Helper()
	var out bytes.Buffer
	enc, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	same := bytes.Repeat([]byte{b}, 1<<20)
	_, err = enc.Write([]byte(head))
	for range megabytes {
		if err == nil {
			_, err = enc.Write(same)
		}
	}
	if err == nil {
		_, err = enc.Write([]byte(tail))
	}
	if err == nil {
		err = enc.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// hostileLists are lists of sections, which stand for the manifest.
func hostileLists() (all []site.Forgery) {
	header := func(f *site.Forger) string {
		return fmt.Sprintf(`{"format":"pgobj manifest","version":1,"backup":%q}`+"\n", f.Id)
	}
	add := func(name string, list func(f *site.Forger) []byte) {
		all = append(all, site.Forgery{Name: "list " + name, Do: func(f *site.Forger) { f.List = list(f) }})
	}
	text := func(name string, list func(f *site.Forger) string) {
		add(name, func(f *site.Forger) []byte { return site.Compress(f.T, []byte(list(f))) })
	}
	text("of nothing", func(*site.Forger) string { return "" })
	text("of another format", func(f *site.Forger) string { return strings.Replace(header(f), "pgobj manifest", "manifest", 1) })
	text("of another backup", func(f *site.Forger) string { return strings.Replace(header(f), f.Id, "20200101T000000Z-0000", 1) })
	text("without an end", header)
	text("that goes on after its end", func(f *site.Forger) string { return header(f) + `{"end":true,"entries":0}` + "\n{}\n" })
	text("of no lines", func(f *site.Forger) string { return header(f) + `{"end":true,"entries":0}` + "\n" })
	text("of lines that are not there", func(f *site.Forger) string { return header(f) + `{"end":true,"entries":1000}` + "\n" })
	text("of fewer than no lines", func(f *site.Forger) string { return header(f) + `{"end":true,"entries":-1}` + "\n" })
	text("with an empty section", func(f *site.Forger) string { return header(f) + "{}\n" + `{"end":true,"entries":0}` + "\n" })
	for what, change := range map[string]func(x *manifest.Extent){
		"that is not there":   func(x *manifest.Extent) { x.Part = strings.Replace(x.Part, "/9", "/8", 1) },
		"up":                  func(x *manifest.Extent) { x.Part = "../../x/00001.tar.zst" },
		"with a gap":          func(x *manifest.Extent) { x.At++ },
		"that is too long":    func(x *manifest.Extent) { x.Len = 1 << 30 },
		"of another hash":     func(x *manifest.Extent) { x.SHA256[0]++ },
		"beyond its frame":    func(x *manifest.Extent) { x.Skip = part.MaxFrame - x.Len },
		"of a huge frame":     func(x *manifest.Extent) { x.Size = 1 << 40 },
		"of a negative place": func(x *manifest.Extent) { x.Off = -5 },
	} {
		text("with a section "+what, func(f *site.Forger) string {
			line := []byte(`{"path":".","type":"dir","mode":"0700"}` + "\n")
			s := manifest.Section{SHA256: part.Sum(line), Extent: f.Object(site.Compress(f.T, line), len(line))}
			change(&s.Extent)
			data, err := json.Marshal(s)
			if err != nil {
				f.T.Fatal(err)
			}
			return header(f) + string(data) + "\n" + `{"end":true,"entries":1}` + "\n"
		})
	}
	text("with a section of other lines", func(f *site.Forger) string {
		line := []byte(`{"path":".","type":"dir","mode":"0700"}` + "\n")
		data, err := json.Marshal(manifest.Section{SHA256: part.Sum([]byte("other")), Extent: f.Object(site.Compress(f.T, line), len(line))})
		if err != nil {
			f.T.Fatal(err)
		}
		return header(f) + string(data) + "\n" + `{"end":true,"entries":1}` + "\n"
	})
	add("that is no zstd", func(*site.Forger) []byte { return []byte("no zstd") })
	add("that is empty", func(*site.Forger) []byte { return []byte{} })
	add("that expands to 100 GB of blanks", func(f *site.Forger) []byte {
		return expanding(f.T, header(f), ' ', 100_000/20, `{"end":true,"entries":0}`)
	})
	add("with a string of 400 MB", func(f *site.Forger) []byte { return expanding(f.T, `{"format":"`, 'x', 400, `"}`) })
	add("with a number of 400 MB", func(f *site.Forger) []byte { return expanding(f.T, header(f)+`{"end":true,"entries":`, '1', 400, "}") })
	add("of arrays in arrays", func(f *site.Forger) []byte { return expanding(f.T, header(f), '[', 100, "") })
	half := func(f *site.Forger) []byte {
		var b strings.Builder
		b.WriteString(header(f))
		x := f.Object(site.Compress(f.T, []byte("x")), 1)
		for i := range 500_000 {
			x.At = int64(i)
			fmt.Fprintf(&b, `{"sha256":"%s","extent":{"at":%d,"len":1,"part":%q,"off":0,"size":%d,"sha256":"%s","skip":0}}`+"\n", x.SHA256, i, x.Part, x.Size, x.SHA256)
		}
		return site.Compress(f.T, []byte(b.String()))
	}
	all = append(all, site.Forgery{Name: "list of half a million sections", Slow: true, Do: func(f *site.Forger) { f.List = half(f) }})
	all = append(all, site.Forgery{Name: "list of a newer version", Code: 12, Do: func(f *site.Forger) {
		f.List = site.Compress(f.T, []byte(strings.Replace(header(f), `"version":1`, `"version":2`, 1)))
	}})
	return all
}
