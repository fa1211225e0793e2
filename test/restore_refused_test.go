package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestRestoreToTakenPlaces: of the four kinds of places that a restore writes to, each is refused when something is in
// it, and nothing in any of them changes.
func TestRestoreToTakenPlaces(t *testing.T) {
	t.Parallel()
	spaces := testenv.Dir(t)
	s := newSite(t, folderStore(t), pgtest.Options{})
	space := mkdir(t, filepath.Join(spaces, "original"), 0o700, -1)
	s.Exec(t, `CREATE TABLESPACE one LOCATION '`+space+`'`)
	s.backup(t)
	for _, taken := range []string{"data", "wal", "space", "link"} {
		t.Run(taken, func(t *testing.T) {
			place := testenv.Dir(t)
			dir := mkdir(t, filepath.Join(place, taken), 0o700, -1)
			putFile(t, filepath.Join(dir, "precious"), []byte("somebody else's"))
			before := tree(t, place)
			at := func(name string) string { return filepath.Join(place, name) }
			o := s.run(t, "backup-fetch", at("data"), "--waldir", at("wal"), "--tablespace", "one="+at("space"), "--link", "pg_xact="+at("link"))
			if o.code != exitTarget || !strings.Contains(o.err, dir+" is not empty") {
				t.Errorf("want exit code %d and the folder's name: %v", exitTarget, o)
			}
			if d := differences(before, tree(t, place)); d != nil {
				t.Errorf("it has changed something: %v", d)
			}
		})
	}
}

// TestRestoreRefusedByFileSystem: what the host does not allow ends with exit code 10 and one message that names the
// path, and PostgreSQL does not start on what is left, if anything is.
func TestRestoreRefusedByFileSystem(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root may make folders that belong to another user")
	}
	rig := newFolderRig(t)
	rig.push(t)
	whole := filepath.Join(testenv.Dir(t), "data")
	rig.mustRun(t, "backup-fetch", whole)
	for _, c := range []struct {
		name, text string
		make       func(t *testing.T, place string) (target string, args []string)
	}{
		{"folder of another user", "belongs to the user with number 0, and you are", func(t *testing.T, place string) (string, []string) {
			return mkdir(t, filepath.Join(place, "data"), 0o755, 0), nil
		}},
		{"below a folder of another user", "permission denied", func(t *testing.T, place string) (string, []string) {
			return filepath.Join(mkdir(t, filepath.Join(place, "root's"), 0o755, 0), "data"), nil
		}},
		{"read-only folder", "permission denied", func(t *testing.T, place string) (string, []string) {
			return mkdir(t, filepath.Join(place, "data"), 0o555, -1), nil
		}},
		{"read-only folder above", "permission denied", func(t *testing.T, place string) (string, []string) {
			return filepath.Join(mkdir(t, filepath.Join(place, "above"), 0o555, -1), "data"), nil
		}},
		{"a file", "not a directory", func(t *testing.T, place string) (string, []string) {
			putFile(t, filepath.Join(place, "data"), []byte("a file"))
			return filepath.Join(place, "data"), nil
		}},
		{"WAL folder of another user", "permission denied", func(t *testing.T, place string) (string, []string) {
			return filepath.Join(place, "data"), []string{"--waldir", mkdir(t, filepath.Join(place, "wal"), 0o755, 0)}
		}},
		{"a file in the data directory that cannot be replaced", "permission denied", func(t *testing.T, place string) (string, []string) {
			target := filepath.Join(place, "data")
			if o := execute(t, rig.program(nil, "cp", "-a", whole, target), nil); o.code != 0 {
				t.Fatal(o)
			}
			mkdir(t, filepath.Join(target, "base/1/of root"), 0o755, 0)
			writeFile(t, filepath.Join(target, "base/1/of root/file"), "x", 0o600)
			return target, []string{"--delta", "--discard-wal"}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			place := testenv.Dir(t)
			target, args := c.make(t, place)
			o := rig.run(t, append([]string{"backup-fetch", target}, args...)...)
			if o.code != exitTarget || !strings.Contains(o.err, c.text) || strings.Count(o.err, "ERROR:") != 1 {
				t.Errorf("want exit code %d and one message with %q: %v", exitTarget, c.text, o)
			}
			if exists(filepath.Join(target, "pgobj-restore-incomplete")) {
				checkNoStart(t, target)
			}
		})
	}
}

func mkdir(t testing.TB, path string, mode os.FileMode, uid int) string {
	t.Helper()
	if err := os.Mkdir(path, mode); err != nil {
		t.Fatal(err)
	}
	if err := testenv.ChownPostgres(path); err != nil {
		t.Fatal(err)
	}
	if uid >= 0 {
		if err := os.Chown(path, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRestoreUnderUmasks: modes are those of the backup whatever the umask is, and whoever restores, root included.
func TestRestoreUnderUmasks(t *testing.T) {
	t.Parallel()
	rig := newFolderRig(t)
	rig.push(t)
	want := survey(t, rig.cluster.Data)
	for _, umask := range []string{"000", "002", "022", "027", "077"} {
		t.Run(umask, func(t *testing.T) {
			target := filepath.Join(testenv.Dir(t), "data")
			cmd := rig.program(nil, "sh", "-c", fmt.Sprintf(`umask %s; exec "$0" backup-fetch "$1"`, umask), rig.pgobj, target)
			if o := execute(t, cmd, nil); o.code != 0 {
				t.Fatal(o)
			}
			for path, x := range survey(t, target) {
				if w, ok := want[path]; ok && (x.mode != w.mode || x.uid != w.uid || x.gid != w.gid) {
					t.Errorf("%s is %v, was %v", path, x, w)
				}
				if x.mode.Perm()&0o077 != 0 {
					t.Errorf("%s can be read by others: %v", path, x)
				}
			}
		})
	}
}

// TestStrayObjects: what nobody knows of in the folders of a backup is passed over.
func TestStrayObjects(t *testing.T) {
	t.Parallel()
	rig := newFolderRig(t)
	id := rig.push(t)
	good := filepath.Join(testenv.Dir(t), "data")
	rig.mustRun(t, "backup-fetch", good, id)
	for _, name := range []string{"parts/" + id + "/99999.tar.zst", "parts/" + id + "/readme", "parts/stray", "backups/" + id + "/notes.txt", "backups/x/backup.json",
		"backups/20990101T000000Z-ffff/backup.json", "catalog/log/readme", "catalog/log/1.json", "catalog/log/00000000004.json", "catalog/checkpoints/0000000000-9999999999.json", "catalog/stray", "wal/stray", "stray"} {
		path := filepath.Join(rig.repo, "main", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		putFile(t, path, []byte("whatever"))
	}
	if err := testenv.ChownPostgres(rig.repo); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(testenv.Dir(t), "data")
	rig.mustRun(t, "backup-fetch", target)
	if d := differences(restoredTree(t, good), restoredTree(t, target)); d != nil {
		t.Errorf("the restore differs: %v", d)
	}
	if ids := rig.list(t); len(ids) != 1 || ids[0] != id {
		t.Errorf("backup-list shows %v", ids)
	}
	rig.mustRun(t, "backup-verify", "all")
}
