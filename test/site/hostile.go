package site

import (
	"bytes"
	"cmp"
	"crypto/sha256"
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
	"github.com/pgobj/pgobj/storage/codec"
	"github.com/pgobj/pgobj/test/testenv"
)

// Sealed is an object as the catalog seals it.
func Sealed(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	body := deepen(data[:len(data)-1])
	return fmt.Appendf(nil, `%s,"self":"%x"}`, body, sha256.Sum256(body))
}

// Object is JSON whose numbers stay as they are.
type Object = map[string]any

func decodeObject(t testing.TB, data []byte) (m Object) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(&m); err != nil {
		t.Fatal(err)
	}
	return m
}

// rechain writes the whole log again, after edit, with all hashes right again.
func rechain(t testing.TB, repo string, edit func(record Object)) {
	t.Helper()
	records, err := filepath.Glob(filepath.Join(repo, "main/catalog/log/*.json"))
	if err != nil {
		t.Fatal(err)
	}
	prev := ""
	for _, path := range records {
		r := decodeObject(t, ReadFile(t, path))
		delete(r, "self")
		if prev != "" {
			r["prev"] = prev
		}
		edit(r)
		data := Sealed(t, r)
		prev = fmt.Sprintf("%x", sha256.Sum256(data))
		Replace(t, path, data)
	}
}

// Replace writes a file again, under a new inode.
func Replace(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	PutFile(t, path, data)
}

// Forger makes a backup whose hashes are all right and whose content means harm.
type Forger struct {
	T        *testing.T
	Repo, Id string
	Victim   string // a directory of somebody else's
	Lines    []manifest.File
	Raw      []string // further lines, as they are
	List     []byte   // in place of the list of sections that follows from the lines
	Backup   func(*catalog.Backup)
	Json     func(Object) // the same, for what does not fit into the type
	Bytes    []byte       // in place of backup.json
	Record   func(Object) // each record of the log
	Last     func()       // when all is written
	objects  int
}

// Object stores bytes as a frame of a part of its own, and returns an extent of all that it expands to.
func (f *Forger) Object(stored []byte, expanded int) manifest.Extent {
	f.T.Helper()
	f.objects++
	name := part.Name(f.Id, 90000+f.objects, codec.Default)
	PutFile(f.T, filepath.Join(f.Repo, "main/parts", name), stored)
	return manifest.Extent{Len: expanded, Part: name, Size: len(stored), SHA256: part.Sum(stored)}
}

func Compress(t *testing.T, data []byte) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return enc.EncodeAll(data, nil)
}

// Store writes manifest, backup.json and commit record.
func (f *Forger) Store() {
	f.T.Helper()
	var sections []manifest.Section
	var section bytes.Buffer
	at, entries := int64(0), int64(0)
	end := func() {
		if section.Len() == 0 {
			return
		}
		x := f.Object(Compress(f.T, section.Bytes()), section.Len())
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
	for _, l := range f.Lines {
		line, err := json.Marshal(l)
		if err != nil {
			f.T.Fatal(err)
		}
		add(line)
	}
	for _, l := range f.Raw {
		add([]byte(l))
	}
	end()
	list, err := manifest.WriteList(f.Id, sections, entries)
	if err != nil {
		f.T.Fatal(err)
	}
	if f.List != nil {
		list = f.List
	}
	Replace(f.T, manifestPath(f.Repo, f.Id), list)
	f.describe(list)
	if f.Last != nil {
		f.Last()
	}
}

// describe writes backup.json and the log.
func (f *Forger) describe(list []byte) {
	f.T.Helper()
	path := filepath.Join(f.Repo, "main/backups", f.Id, "backup.json")
	var b catalog.Backup
	if err := json.Unmarshal(ReadFile(f.T, path), &b); err != nil {
		f.T.Fatal(err)
	}
	b.Manifest = catalog.Object{Size: int64(len(list)), SHA256: fmt.Sprintf("%x", sha256.Sum256(list))}
	b.Size, b.Files = 0, 0
	for _, l := range f.Lines { // so that it is not the sum that is wrong
		if l.Type == manifest.TypeFile && l.At == 0 && 0 <= l.Size && l.Size < 1<<30 {
			b.Size += l.Size
			b.Files++
		}
	}
	if f.Backup != nil {
		f.Backup(&b)
	}
	data, err := json.Marshal(b)
	if err != nil {
		f.T.Fatal(err)
	}
	if f.Json != nil {
		m := decodeObject(f.T, data)
		f.Json(m)
		if data, err = json.Marshal(m); err != nil {
			f.T.Fatal(err)
		}
		data = deepen(data)
	}
	if f.Bytes != nil {
		data = f.Bytes
	}
	Replace(f.T, path, data)
	rechain(f.T, f.Repo, func(r Object) {
		if commit, ok := r["commit"].(Object); ok && commit["backup"] == f.Id {
			commit["sha256"] = fmt.Sprintf("%x", sha256.Sum256(data))
		}
		if f.Record != nil {
			f.Record(r)
		}
	})
}

// Insert puts lines where their path belongs.
func (f *Forger) Insert(files ...manifest.File) {
	for _, n := range files {
		i := slices.IndexFunc(f.Lines, func(l manifest.File) bool {
			return slices.Contains(manifest.Tail, l.RawPath()) || l.RawPath() != "." && l.RawPath() >= n.RawPath()
		})
		f.Lines = slices.Insert(f.Lines, i, n)
	}
}

func (f *Forger) File(path string) manifest.File {
	content := []byte("written by a forged backup")
	x := f.Object(Compress(f.T, content), len(content))
	return manifest.File{Path: path, Type: manifest.TypeFile, Mode: 0o600, Mtime: time.Now(), Size: int64(len(content)),
		Chunks: []manifest.Chunk{{SHA256: part.Sum(content), Extents: []manifest.Extent{x}}}}
}

func (f *Forger) Dir(path string) manifest.File {
	return manifest.File{Path: path, Type: manifest.TypeDir, Mode: 0o777}
}

func (f *Forger) Link(path, to string) manifest.File {
	return manifest.File{Path: path, Type: manifest.TypeLink, Link: to}
}

// Big is the line of a relation file of many chunks, to be spoiled.
func (f *Forger) Big() *manifest.File {
	for i, l := range f.Lines {
		if len(l.Chunks) > 0 && l.Size >= 500_000 {
			return &f.Lines[i]
		}
	}
	f.T.Fatal("no large file in the backup")
	return nil
}

func (f *Forger) Extent() *manifest.Extent { return &f.Big().Chunks[0].Extents[0] }

func (f *Forger) Find(path string) *manifest.File {
	i := slices.IndexFunc(f.Lines, func(l manifest.File) bool { return l.RawPath() == path })
	if i < 0 {
		f.T.Fatalf("no %s in the manifest", path)
	}
	return &f.Lines[i]
}

func (f *Forger) Drop(prefix string) {
	f.Lines = slices.DeleteFunc(f.Lines, func(l manifest.File) bool {
		return l.RawPath() == prefix || strings.HasPrefix(l.RawPath(), prefix+"/")
	})
}

// Forgery is one thing that somebody may do to a repository.
type Forgery struct {
	Name     string
	Do       func(f *Forger)
	Args     []string // more of backup-fetch; $VICTIM stands for the victim's directory
	Code     int      // 0: 8, the repository is damaged
	Kind     string   // of the error; "": any
	Says     string   // what the message has to name; "": the backup, unless there is a Kind
	Harmless bool     // may be restored, as long as nothing outside is touched
	Slow     bool     // to make, for the long form
}

// TryForgery restores a forged backup beside somebody else's directory.
func (r *FaultRig) TryForgery(t *testing.T, c Forgery, f *Forger) {
	place := testenv.Dir(t)
	target, victim := filepath.Join(place, "data"), filepath.Join(place, "victim")
	Mkdir(t, victim, 0o755, -1)
	PutFile(t, filepath.Join(victim, "precious"), []byte("somebody else's"))
	before := Tree(t, victim)
	f.Victim = victim
	c.Do(f)
	f.Store()
	args := []string{"backup-fetch", "-j2", target, f.Id}
	for _, a := range c.Args {
		args = append(args, strings.ReplaceAll(a, "$VICTIM", victim))
	}
	// Who wants more than this crashes, which is seen.
	cmd := r.Program(append(FromDirectory(f.Repo), JSONLog), "sh", append([]string{"-c", fmt.Sprintf(`ulimit -d %d; exec "$0" "$@"`, MemoryLimit>>10), r.Pgobj}, args...)...)
	cmd.Dir = place
	o := Execute(t, cmd, nil)
	if o.Code == 0 && !c.Harmless {
		t.Errorf("it was restored: %v", o)
	}
	failure := o.Failure()
	message := failure.Text + "\n" + failure.Detail
	if o.Code != 0 {
		CheckNoControl(t, target)
		t.Logf("%d %.300s", o.Code, message)
		if want := cmp.Or(c.Code, ExitDamaged); o.Code != want {
			t.Errorf("exit code %d, want %d: %v", o.Code, want, o)
		}
		if c.Kind != "" && failure.Kind != c.Kind {
			t.Errorf("want kind %s: %v", c.Kind, o)
		}
		if says := cmp.Or(c.Says, f.Id); !strings.Contains(message, says) && (c.Kind == "" || c.Says != "") {
			t.Errorf("the message does not name %s: %s", says, message)
		}
	}
	if o.Code == 0 && !strings.Contains(o.Err, c.Says) {
		t.Errorf("it does not warn of %s: %v", c.Says, o)
	}
	if len(message) > 3500 {
		t.Errorf("the message has %d characters", len(message))
	}
	if strings.Contains(o.Err, "goroutine ") {
		t.Errorf("it panicked: %v", o)
	}
	if d := Differences(before, Tree(t, victim)); d != nil {
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

// MemoryLimit is how much writable memory a restore of a forged backup may map. Go's runtime maps 64 MB at a time.
const MemoryLimit = 384 << 20
