package test

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/test/testenv"
)

// sealed is an object as the catalog seals it.
func sealed(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	body := deepen(data[:len(data)-1])
	return fmt.Appendf(nil, `%s,"self":"%x"}`, body, sha256.Sum256(body))
}

// object is JSON whose numbers stay as they are.
type object = map[string]any

func decodeObject(t testing.TB, data []byte) (m object) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(&m); err != nil {
		t.Fatal(err)
	}
	return m
}

// rechain writes the whole log anew, after edit, with all hashes right again.
func rechain(t testing.TB, repo string, edit func(record object)) {
	t.Helper()
	records, err := filepath.Glob(filepath.Join(repo, "main/catalog/log/*.json"))
	if err != nil {
		t.Fatal(err)
	}
	prev := ""
	for _, path := range records {
		r := decodeObject(t, readFile(t, path))
		delete(r, "self")
		if prev != "" {
			r["prev"] = prev
		}
		edit(r)
		data := sealed(t, r)
		prev = fmt.Sprintf("%x", sha256.Sum256(data))
		replace(t, path, data)
	}
}

// replace writes a file anew, under a new inode.
func replace(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	putFile(t, path, data)
}

// forger makes a backup whose hashes are all right and whose content means harm.
type forger struct {
	t        *testing.T
	repo, id string
	victim   string // a folder of somebody else's
	lines    []manifest.File
	raw      []string // further lines, as they are
	list     []byte   // in place of the list of sections that follows from the lines
	backup   func(*catalog.Backup)
	json     func(object) // the same, for what does not fit into the type
	bytes    []byte       // in place of backup.json
	record   func(object) // each record of the log
	last     func()       // when all is written
	objects  int
}

// object stores bytes as a frame of a part of its own, and returns an extent of all that it expands to.
func (f *forger) object(stored []byte, expanded int) manifest.Extent {
	f.t.Helper()
	f.objects++
	name := part.Name(f.id, 90000+f.objects, part.Default)
	putFile(f.t, filepath.Join(f.repo, "main/parts", name), stored)
	return manifest.Extent{Len: expanded, Part: name, Size: len(stored), SHA256: part.Sum(stored)}
}

func compress(t *testing.T, data []byte) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return enc.EncodeAll(data, nil)
}

// store writes manifest, backup.json and commit record.
func (f *forger) store() {
	f.t.Helper()
	var sections []manifest.Section
	var section bytes.Buffer
	at, entries := int64(0), int64(0)
	end := func() {
		if section.Len() == 0 {
			return
		}
		x := f.object(compress(f.t, section.Bytes()), section.Len())
		x.At = at
		at += int64(section.Len())
		sections = append(sections, manifest.Section{SHA256: part.Sum(section.Bytes()), Extent: x})
		section.Reset()
	}
	add := func(line []byte) {
		if section.Len()+len(line)+1 > part.ChunkSize {
			end()
		}
		for len(line) > part.ChunkSize-1 { // a line of many sections
			section.Write(line[:part.ChunkSize])
			line = line[part.ChunkSize:]
			end()
		}
		section.Write(line)
		section.WriteByte('\n')
		entries++
	}
	for _, l := range f.lines {
		line, err := json.Marshal(l)
		if err != nil {
			f.t.Fatal(err)
		}
		add(line)
	}
	for _, l := range f.raw {
		add([]byte(l))
	}
	end()
	list, err := manifest.WriteList(f.id, sections, entries)
	if err != nil {
		f.t.Fatal(err)
	}
	if f.list != nil {
		list = f.list
	}
	replace(f.t, manifestPath(f.repo, f.id), list)
	f.describe(list)
	if f.last != nil {
		f.last()
	}
}

// describe writes backup.json and the log.
func (f *forger) describe(list []byte) {
	f.t.Helper()
	path := filepath.Join(f.repo, "main/backups", f.id, "backup.json")
	var b catalog.Backup
	if err := json.Unmarshal(readFile(f.t, path), &b); err != nil {
		f.t.Fatal(err)
	}
	b.Manifest = catalog.Object{Size: int64(len(list)), SHA256: fmt.Sprintf("%x", sha256.Sum256(list))}
	b.Size, b.Files = 0, 0
	for _, l := range f.lines { // so that it is not the sum that is wrong
		if l.Type == manifest.TypeFile && l.At == 0 && 0 <= l.Size && l.Size < 1<<30 {
			b.Size += l.Size
			b.Files++
		}
	}
	if f.backup != nil {
		f.backup(&b)
	}
	data, err := json.Marshal(b)
	if err != nil {
		f.t.Fatal(err)
	}
	if f.json != nil {
		m := decodeObject(f.t, data)
		f.json(m)
		if data, err = json.Marshal(m); err != nil {
			f.t.Fatal(err)
		}
		data = deepen(data)
	}
	if f.bytes != nil {
		data = f.bytes
	}
	replace(f.t, path, data)
	rechain(f.t, f.repo, func(r object) {
		if commit, ok := r["commit"].(object); ok && commit["backup"] == f.id {
			commit["sha256"] = fmt.Sprintf("%x", sha256.Sum256(data))
		}
		if f.record != nil {
			f.record(r)
		}
	})
}

// insert puts lines where their path belongs.
func (f *forger) insert(files ...manifest.File) {
	for _, n := range files {
		i := slices.IndexFunc(f.lines, func(l manifest.File) bool {
			return slices.Contains(manifest.Tail, l.RawPath()) || l.RawPath() != "." && l.RawPath() >= n.RawPath()
		})
		f.lines = slices.Insert(f.lines, i, n)
	}
}

func (f *forger) file(path string) manifest.File {
	content := []byte("written by a forged backup")
	x := f.object(compress(f.t, content), len(content))
	return manifest.File{Path: path, Type: manifest.TypeFile, Mode: 0o600, Mtime: time.Now(), Size: int64(len(content)),
		Chunks: []manifest.Chunk{{SHA256: part.Sum(content), Extents: []manifest.Extent{x}}}}
}

func (f *forger) dir(path string) manifest.File {
	return manifest.File{Path: path, Type: manifest.TypeDir, Mode: 0o777}
}

func (f *forger) link(path, to string) manifest.File {
	return manifest.File{Path: path, Type: manifest.TypeLink, Link: to}
}

// big is the line of a relation file of many chunks, to be spoiled.
func (f *forger) big() *manifest.File {
	for i, l := range f.lines {
		if len(l.Chunks) > 0 && l.Size >= 500_000 {
			return &f.lines[i]
		}
	}
	f.t.Fatal("no large file in the backup")
	return nil
}

func (f *forger) extent() *manifest.Extent { return &f.big().Chunks[0].Extents[0] }

func (f *forger) find(path string) *manifest.File {
	i := slices.IndexFunc(f.lines, func(l manifest.File) bool { return l.RawPath() == path })
	if i < 0 {
		f.t.Fatalf("no %s in the manifest", path)
	}
	return &f.lines[i]
}

func (f *forger) drop(prefix string) {
	f.lines = slices.DeleteFunc(f.lines, func(l manifest.File) bool {
		return l.RawPath() == prefix || strings.HasPrefix(l.RawPath(), prefix+"/")
	})
}

// forgery is one thing that somebody may do to a repository.
type forgery struct {
	name     string
	do       func(f *forger)
	args     []string // more of backup-fetch; $VICTIM stands for the victim's folder
	code     int      // 0: 8, the repository is damaged
	says     string   // what the message has to name; "": the backup
	harmless bool     // may be restored, as long as nothing outside is touched
	slow     bool     // to make, for the long form
}

var forgeries = []forgery{
	{name: "path up", do: func(f *forger) { f.insert(f.file("../evil")) }},
	{name: "path up within", do: func(f *forger) { f.insert(f.file("base/../../evil")) }},
	{name: "absolute path", do: func(f *forger) { f.insert(f.file(f.victim + "/evil")) }},
	{name: "path up, in hexadecimal", do: func(f *forger) {
		l := f.file("")
		l.Hex = hex.EncodeToString([]byte("../evil"))
		f.insert(l)
	}},
	{name: "path with a zero byte", do: func(f *forger) { f.insert(f.file("a\x00b")) }},
	{name: "empty path", do: func(f *forger) { f.lines = slices.Insert(f.lines, 1, f.file("")) }},
	{name: "folder up", do: func(f *forger) { f.insert(f.dir("../evil")) }},
	{name: "file behind a link", do: func(f *forger) { f.insert(f.link("aaa", f.victim), f.file("aaa/evil")) }},
	{name: "file behind a relative link", do: func(f *forger) { f.insert(f.link("aaa", "../victim"), f.file("aaa/evil")) }},
	{name: "file over what a link leads to", do: func(f *forger) { f.insert(f.link("aaa", f.victim), f.file("aaa/precious")) }},
	{name: "folder behind a link", do: func(f *forger) { f.insert(f.link("aaa", f.victim), f.dir("aaa/evil")) }},
	{name: "link behind a link", do: func(f *forger) { f.insert(f.link("aaa", f.victim), f.link("aaa/evil", "/")) }},
	{name: "two links", do: func(f *forger) { f.insert(f.link("aaa", "aab"), f.link("aab", f.victim), f.file("aaa/evil")) }},
	{name: "a folder is a link", do: func(f *forger) { *f.find("base") = f.link("base", f.victim) }},
	{name: "global is a link", do: func(f *forger) { *f.find("global") = f.link("global", f.victim) }},
	{name: "folder and link of one name", do: func(f *forger) { f.insert(f.dir("aaa"), f.link("aaa", f.victim)) }},
	{name: "link and folder of one name", do: func(f *forger) { f.insert(f.link("aaa", f.victim), f.dir("aaa")) }},
	{name: "file of one name twice", do: func(f *forger) { f.insert(f.file("aaa"), f.file("aaa")) }},
	{name: "pg_control is a link", harmless: true, do: func(f *forger) { *f.find("global/pg_control") = f.link("global/pg_control", f.victim+"/precious") }},
	{name: "pg_control's temporary name is a link", do: func(f *forger) {
		f.insert(f.link("global/pg_control.pgobj-restoring", f.victim+"/precious"))
	}},
	{name: "no pg_control", do: func(f *forger) { f.drop("global/pg_control") }},
	{name: "auto.conf is a link", do: func(f *forger) {
		*f.find("postgresql.auto.conf") = f.link("postgresql.auto.conf", f.victim+"/precious")
	}},
	{name: "auto.conf's temporary name is a link", do: func(f *forger) { f.insert(f.link("postgresql.auto.conf.pgobj", f.victim+"/precious")) }},
	{name: "recovery.signal is a link", harmless: true, do: func(f *forger) { f.insert(f.link("recovery.signal", f.victim+"/precious")) }},
	{name: "tablespace that is not listed", code: exitTarget, says: "tablespace 99999", do: func(f *forger) { f.insert(f.link("pg_tblspc/99999", f.victim)) }},
	{name: "file in a tablespace that is not listed", code: exitTarget, says: "tablespace 99999", do: func(f *forger) {
		f.insert(f.link("pg_tblspc/99999", f.victim), f.file("pg_tblspc/99999/evil"))
	}},
	{name: "file beside a tablespace's folder", code: exitTarget, says: "tablespace evil", do: func(f *forger) {
		f.insert(f.link("pg_tblspc/99999", f.victim), f.file("pg_tblspc/99999/evil"))
		f.backup = func(b *catalog.Backup) {
			b.Tablespaces = append(b.Tablespaces, catalog.Tablespace{OID: 99999, Name: "evil", Location: f.victim})
		}
	}},
	{name: "relative tablespace", do: func(f *forger) {
		f.backup = func(b *catalog.Backup) {
			b.Tablespaces = append(b.Tablespaces, catalog.Tablespace{OID: 99999, Name: "evil", Location: "../victim"})
		}
	}},
	{name: "set-id file", do: func(f *forger) { f.find("PG_VERSION").Mode = 0o4755 }},
	{name: "device", do: func(f *forger) { f.insert(manifest.File{Path: "aaa", Type: "device"}) }},
	{name: "root is a link", do: func(f *forger) { f.lines[0] = f.link(".", f.victim) }},
	{name: "extent before the part", do: func(f *forger) { f.extent().Off = -1 }},
	{name: "extent behind the part", do: func(f *forger) { f.extent().Off = 1 << 40 }},
	{name: "extent before the file", do: func(f *forger) { f.extent().At = -8192 }},
	{name: "extent behind the file", do: func(f *forger) { f.extent().At = 1 << 30 }},
	{name: "extent longer than its chunk", do: func(f *forger) { f.extent().Len = 1<<20 + 1 }},
	{name: "extent of nothing", do: func(f *forger) { f.extent().Len = 0 }},
	{name: "extent outside its frame", do: func(f *forger) { f.extent().Skip = part.MaxFrame - f.extent().Len }},
	{name: "huge frame", do: func(f *forger) { f.extent().Size = 1 << 40 }},
	{name: "part of another name", do: func(f *forger) { f.extent().Part = "../../../../etc/passwd" }},
	{name: "extents overlap", do: func(f *forger) {
		c := &f.big().Chunks[0]
		c.Extents = append(c.Extents, c.Extents[0])
	}},
	{name: "file is larger than its chunks", do: func(f *forger) { f.big().Size = 1 << 50 }},
	{name: "more data than the backup says", do: func(f *forger) { // 2 GB of the same chunk
		f.backup = func(b *catalog.Backup) { b.Size = 24 << 20 }
		x := f.object(compress(f.t, make([]byte, part.ChunkSize)), part.ChunkSize)
		for n := range 8 {
			l := manifest.File{Path: fmt.Sprintf("aaa%d", n), Type: manifest.TypeFile, Mode: 0o600, Size: manifest.MaxFileChunks * part.ChunkSize}
			for i := range manifest.MaxFileChunks {
				x.At = int64(i) * part.ChunkSize
				l.Chunks = append(l.Chunks, manifest.Chunk{Extents: []manifest.Extent{x}})
			}
			f.insert(l)
		}
	}},
	{name: "frame that expands without end", do: func(f *forger) {
		var bomb bytes.Buffer
		enc, err := zstd.NewWriter(&bomb, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
		if err != nil {
			f.t.Fatal(err)
		}
		for zero := make([]byte, 1<<20); bomb.Len() < 100_000; {
			if _, err := enc.Write(zero); err != nil {
				f.t.Fatal(err)
			}
		}
		if err := enc.Close(); err != nil {
			f.t.Fatal(err)
		}
		x, b := f.extent(), f.object(bomb.Bytes(), f.extent().Len)
		x.Part, x.Off, x.Size, x.SHA256, x.Skip = b.Part, 0, b.Size, b.SHA256, 0
	}},
	{name: "line without end", do: func(f *forger) { f.raw = []string{`{"path":"` + strings.Repeat("a", 64<<20)} }},
	{name: "deep line", do: func(f *forger) { f.raw = []string{strings.Repeat(`{"a":`, 150_000)} }},
	{name: "no JSON", do: func(f *forger) { f.raw = []string{"evil"} }},
}

// What a forged backup says never leads outside of the target. All its hashes hold: somebody who can write to
// the repository has made it.
func TestHostileBackups(t *testing.T) {
	t.Parallel()
	rig := newFolderRig(t)
	id := rig.push(t)
	lines := readManifest(t, rig.repo, id)
	all := slices.Concat(forgeries, hostilePaths(), hostileLines(), hostileLists(), hostileDescriptions(), hostileRecords())
	tried := 0
	for _, c := range all {
		if c.slow && !torture() {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			f := &forger{t: t, repo: copyRepo(t, rig.repo), id: id, lines: cloneLines(t, lines)}
			rig.tryForgery(t, c, f)
			tried++
		})
	}
	if t.Logf("%d forged repositories", tried); len(all) < 400 {
		t.Errorf("there are only %d", len(all))
	}
	// The forger's tools themselves make a backup that is restored, so it is not they that are refused.
	f := &forger{t: t, repo: copyRepo(t, rig.repo), id: id, lines: cloneLines(t, lines)}
	f.store()
	if o := execute(t, rig.command(fromFolder(f.repo), "backup-fetch", filepath.Join(testenv.Dir(t), "data"), id), nil); o.code != 0 {
		t.Error(o)
	}
}

// tryForgery restores a forged backup beside somebody else's folder.
func (r *faultRig) tryForgery(t *testing.T, c forgery, f *forger) {
	place := testenv.Dir(t)
	target, victim := filepath.Join(place, "data"), filepath.Join(place, "victim")
	mkdir(t, victim, 0o755, -1)
	putFile(t, filepath.Join(victim, "precious"), []byte("somebody else's"))
	before := tree(t, victim)
	f.victim = victim
	c.do(f)
	f.store()
	args := []string{"backup-fetch", "-j2", target, f.id}
	for _, a := range c.args {
		args = append(args, strings.ReplaceAll(a, "$VICTIM", victim))
	}
	// Who wants more than this crashes, which is seen.
	cmd := r.program(fromFolder(f.repo), "sh", append([]string{"-c", fmt.Sprintf(`ulimit -d %d; exec "$0" "$@"`, memoryLimit>>10), r.pgobj}, args...)...)
	cmd.Dir = place
	o := execute(t, cmd, nil)
	if o.code == 0 && !c.harmless {
		t.Errorf("it was restored: %v", o)
	}
	message := strings.SplitN(o.err[max(0, strings.Index(o.err, "ERROR:")):], "\nHINT", 2)[0]
	if o.code != 0 {
		checkNoControl(t, target)
		t.Logf("%d %.300s", o.code, message)
		if want := cmp.Or(c.code, exitDamaged); o.code != want {
			t.Errorf("exit code %d, want %d: %v", o.code, want, o)
		}
		if says := cmp.Or(c.says, f.id); !strings.Contains(message, says) {
			t.Errorf("the message does not name %s: %s", says, message)
		}
	}
	if o.code == 0 && !strings.Contains(o.err, c.says) {
		t.Errorf("it does not warn of %s: %v", c.says, o)
	}
	if len(message) > 3500 {
		t.Errorf("the message has %d characters", len(message))
	}
	if strings.Contains(o.err, "goroutine ") {
		t.Errorf("it panicked: %v", o)
	}
	if d := differences(before, tree(t, victim)); d != nil {
		t.Errorf("outside of the target: %v", d)
	}
	names, err := os.ReadDir(place)
	for _, n := range names {
		if n.Name() != "victim" && !strings.HasPrefix(n.Name(), "data") {
			t.Errorf("beside the target there is %s", n.Name())
		}
	}
	if err != nil {
		t.Error(err)
	}
}

// memoryLimit is how much writable memory a restore of a forged backup may map. Go's runtime maps 64 MB at a time.
const memoryLimit = 384 << 20

func cloneLines(t *testing.T, lines []manifest.File) (out []manifest.File) {
	t.Helper()
	data, err := json.Marshal(lines)
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sha(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }
