package hostile

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/file"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// damagedRig has two backups, and every type of record in its log.
func damagedRig(t *testing.T) (rig *site.FaultRig, first, second string, log *catalog.Catalog) {
	rig = site.NewDirectoryRig(t)
	first, second = rig.Push(t, "--full"), rig.Push(t, "--full")
	s, err := file.New(file.Config{Dir: rig.Repo})
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
	if err := testenv.ChownPostgres(rig.Repo); err != nil {
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

// Whatever happens to one object, a restore that needs it refuses and names it, PostgreSQL does not start on
// what is left, and other backups are listed as before.
func TestDamage(t *testing.T) {
	t.Parallel()
	rig, first, second, log := damagedRig(t)
	want := site.Proof(t, rig.Cluster)
	good := filepath.Join(testenv.Dir(t), "data")
	rig.MustRun(t, "backup-fetch", good, second)
	goodTree := site.RestoredTree(t, good)

	t.Run("record", func(t *testing.T) { rig.DamageRecords(t, first, second) })
	t.Run("described object", func(t *testing.T) {
		for _, name := range []string{"backup.json", "manifest.jsonl.zst"} {
			key, other := "main/backups/"+second+"/"+name, "main/backups/"+first+"/"+name
			for _, c := range slices.Concat(site.Flips(), site.Losses()) {
				t.Run(name+" "+c.Name, func(t *testing.T) {
					repo := site.CopyRepo(t, rig.Repo)
					site.Damage(t, repo, key, other, c)
					rig.Refused(t, site.FromDirectory(repo), second, key)
					if ids := rig.ListOf(t, site.FromDirectory(repo)); !slices.Contains(ids, first) {
						t.Errorf("backup-list shows %v, and not %s", ids, first)
					}
				})
			}
		}
	})
	t.Run("part", func(t *testing.T) { rig.DamageParts(t, first, second, goodTree) })
	t.Run("verify", func(t *testing.T) { rig.DamageVerified(t, second) })
	t.Run("WAL", func(t *testing.T) { rig.DamageWAL(t, good) })
	t.Run("others restore", func(t *testing.T) {
		repo := site.CopyRepo(t, rig.Repo)
		for _, key := range []string{"main/backups/" + second + "/backup.json", "main/backups/" + second + "/manifest.jsonl.zst"} {
			site.Damage(t, repo, key, "", site.Losses()[0])
		}
		other := *rig
		other.Repo, other.Env = repo, site.FromDirectory(repo)
		other.CheckRestore(t, first, want)
	})
	t.Run("checkpoint", func(t *testing.T) { rig.DamageCheckpoint(t, log, second, goodTree) })
}

// The same through a real S3 server, whose objects are damaged behind its back.
func TestDamageOnS3(t *testing.T) {
	t.Parallel()
	rig, _ := site.NewS3Rig(t)
	first, second := rig.Push(t, "--full"), rig.Push(t, "--full")
	used := site.UsedParts(t, rig.Repo, second)[0]
	x := used.Frames[len(used.Frames)/2]
	inFrame := site.Change{Name: "frame flipped", Do: func(data, _ []byte) []byte { return site.Flip(data, int(x.Off)+x.Size/2) }}
	for key, changes := range map[string][]site.Change{
		"main/parts/" + used.Name:                 {inFrame, site.Losses()[0], site.Losses()[2], site.Losses()[4]},
		"main/backups/" + second + "/backup.json": {site.Flips()[2], site.Losses()[0], site.Losses()[2], site.Losses()[4]},
		"main/" + catalog.ManifestKey(second):     {site.Flips()[2], site.Losses()[0], site.Losses()[2], site.Losses()[4]},
		"main/catalog/log/0000000005.json":        {site.Flips()[2], site.Losses()[0], site.Losses()[2]},
	} {
		for _, c := range changes {
			t.Run(key+" "+c.Name, func(t *testing.T) {
				path := filepath.Join(rig.Repo, key)
				good := site.ReadFile(t, path)
				site.Damage(t, rig.Repo, key, "", c)
				rig.Refused(t, nil, second, key)
				if ids := rig.List(t); len(ids) == 0 || ids[0] != first {
					t.Errorf("backup-list shows %v, and not %s", ids, first)
				}
				site.PutFile(t, path, good)
			})
		}
	}
	rig.MustRun(t, "backup-fetch", filepath.Join(testenv.Dir(t), "data"), second)
}
