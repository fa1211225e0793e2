package test

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
	"time"

	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/file"
	"github.com/pgobj/pgobj/test/testenv"
)

// change is one way to damage an object; with is another object, for those that need one.
type change struct {
	name string
	do   func(data, with []byte) []byte // nil: the object is removed
}

// flips change one bit each, at the ends and in between.
func flips() []change {
	var out []change
	for _, at := range []float64{0, 0.25, 0.5, 0.8, 1} {
		out = append(out, change{fmt.Sprintf("bit flipped at %.0f %%", at*100), func(data, _ []byte) []byte {
			return flip(data, int(at*float64(len(data)-1)))
		}})
	}
	return out
}

func flip(data []byte, at int) []byte {
	out := bytes.Clone(data)
	out[at] ^= 1 << (at % 7)
	return out
}

func losses() []change {
	return []change{
		{"cut in half", func(data, _ []byte) []byte { return data[:len(data)/2] }},
		{"last byte cut", func(data, _ []byte) []byte { return data[:len(data)-1] }},
		{"empty", func([]byte, []byte) []byte { return []byte{} }},
		{"replaced by another", func(_, with []byte) []byte { return with }},
		{"missing", func([]byte, []byte) []byte { return nil }},
	}
}

// damage changes one object of a repository, which shares its files with another one.
func damage(t testing.TB, repo, key, with string, c change) {
	t.Helper()
	path := filepath.Join(repo, key)
	var other []byte
	if with != "" {
		other = readFile(t, filepath.Join(repo, with))
	}
	data := c.do(readFile(t, path), other)
	if err := os.Remove(path); err != nil { // never in place: the file may have another link
		t.Fatal(err)
	}
	if data != nil {
		putFile(t, path, data)
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func putFile(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := testenv.ChownPostgres(path); err != nil {
		t.Fatal(err)
	}
}

// copyRepo is a copy of a repository whose objects are links to the same files: nothing is rewritten in place.
func copyRepo(t testing.TB, repo string) string {
	t.Helper()
	dir := filepath.Join(testenv.Dir(t), "repo")
	if out, err := exec.Command("cp", "-al", repo, dir).CombinedOutput(); err != nil {
		t.Fatalf("copy the repository: %v\n%s", err, out)
	}
	return dir
}

func fromFolder(repo string) []string { return []string{"PGOBJ_STORAGE=file://" + repo} }

// refused runs backup-fetch on a damaged repository and checks all that a user may expect then.
func (r *faultRig) refused(t *testing.T, env []string, id, key string) {
	t.Helper()
	target := filepath.Join(testenv.Dir(t), "data")
	o := execute(t, r.command(env, "backup-fetch", target, id), nil)
	if o.code != exitDamaged {
		t.Errorf("backup-fetch %s ended with code %d, want %d: %v", id, o.code, exitDamaged, o)
	}
	message := o.err[max(0, strings.Index(o.err, "ERROR:")):]
	if !strings.Contains(message, strings.TrimPrefix(key, "main/")) {
		t.Errorf("the message does not name %s: %s", key, message)
	}
	if strings.Contains(message, "to go on") {
		t.Errorf("the same command is to go on, which would meet the same damage: %s", message)
	}
	checkNoControl(t, target)
}

// partUse is where the bytes of one backup are in a part.
type partUse struct {
	name   string
	frames []manifest.Extent // that the backup uses, in the manifest's order
	end    int64             // behind the last of them
}

// usedParts reads the manifest of a backup.
func usedParts(t testing.TB, repo, id string) []*partUse {
	t.Helper()
	var out []*partUse
	for _, f := range readManifest(t, repo, id) {
		for _, c := range f.Chunks {
			for _, x := range c.Extents {
				i := slices.IndexFunc(out, func(p *partUse) bool { return p.name == x.Part })
				if i < 0 {
					i, out = len(out), append(out, &partUse{name: x.Part})
				}
				out[i].frames = append(out[i].frames, x)
				out[i].end = max(out[i].end, x.Off+int64(x.Size))
			}
		}
	}
	return out
}

func manifestPath(repo, id string) string {
	return filepath.Join(repo, "main", catalog.ManifestKey(id))
}

// readManifest reads a manifest as FORMAT.md describes it, with the project's own code for the lines only.
func readManifest(t testing.TB, repo, id string) []manifest.File {
	t.Helper()
	sections, entries, err := manifest.ReadList(readFile(t, manifestPath(repo, id)), id)
	if err != nil {
		t.Fatal(err)
	}
	dec, err := part.NewDecoder()
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
		raw, err := dec.Decode(codec, nil, readFile(t, filepath.Join(repo, "main/parts", x.Part))[x.Off:][:x.Size], part.MaxFrame)
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

// damagedRig has two backups, and every type of record in its log.
func damagedRig(t *testing.T) (rig *faultRig, first, second string, log *catalog.Catalog) {
	rig = newFolderRig(t)
	first, second = rig.push(t, "--full"), rig.push(t, "--full")
	s, err := file.New(file.Config{Dir: rig.repo})
	if err != nil {
		t.Fatal(err)
	}
	log = catalog.New(storage.Sub(s, "main"), "test", time.Now)
	for _, r := range []catalog.Record{
		{Type: "begin", Begin: &catalog.Begin{Backup: "gone"}},
		{Type: "abort", Abort: &catalog.Abort{Backup: "gone", Reason: "for the test"}},
		{Type: "pin", Pin: &catalog.Pin{Backup: first}},
		{Type: "unpin", Unpin: &catalog.Pin{Backup: first}},
		{Type: "delete", Delete: &catalog.Delete{Backups: []string{"gone"}}},
		{Type: "purged", Purged: &catalog.Purged{Of: 10}},
	} {
		appendRecord(t, log, r)
	}
	if err := testenv.ChownPostgres(rig.repo); err != nil {
		t.Fatal(err)
	}
	return rig, first, second, log
}

func appendRecord(t testing.TB, log *catalog.Catalog, r catalog.Record) {
	t.Helper()
	state, err := log.Load(t.Context())
	if err == nil {
		_, err = log.Append(t.Context(), state, func(*catalog.State) (catalog.Record, error) { return r, nil })
	}
	if err != nil {
		t.Fatal(err)
	}
}

var typeOfRecord = regexp.MustCompile(`"type":"([a-z]+)"`)

// Whatever happens to one object, a restore that needs it refuses and names it, PostgreSQL does not start on
// what is left, and other backups are listed as before.
func TestDamage(t *testing.T) {
	t.Parallel()
	rig, first, second, log := damagedRig(t)
	want := proof(t, rig.cluster)
	good := filepath.Join(testenv.Dir(t), "data")
	rig.mustRun(t, "backup-fetch", good, second)
	goodTree := restoredTree(t, good)

	t.Run("record", func(t *testing.T) { rig.damageRecords(t, first, second) })
	t.Run("described object", func(t *testing.T) {
		for _, name := range []string{"backup.json", "manifest.jsonl.zst"} {
			key, other := "main/backups/"+second+"/"+name, "main/backups/"+first+"/"+name
			for _, c := range slices.Concat(flips(), losses()) {
				t.Run(name+" "+c.name, func(t *testing.T) {
					repo := copyRepo(t, rig.repo)
					damage(t, repo, key, other, c)
					rig.refused(t, fromFolder(repo), second, key)
					if ids := rig.listOf(t, fromFolder(repo)); !slices.Contains(ids, first) {
						t.Errorf("backup-list shows %v, and not %s", ids, first)
					}
				})
			}
		}
	})
	t.Run("part", func(t *testing.T) { rig.damageParts(t, first, second, goodTree) })
	t.Run("verify", func(t *testing.T) { rig.damageVerified(t, second) })
	t.Run("WAL", func(t *testing.T) { rig.damageWAL(t, good) })
	t.Run("others restore", func(t *testing.T) {
		repo := copyRepo(t, rig.repo)
		for _, key := range []string{"main/backups/" + second + "/backup.json", "main/backups/" + second + "/manifest.jsonl.zst"} {
			damage(t, repo, key, "", losses()[0])
		}
		other := *rig
		other.repo, other.env = repo, fromFolder(repo)
		other.checkRestore(t, first, want)
	})
	t.Run("checkpoint", func(t *testing.T) { rig.damageCheckpoint(t, log, second, goodTree) })
}

// restoredTree is what a restore has to give, but for the files that name the repository and the restore itself.
func restoredTree(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := tree(t, dir)
	delete(files, "postgresql.auto.conf")
	delete(files, "pg_wal/pgobj_restore.json") // has the time of the restore
	return files
}

func (r *faultRig) damageRecords(t *testing.T, first, second string) {
	names, err := filepath.Glob(filepath.Join(r.repo, "main/catalog/log/*.json"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i, path := range names {
		key, data := "main/catalog/log/"+filepath.Base(path), readFile(t, path)
		kind := string(typeOfRecord.FindSubmatch(data)[1])
		changes := slices.Concat(flips(), losses())
		if seen[kind] {
			changes = changes[2:3]
		}
		seen[kind] = true
		if i == len(names)-1 {
			changes = changes[:len(changes)-1] // without the newest record a log is a log: nothing can tell
		}
		for _, c := range changes {
			t.Run(fmt.Sprintf("%d %s %s", i+1, kind, c.name), func(t *testing.T) {
				repo := copyRepo(t, r.repo)
				// A checkpoint that covers the record would stand in for it, and nothing be amiss.
				if err := os.RemoveAll(filepath.Join(repo, "main/catalog/checkpoints")); err != nil {
					t.Fatal(err)
				}
				damage(t, repo, key, "main/catalog/log/"+filepath.Base(names[(i+1)%len(names)]), c)
				r.refused(t, fromFolder(repo), "LATEST", key)
				for _, id := range []string{first, second} {
					if bytes.Contains(data, []byte(id)) && kind == "commit" { // without its begin a backup is as good
						r.refused(t, fromFolder(repo), id, key)
						continue
					}
					o := execute(t, r.command(fromFolder(repo), "backup-list"), nil)
					if o.code != 0 || !strings.Contains(o.out, id) || !strings.Contains(o.err, strings.TrimPrefix(key, "main/")) {
						t.Errorf("backup-list: %s is not shown or the record is not named: %v", id, o)
					}
				}
				o := execute(t, r.command(fromFolder(repo), "backup-push"), nil)
				if o.code != exitDamaged || !strings.Contains(o.err, strings.TrimPrefix(key, "main/")) {
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

func (r *faultRig) damageParts(t *testing.T, first, second string, goodTree map[string]string) {
	other := usedParts(t, r.repo, first)[0].name
	parts := usedParts(t, r.repo, second)
	for i, p := range parts {
		key := "main/parts/" + p.name
		for _, n := range []int{0, len(p.frames) / 2, len(p.frames) - 1} {
			x := p.frames[n]
			for _, at := range []int64{0, int64(x.Size) / 2, int64(x.Size) - 1} {
				t.Run(fmt.Sprintf("%d frame at %d bit flipped at %d", i, x.Off, at), func(t *testing.T) {
					repo := copyRepo(t, r.repo)
					damage(t, repo, key, "", change{do: func(data, _ []byte) []byte { return flip(data, int(x.Off+at)) }})
					r.refused(t, fromFolder(repo), second, key)
				})
			}
		}
		replacements := []string{"main/parts/" + other}
		if len(parts) > 1 {
			replacements = append(replacements, "main/parts/"+parts[(i+1)%len(parts)].name)
		}
		for _, with := range replacements {
			for _, c := range losses() {
				if c.name == "last byte cut" {
					continue // not a byte that a restore reads: see below
				}
				t.Run(fmt.Sprintf("%d %s %s", i, c.name, with), func(t *testing.T) {
					repo := copyRepo(t, r.repo)
					damage(t, repo, key, with, c)
					r.refused(t, fromFolder(repo), second, key)
				})
			}
		}
	}
	// The index and the trailer are not read by a restore: it refuses, or gives the same files.
	p := parts[0]
	for _, c := range []change{
		{"index flipped", func(data, _ []byte) []byte { return flip(data, int(p.end)+20) }},
		{"trailer flipped", func(data, _ []byte) []byte { return flip(data, len(data)-40) }},
		{"last byte cut", func(data, _ []byte) []byte { return data[:len(data)-1] }},
		{"index cut", func(data, _ []byte) []byte { return data[:p.end] }},
		{"more behind", func(data, _ []byte) []byte { return append(bytes.Clone(data), "something"...) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			repo, target := copyRepo(t, r.repo), filepath.Join(testenv.Dir(t), "data")
			damage(t, repo, "main/parts/"+p.name, "", c)
			if o := execute(t, r.command(fromFolder(repo), "backup-fetch", target, second), nil); o.code == 0 {
				if d := differences(goodTree, restoredTree(t, target)); d != nil {
					t.Errorf("the restore differs: %v", d)
				}
			} else {
				checkNoControl(t, target)
			}
		})
	}
	// One of the refused restores in full: PostgreSQL itself is asked.
	repo, target := copyRepo(t, r.repo), filepath.Join(testenv.Dir(t), "data")
	last := parts[len(parts)-1]
	x := last.frames[len(last.frames)-1]
	damage(t, repo, "main/parts/"+last.name, "", change{do: func(data, _ []byte) []byte { return flip(data, int(x.Off)+x.Size/2) }})
	if o := execute(t, r.command(fromFolder(repo), "backup-fetch", target, second), nil); o.code != exitDamaged {
		t.Error(o)
	}
	checkNoStart(t, target)
}

// damageWAL fetches damaged segments as a server in recovery would, in a folder that has a pg_control.
func (r *faultRig) damageWAL(t *testing.T, dataDir string) {
	names, err := filepath.Glob(filepath.Join(r.repo, "main/wal/*/*/0*.zst"))
	if err != nil || len(names) < 3 {
		t.Fatal(names, err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return len(filepath.Base(n)) != 24+len(".zst") })
	key, _ := strings.CutPrefix(names[1], r.repo+"/")
	with, _ := strings.CutPrefix(names[0], r.repo+"/")
	name := strings.TrimSuffix(filepath.Base(key), ".zst")
	for _, c := range slices.Concat(flips(), losses()) {
		t.Run(c.name, func(t *testing.T) {
			repo, dest := copyRepo(t, r.repo), filepath.Join(testenv.Dir(t), name)
			damage(t, repo, key, with, c)
			cmd := r.command(fromFolder(repo), "wal-fetch", name, dest, "--retry-for=2s")
			cmd.Dir = dataDir
			o := execute(t, cmd, nil)
			if o.code != 255 {
				t.Errorf("wal-fetch ended with code %d, want 255: %v", o.code, o)
			}
			if !strings.Contains(o.err, name) {
				t.Errorf("the message does not name %s: %v", name, o)
			}
			if _, err := os.Stat(dest); err == nil {
				t.Error("there is a file at the destination")
			}
		})
	}
}

// A checkpoint only saves time: a damaged one is passed over.
func (r *faultRig) damageCheckpoint(t *testing.T, log *catalog.Catalog, second string, goodTree map[string]string) {
	state, err := log.Load(t.Context())
	for err == nil && state.N < 101 {
		state, err = log.Append(t.Context(), state, func(*catalog.State) (catalog.Record, error) {
			return catalog.Record{Type: "pin", Pin: &catalog.Pin{Backup: second}}, nil
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := testenv.ChownPostgres(r.repo); err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(r.repo, "main/catalog/checkpoints/*"))
	if err != nil || len(paths) < 2 {
		t.Fatalf("checkpoints: %v %v", paths, err)
	}
	slices.Sort(paths) // names count down: the newest is the first
	key, _ := strings.CutPrefix(paths[0], r.repo+"/")
	ids := r.list(t)
	for _, c := range slices.Concat(flips(), losses()) {
		t.Run(c.name, func(t *testing.T) {
			repo := copyRepo(t, r.repo)
			damage(t, repo, key, "main/catalog/log/0000000100.json", c)
			if got := r.listOf(t, fromFolder(repo)); !slices.Equal(got, ids) {
				t.Errorf("backup-list shows %v, want %v", got, ids)
			}
		})
	}
	repo, target := copyRepo(t, r.repo), filepath.Join(testenv.Dir(t), "data")
	damage(t, repo, key, "", flips()[2])
	if o := execute(t, r.command(fromFolder(repo), "backup-fetch", target, "LATEST"), nil); o.code != 0 {
		t.Error(o)
	} else if d := differences(goodTree, restoredTree(t, target)); d != nil {
		t.Errorf("the restore differs: %v", d)
	}
}

// The same through a real S3 server, whose objects are damaged behind its back.
func TestDamageOnS3(t *testing.T) {
	t.Parallel()
	rig, _ := newS3Rig(t)
	first, second := rig.push(t, "--full"), rig.push(t, "--full")
	used := usedParts(t, rig.repo, second)[0]
	x := used.frames[len(used.frames)/2]
	inFrame := change{"frame flipped", func(data, _ []byte) []byte { return flip(data, int(x.Off)+x.Size/2) }}
	for key, changes := range map[string][]change{
		"main/parts/" + used.name:                 {inFrame, losses()[0], losses()[2], losses()[4]},
		"main/backups/" + second + "/backup.json": {flips()[2], losses()[0], losses()[2], losses()[4]},
		"main/" + catalog.ManifestKey(second):     {flips()[2], losses()[0], losses()[2], losses()[4]},
		"main/catalog/log/0000000005.json":        {flips()[2], losses()[0], losses()[2]},
	} {
		for _, c := range changes {
			t.Run(key+" "+c.name, func(t *testing.T) {
				path := filepath.Join(rig.repo, key)
				good := readFile(t, path)
				damage(t, rig.repo, key, "", c)
				rig.refused(t, nil, second, key)
				if ids := rig.list(t); len(ids) == 0 || ids[0] != first {
					t.Errorf("backup-list shows %v, and not %s", ids, first)
				}
				putFile(t, path, good)
			})
		}
	}
	rig.mustRun(t, "backup-fetch", filepath.Join(testenv.Dir(t), "data"), second)
}
