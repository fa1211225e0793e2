package site

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage/codec"
	"github.com/pgobj/pgobj/test/testenv"
)

// Change is one way to damage an object; with is another object, for those that need one.
type Change struct {
	Name string
	Do   func(data, with []byte) []byte // nil: the object is removed
}

// Flips change one bit each, at the ends and in between.
func Flips() []Change {
	var out []Change
	for _, at := range []float64{0, 0.25, 0.5, 0.8, 1} {
		out = append(out, Change{fmt.Sprintf("bit flipped at %.0f %%", at*100), func(data, _ []byte) []byte {
			return Flip(data, int(at*float64(len(data)-1)))
		}})
	}
	return out
}

func Flip(data []byte, at int) []byte {
	out := bytes.Clone(data)
	out[at] ^= 1 << (at % 7)
	return out
}

func Losses() []Change {
	return []Change{
		{"cut in half", func(data, _ []byte) []byte { return data[:len(data)/2] }},
		{"last byte cut", func(data, _ []byte) []byte { return data[:len(data)-1] }},
		{"empty", func([]byte, []byte) []byte { return []byte{} }},
		{"replaced by another", func(_, with []byte) []byte { return with }},
		{"missing", func([]byte, []byte) []byte { return nil }},
	}
}

// Damage changes one object of a repository, which shares its files with another one.
func Damage(t testing.TB, repo, key, with string, c Change) {
	t.Helper()
	path := filepath.Join(repo, key)
	var other []byte
	if with != "" {
		other = ReadFile(t, filepath.Join(repo, with))
	}
	data := c.Do(ReadFile(t, path), other)
	if err := os.Remove(path); err != nil { // never in place: the file may have another link
		t.Fatal(err)
	}
	if data != nil {
		PutFile(t, path, data)
	}
}

func ReadFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func PutFile(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := testenv.ChownPostgres(path); err != nil {
		t.Fatal(err)
	}
}

// CopyRepo is a copy of a repository whose objects are links to the same files: nothing is rewritten in place.
func CopyRepo(t testing.TB, repo string) string {
	t.Helper()
	dir := filepath.Join(testenv.Dir(t), "repo")
	if out, err := exec.Command("cp", "-al", repo, dir).CombinedOutput(); err != nil {
		t.Fatalf("copy the repository: %v\n%s", err, out)
	}
	return dir
}

func FromDirectory(repo string) []string { return []string{"PGOBJ_STORAGE=file://" + repo} }

// Refused runs backup-fetch on a damaged repository and checks all that a user may expect then.
func (r *FaultRig) Refused(t *testing.T, env []string, id, key string) {
	t.Helper()
	target := filepath.Join(testenv.Dir(t), "data")
	o := Execute(t, r.Command(env, "backup-fetch", target, id), nil)
	if o.Code != ExitDamaged {
		t.Errorf("backup-fetch %s ended with code %d, want %d: %v", id, o.Code, ExitDamaged, o)
	}
	message := o.Err[max(0, strings.Index(o.Err, "ERROR:")):]
	if !strings.Contains(message, strings.TrimPrefix(key, "main/")) {
		t.Errorf("the message does not name %s: %s", key, message)
	}
	if strings.Contains(message, "to continue") {
		t.Errorf("the same command is to go on, which would meet the same damage: %s", message)
	}
	CheckNoControl(t, target)
}

// partUse is where the bytes of one backup are in a part.
type partUse struct {
	Name   string
	Frames []manifest.Extent // that the backup uses, in the manifest's order
	end    int64             // after the last of them
}

// UsedParts reads the manifest of a backup.
func UsedParts(t testing.TB, repo, id string) []*partUse {
	t.Helper()
	var out []*partUse
	for _, f := range ReadManifest(t, repo, id) {
		for _, c := range f.Chunks {
			for _, x := range c.Extents {
				i := slices.IndexFunc(out, func(p *partUse) bool { return p.Name == x.Part })
				if i < 0 {
					i, out = len(out), append(out, &partUse{Name: x.Part})
				}
				out[i].Frames = append(out[i].Frames, x)
				out[i].end = max(out[i].end, x.Off+int64(x.Size))
			}
		}
	}
	return out
}

func manifestPath(repo, id string) string {
	return filepath.Join(repo, "main", catalog.ManifestKey(id))
}

// ReadManifest reads a manifest as FORMAT.md describes it, with the project's own code for the lines only.
func ReadManifest(t testing.TB, repo, id string) []manifest.File {
	t.Helper()
	sections, entries, err := manifest.ReadList(ReadFile(t, manifestPath(repo, id)), id)
	if err != nil {
		t.Fatal(err)
	}
	dec, err := codec.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	var lines bytes.Buffer
	for _, s := range sections {
		x := s.Extent
		codec, err := part.CodecOf(x.Part)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := dec.Decode(codec, nil, ReadFile(t, filepath.Join(repo, "main/parts", x.Part))[x.Off:][:x.Size], part.MaxFrame)
		if err != nil {
			t.Fatal(err)
		}
		lines.Write(raw[x.Skip:][:x.Len])
	}
	var files []manifest.File
	for r := manifest.NewReader(&lines, id, entries); ; {
		f, err := r.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, *f)
	}
}

var typeOfRecord = regexp.MustCompile(`"type":"([a-z]+)"`)

// RestoredTree is what a restore has to give, but for the files that name the repository and the restore itself.
func RestoredTree(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := Tree(t, dir)
	delete(files, "postgresql.auto.conf")
	delete(files, "pg_wal/pgobj_restore.json") // has the time of the restore
	return files
}

func (r *FaultRig) DamageRecords(t *testing.T, first, second string) {
	names, err := filepath.Glob(filepath.Join(r.Repo, "main/catalog/log/*.json"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i, path := range names {
		key, data := "main/catalog/log/"+filepath.Base(path), ReadFile(t, path)
		kind := string(typeOfRecord.FindSubmatch(data)[1])
		changes := slices.Concat(Flips(), Losses())
		if seen[kind] {
			changes = changes[2:3]
		}
		seen[kind] = true
		if i == len(names)-1 {
			changes = changes[:len(changes)-1] // without the newest record a log is a log: nothing can tell
		}
		for _, c := range changes {
			t.Run(fmt.Sprintf("%d %s %s", i+1, kind, c.Name), func(t *testing.T) {
				repo := CopyRepo(t, r.Repo)
				// A checkpoint that covers the record would stand in for it, and nothing be amiss.
				if err := os.RemoveAll(filepath.Join(repo, "main/catalog/checkpoints")); err != nil {
					t.Fatal(err)
				}
				Damage(t, repo, key, "main/catalog/log/"+filepath.Base(names[(i+1)%len(names)]), c)
				r.Refused(t, FromDirectory(repo), "LATEST", key)
				for _, id := range []string{first, second} {
					if bytes.Contains(data, []byte(id)) && kind == "commit" { // without its begin a backup is as good
						r.Refused(t, FromDirectory(repo), id, key)
						continue
					}
					o := Execute(t, r.Command(FromDirectory(repo), "backup-list"), nil)
					if o.Code != 0 || !strings.Contains(o.Out, id) || !strings.Contains(o.Err, strings.TrimPrefix(key, "main/")) {
						t.Errorf("backup-list: %s is not shown or the record is not named: %v", id, o)
					}
				}
				o := Execute(t, r.Command(FromDirectory(repo), "backup-push"), nil)
				if o.Code != ExitDamaged || !strings.Contains(o.Err, strings.TrimPrefix(key, "main/")) {
					t.Errorf("backup-push into a damaged catalog: %v", o)
				}
			})
		}
	}
	for _, kind := range []string{"server", "begin", "commit", "abort", "pin", "unpin", "delete", "purged"} {
		if !seen[kind] {
			t.Errorf("the log has no %s record", kind)
		}
	}
}

func (r *FaultRig) DamageParts(t *testing.T, first, second string, goodTree map[string]string) {
	other := UsedParts(t, r.Repo, first)[0].Name
	parts := UsedParts(t, r.Repo, second)
	for i, p := range parts {
		key := "main/parts/" + p.Name
		for _, n := range []int{0, len(p.Frames) / 2, len(p.Frames) - 1} {
			x := p.Frames[n]
			for _, at := range []int64{0, int64(x.Size) / 2, int64(x.Size) - 1} {
				t.Run(fmt.Sprintf("%d frame at %d bit flipped at %d", i, x.Off, at), func(t *testing.T) {
					repo := CopyRepo(t, r.Repo)
					Damage(t, repo, key, "", Change{Do: func(data, _ []byte) []byte { return Flip(data, int(x.Off+at)) }})
					r.Refused(t, FromDirectory(repo), second, key)
				})
			}
		}
		replacements := []string{"main/parts/" + other}
		if len(parts) > 1 {
			replacements = append(replacements, "main/parts/"+parts[(i+1)%len(parts)].Name)
		}
		for _, with := range replacements {
			for _, c := range Losses() {
				if c.Name == "last byte cut" {
					continue // not a byte that a restore reads: see below
				}
				t.Run(fmt.Sprintf("%d %s %s", i, c.Name, with), func(t *testing.T) {
					repo := CopyRepo(t, r.Repo)
					Damage(t, repo, key, with, c)
					r.Refused(t, FromDirectory(repo), second, key)
				})
			}
		}
	}
	// The index and the trailer are not read by a restore: it refuses, or gives the same files.
	p := parts[0]
	for _, c := range []Change{
		{"index flipped", func(data, _ []byte) []byte { return Flip(data, int(p.end)+20) }},
		{"trailer flipped", func(data, _ []byte) []byte { return Flip(data, len(data)-40) }},
		{"last byte cut", func(data, _ []byte) []byte { return data[:len(data)-1] }},
		{"index cut", func(data, _ []byte) []byte { return data[:p.end] }},
		{"more at the end", func(data, _ []byte) []byte { return append(bytes.Clone(data), "something"...) }},
	} {
		t.Run(c.Name, func(t *testing.T) {
			repo, target := CopyRepo(t, r.Repo), filepath.Join(testenv.Dir(t), "data")
			Damage(t, repo, "main/parts/"+p.Name, "", c)
			if o := Execute(t, r.Command(FromDirectory(repo), "backup-fetch", target, second), nil); o.Code == 0 {
				if d := Differences(goodTree, RestoredTree(t, target)); d != nil {
					t.Errorf("the restore differs: %v", d)
				}
			} else {
				CheckNoControl(t, target)
			}
		})
	}
	// One of the refused restores in full: PostgreSQL itself is asked.
	repo, target := CopyRepo(t, r.Repo), filepath.Join(testenv.Dir(t), "data")
	last := parts[len(parts)-1]
	x := last.Frames[len(last.Frames)-1]
	Damage(t, repo, "main/parts/"+last.Name, "", Change{Do: func(data, _ []byte) []byte { return Flip(data, int(x.Off)+x.Size/2) }})
	if o := Execute(t, r.Command(FromDirectory(repo), "backup-fetch", target, second), nil); o.Code != ExitDamaged {
		t.Error(o)
	}
	CheckNoStart(t, target)
}

// DamageWAL fetches damaged segments as a server in recovery would, in a directory that has a pg_control.
func (r *FaultRig) DamageWAL(t *testing.T, dataDir string) {
	names, err := filepath.Glob(filepath.Join(r.Repo, "main/wal/*/*/0*.zst"))
	if err != nil || len(names) < 3 {
		t.Fatal(names, err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return len(filepath.Base(n)) != 24+len(".zst") })
	key, _ := strings.CutPrefix(names[1], r.Repo+"/")
	with, _ := strings.CutPrefix(names[0], r.Repo+"/")
	name := strings.TrimSuffix(filepath.Base(key), ".zst")
	for _, c := range slices.Concat(Flips(), Losses()) {
		t.Run(c.Name, func(t *testing.T) {
			repo, dest := CopyRepo(t, r.Repo), filepath.Join(testenv.Dir(t), name)
			Damage(t, repo, key, with, c)
			cmd := r.Command(FromDirectory(repo), "wal-fetch", name, dest, "--retry-for=2s")
			cmd.Dir = dataDir
			o := Execute(t, cmd, nil)
			if o.Code != 255 {
				t.Errorf("wal-fetch ended with code %d, want 255: %v", o.Code, o)
			}
			if !strings.Contains(o.Err, name) {
				t.Errorf("the message does not name %s: %v", name, o)
			}
			if _, err := os.Stat(dest); err == nil {
				t.Error("there is a file at the destination")
			}
		})
	}
}

// A checkpoint only saves time: a damaged one is passed over.
func (r *FaultRig) DamageCheckpoint(t *testing.T, log *catalog.Catalog, second string, goodTree map[string]string) {
	state, err := log.Load(t.Context())
	for err == nil && state.N < 101 {
		state, err = log.Append(t.Context(), state, func(*catalog.State) (catalog.Record, error) {
			return catalog.Record{Type: "pin", Pin: &catalog.Pin{Backup: second}}, nil
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := testenv.ChownPostgres(r.Repo); err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(r.Repo, "main/catalog/checkpoints/*"))
	if err != nil || len(paths) < 2 {
		t.Fatalf("checkpoints: %v %v", paths, err)
	}
	slices.Sort(paths) // names count down: the newest is the first
	key, _ := strings.CutPrefix(paths[0], r.Repo+"/")
	ids := r.List(t)
	for _, c := range slices.Concat(Flips(), Losses()) {
		t.Run(c.Name, func(t *testing.T) {
			repo := CopyRepo(t, r.Repo)
			Damage(t, repo, key, "main/catalog/log/0000000100.json", c)
			if got := r.ListOf(t, FromDirectory(repo)); !slices.Equal(got, ids) {
				t.Errorf("backup-list shows %v, want %v", got, ids)
			}
		})
	}
	repo, target := CopyRepo(t, r.Repo), filepath.Join(testenv.Dir(t), "data")
	Damage(t, repo, key, "", Flips()[2])
	if o := Execute(t, r.Command(FromDirectory(repo), "backup-fetch", target, "LATEST"), nil); o.Code != 0 {
		t.Error(o)
	} else if d := Differences(goodTree, RestoredTree(t, target)); d != nil {
		t.Errorf("the restore differs: %v", d)
	}
}
