package site

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/test/testenv"
)

// DamageVerified flips one bit in every object that a backup needs, each alone: backup-verify ends with the code
// for damage and names the object.
func (r *FaultRig) DamageVerified(t *testing.T, second string) {
	repo := CopyRepo(t, r.Repo)
	r.pushHistory(t, repo)
	sound := func(id string) {
		t.Helper()
		if o := Execute(t, r.Command(FromDirectory(repo), "backup-verify", id), nil); o.Code != 0 {
			t.Fatal(o)
		}
	}
	sound(second)
	tried := map[string]int{} // by kind of object
	try := func(kind, key string, at int) {
		t.Helper()
		path := filepath.Join(repo, key)
		good := ReadFile(t, path)
		Damage(t, repo, key, "", Change{Do: func(data, _ []byte) []byte { return Flip(data, at) }})
		o := Execute(t, r.Command(FromDirectory(repo), "backup-verify", second), nil)
		message := o.Err[max(0, strings.Index(o.Err, "ERROR:")):]
		if o.Code != ExitDamaged || !strings.Contains(message, strings.TrimPrefix(key, "main/")) {
			t.Errorf("%s, %s with a bit flipped in byte %d of %d: %v", kind, key, at, len(good), o)
		}
		PutFile(t, path, good)
		tried[kind]++
	}
	ends := func(kind, key string) {
		n := len(ReadFile(t, filepath.Join(repo, key)))
		for _, at := range []int{0, n / 2, n - 1} {
			try(kind, key, at)
		}
	}
	ends("description", "main/"+catalog.BackupKey(second))
	ends("manifest", "main/"+catalog.ManifestKey(second))
	ends("commit", r.commitOf(t, repo, second))
	parts := UsedParts(t, repo, second)
	for _, p := range parts {
		key := "main/parts/" + p.Name
		n := len(ReadFile(t, filepath.Join(repo, key)))
		for _, x := range p.Frames[:min(len(p.Frames), 3)] {
			try("frame", key, int(x.Off)+x.Size/2)
		}
		x := p.Frames[len(p.Frames)-1]
		try("frame", key, int(x.Off)+x.Size-1)
		index := int(binary.LittleEndian.Uint64(ReadFile(t, filepath.Join(repo, key))[n-72+24:])) // as FORMAT.md has it
		try("index", key, index)
		try("index", key, (index+n-72)/2)
		for _, at := range []int{n - 72, n - 60, n - 50, n - 40, n - 1} { // magic, mark, version, place, hash
			try("trailer", key, at)
		}
	}
	for _, key := range r.WalOf(t, repo, second) {
		ends("WAL", key)
	}
	history, err := filepath.Glob(filepath.Join(repo, "main/wal/*/00000002/*.history*"))
	if err != nil || len(history) != 1 {
		t.Fatal(history, err)
	}
	ends("history", strings.TrimPrefix(history[0], repo+"/"))
	sound(second)
	t.Log(tried)
	for _, kind := range []string{"description", "manifest", "commit", "frame", "index", "trailer", "WAL", "history"} {
		if tried[kind] < 3 {
			t.Errorf("only %d flips in a %s", tried[kind], kind)
		}
	}
}

// pushHistory archives the history of a timeline that forks after the backups.
func (r *FaultRig) pushHistory(t *testing.T, repo string) {
	t.Helper()
	path := filepath.Join(testenv.Dir(t), "00000002.history")
	PutFile(t, path, []byte("1\t7F/0\tno recovery target specified\n"))
	cmd := r.Command(FromDirectory(repo), "wal-push", path)
	cmd.Dir = r.Cluster.Data
	if o := Execute(t, cmd, nil); o.Code != 0 {
		t.Fatal(o)
	}
}

// commitOf is the record that commits a backup.
func (r *FaultRig) commitOf(t *testing.T, repo, id string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(repo, "main/catalog/log/*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if data := string(ReadFile(t, name)); strings.Contains(data, id) && typeOfRecord.FindStringSubmatch(data)[1] == "commit" {
			// A checkpoint would stand in for it.
			if err := os.RemoveAll(filepath.Join(repo, "main/catalog/checkpoints")); err != nil {
				t.Fatal(err)
			}
			return strings.TrimPrefix(name, repo+"/")
		}
	}
	t.Fatalf("no commit of %s", id)
	return ""
}

var neededWAL = regexp.MustCompile(`"(?:first|last)_wal": *"([0-9A-F]{24})"`)

// WalOf is the first and the last segment that a backup needs.
func (r *FaultRig) WalOf(t *testing.T, repo, id string) (keys []string) {
	t.Helper()
	for _, m := range neededWAL.FindAllStringSubmatch(string(ReadFile(t, filepath.Join(repo, "main", catalog.BackupKey(id)))), -1) {
		found, err := filepath.Glob(filepath.Join(repo, fmt.Sprintf("main/wal/*/%s/%s.zst", m[1][:8], m[1])))
		if err != nil || len(found) != 1 {
			t.Fatal(m[1], found, err)
		}
		keys = append(keys, strings.TrimPrefix(found[0], repo+"/"))
	}
	return keys
}
