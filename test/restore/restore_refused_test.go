package restore

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestRestoreToTakenPlaces: of the four kinds of places that a restore writes to, each is refused when something is in
// it, and nothing in any of them changes.
func TestRestoreToTakenPlaces(t *testing.T) {
	t.Parallel()
	spaces := testenv.Dir(t)
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{})
	space := site.Mkdir(t, filepath.Join(spaces, "original"), 0o700, -1)
	s.Exec(t, `CREATE TABLESPACE one LOCATION '`+space+`'`)
	s.Backup(t)
	for _, taken := range []string{"data", "wal", "space", "link"} {
		t.Run(taken, func(t *testing.T) {
			place := testenv.Dir(t)
			dir := site.Mkdir(t, filepath.Join(place, taken), 0o700, -1)
			site.PutFile(t, filepath.Join(dir, "precious"), []byte("somebody else's"))
			before := site.Tree(t, place)
			at := func(name string) string { return filepath.Join(place, name) }
			f := s.FailsWith(t, site.ExitTarget, "restore-directory", "backup-fetch", at("data"), "--waldir", at("wal"), "--tablespace", "one="+at("space"), "--link", "pg_xact="+at("link"))
			if !f.Names(dir + " is not empty") {
				t.Errorf("it does not name the directory: %+v", f)
			}
			if d := site.Differences(before, site.Tree(t, place)); d != nil {
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
		t.Skip("only root may make directories that belong to another user")
	}
	rig := site.NewDirectoryRig(t)
	rig.Push(t)
	whole := filepath.Join(testenv.Dir(t), "data")
	rig.MustRun(t, "backup-fetch", whole)
	for _, c := range []struct {
		name, text string
		make       func(t *testing.T, place string) (target string, args []string)
	}{
		{"directory of another user", "ID 0", func(t *testing.T, place string) (string, []string) {
			return site.Mkdir(t, filepath.Join(place, "data"), 0o755, 0), nil
		}},
		{"below a directory of another user", "permission denied", func(t *testing.T, place string) (string, []string) {
			return filepath.Join(site.Mkdir(t, filepath.Join(place, "root's"), 0o755, 0), "data"), nil
		}},
		{"read-only directory", "permission denied", func(t *testing.T, place string) (string, []string) {
			return site.Mkdir(t, filepath.Join(place, "data"), 0o555, -1), nil
		}},
		{"read-only directory above", "permission denied", func(t *testing.T, place string) (string, []string) {
			return filepath.Join(site.Mkdir(t, filepath.Join(place, "above"), 0o555, -1), "data"), nil
		}},
		{"a file", "not a directory", func(t *testing.T, place string) (string, []string) {
			site.PutFile(t, filepath.Join(place, "data"), []byte("a file"))
			return filepath.Join(place, "data"), nil
		}},
		{"WAL directory of another user", "permission denied", func(t *testing.T, place string) (string, []string) {
			return filepath.Join(place, "data"), []string{"--waldir", site.Mkdir(t, filepath.Join(place, "wal"), 0o755, 0)}
		}},
		{"a file in the data directory that cannot be replaced", "permission denied", func(t *testing.T, place string) (string, []string) {
			target := filepath.Join(place, "data")
			if o := site.Execute(t, rig.Program(nil, "cp", "-a", whole, target), nil); o.Code != 0 {
				t.Fatal(o)
			}
			site.Mkdir(t, filepath.Join(target, "base/1/of root"), 0o755, 0)
			site.WriteFile(t, filepath.Join(target, "base/1/of root/file"), "x", 0o600)
			return target, []string{"--delta", "--discard-wal"}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			place := testenv.Dir(t)
			target, args := c.make(t, place)
			if f := rig.FailsWith(t, site.ExitTarget, "restore-directory", append([]string{"backup-fetch", target}, args...)...); !f.Names(c.text) {
				t.Errorf("want a message with %q: %+v", c.text, f)
			}
			if site.Exists(filepath.Join(target, "pgobj-restore-incomplete")) {
				site.CheckNoStart(t, target)
			}
		})
	}
}

// TestRestoreUnderUmasks: modes are those of the backup whatever the umask is, and whoever restores, root included.
func TestRestoreUnderUmasks(t *testing.T) {
	t.Parallel()
	rig := site.NewDirectoryRig(t)
	rig.Push(t)
	want := site.Survey(t, rig.Cluster.Data)
	for _, umask := range []string{"000", "002", "022", "027", "077"} {
		t.Run(umask, func(t *testing.T) {
			target := filepath.Join(testenv.Dir(t), "data")
			cmd := rig.Program(nil, "sh", "-c", fmt.Sprintf(`umask %s; exec "$0" backup-fetch "$1"`, umask), rig.Pgobj, target)
			if o := site.Execute(t, cmd, nil); o.Code != 0 {
				t.Fatal(o)
			}
			for path, x := range site.Survey(t, target) {
				if w, ok := want[path]; ok && (x.Mode != w.Mode || x.Uid != w.Uid || x.Gid != w.Gid) {
					t.Errorf("%s is %v, was %v", path, x, w)
				}
				if x.Mode.Perm()&0o077 != 0 {
					t.Errorf("%s can be read by others: %v", path, x)
				}
			}
		})
	}
}

// TestStrayObjects: what nobody knows of in the directories of a backup is passed over.
func TestStrayObjects(t *testing.T) {
	t.Parallel()
	rig := site.NewDirectoryRig(t)
	id := rig.Push(t)
	good := filepath.Join(testenv.Dir(t), "data")
	rig.MustRun(t, "backup-fetch", good, id)
	for _, name := range []string{"parts/" + id + "/99999.tar.zst", "parts/" + id + "/readme", "parts/stray", "backups/" + id + "/notes.txt", "backups/x/backup.json",
		"backups/20990101T000000Z-ffff/backup.json", "catalog/log/readme", "catalog/log/1.json", "catalog/log/00000000004.json", "catalog/checkpoints/0000000000-9999999999.json", "catalog/stray", "wal/stray", "stray"} {
		path := filepath.Join(rig.Repo, "main", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		site.PutFile(t, path, []byte("whatever"))
	}
	if err := testenv.ChownPostgres(rig.Repo); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(testenv.Dir(t), "data")
	rig.MustRun(t, "backup-fetch", target)
	if d := site.Differences(site.RestoredTree(t, good), site.RestoredTree(t, target)); d != nil {
		t.Errorf("the restore differs: %v", d)
	}
	if ids := rig.List(t); len(ids) != 1 || ids[0] != id {
		t.Errorf("backup-list shows %v", ids)
	}
	rig.MustRun(t, "backup-verify", "all")
}
