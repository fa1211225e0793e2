package hostile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/pgobj/pgobj/backup/manifest"
	"github.com/pgobj/pgobj/backup/part"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

var forgeries = []site.Forgery{
	{Name: "path up", Do: func(f *site.Forger) { f.Insert(f.File("../evil")) }},
	{Name: "path up within", Do: func(f *site.Forger) { f.Insert(f.File("base/../../evil")) }},
	{Name: "absolute path", Do: func(f *site.Forger) { f.Insert(f.File(f.Victim + "/evil")) }},
	{Name: "path up, in hexadecimal", Do: func(f *site.Forger) {
		l := f.File("")
		l.Hex = hex.EncodeToString([]byte("../evil"))
		f.Insert(l)
	}},
	{Name: "path with a zero byte", Do: func(f *site.Forger) { f.Insert(f.File("a\x00b")) }},
	{Name: "empty path", Do: func(f *site.Forger) { f.Lines = slices.Insert(f.Lines, 1, f.File("")) }},
	{Name: "directory up", Do: func(f *site.Forger) { f.Insert(f.Dir("../evil")) }},
	{Name: "file behind a link", Do: func(f *site.Forger) { f.Insert(f.Link("aaa", f.Victim), f.File("aaa/evil")) }},
	{Name: "file behind a relative link", Do: func(f *site.Forger) { f.Insert(f.Link("aaa", "../victim"), f.File("aaa/evil")) }},
	{Name: "file over what a link leads to", Do: func(f *site.Forger) { f.Insert(f.Link("aaa", f.Victim), f.File("aaa/precious")) }},
	{Name: "directory behind a link", Do: func(f *site.Forger) { f.Insert(f.Link("aaa", f.Victim), f.Dir("aaa/evil")) }},
	{Name: "link behind a link", Do: func(f *site.Forger) { f.Insert(f.Link("aaa", f.Victim), f.Link("aaa/evil", "/")) }},
	{Name: "two links", Do: func(f *site.Forger) { f.Insert(f.Link("aaa", "aab"), f.Link("aab", f.Victim), f.File("aaa/evil")) }},
	{Name: "a directory is a link", Do: func(f *site.Forger) { *f.Find("base") = f.Link("base", f.Victim) }},
	{Name: "global is a link", Do: func(f *site.Forger) { *f.Find("global") = f.Link("global", f.Victim) }},
	{Name: "directory and link of one name", Do: func(f *site.Forger) { f.Insert(f.Dir("aaa"), f.Link("aaa", f.Victim)) }},
	{Name: "link and directory of one name", Do: func(f *site.Forger) { f.Insert(f.Link("aaa", f.Victim), f.Dir("aaa")) }},
	{Name: "file of one name twice", Do: func(f *site.Forger) { f.Insert(f.File("aaa"), f.File("aaa")) }},
	{Name: "pg_control is a link", Harmless: true, Do: func(f *site.Forger) { *f.Find("global/pg_control") = f.Link("global/pg_control", f.Victim+"/precious") }},
	{Name: "pg_control's temporary name is a link", Do: func(f *site.Forger) {
		f.Insert(f.Link("global/pg_control.pgobj-restoring", f.Victim+"/precious"))
	}},
	{Name: "no pg_control", Do: func(f *site.Forger) { f.Drop("global/pg_control") }},
	{Name: "auto.conf is a link", Do: func(f *site.Forger) {
		*f.Find("postgresql.auto.conf") = f.Link("postgresql.auto.conf", f.Victim+"/precious")
	}},
	{Name: "auto.conf's temporary name is a link", Do: func(f *site.Forger) { f.Insert(f.Link("postgresql.auto.conf.pgobj", f.Victim+"/precious")) }},
	{Name: "recovery.signal is a link", Harmless: true, Do: func(f *site.Forger) { f.Insert(f.Link("recovery.signal", f.Victim+"/precious")) }},
	{Name: "tablespace that is not listed", Code: site.ExitTarget, Says: "tablespace 99999", Do: func(f *site.Forger) { f.Insert(f.Link("pg_tblspc/99999", f.Victim)) }},
	{Name: "file in a tablespace that is not listed", Code: site.ExitTarget, Says: "tablespace 99999", Do: func(f *site.Forger) {
		f.Insert(f.Link("pg_tblspc/99999", f.Victim), f.File("pg_tblspc/99999/evil"))
	}},
	{Name: "file beside a tablespace's directory", Code: site.ExitTarget, Says: "tablespace evil", Do: func(f *site.Forger) {
		f.Insert(f.Link("pg_tblspc/99999", f.Victim), f.File("pg_tblspc/99999/evil"))
		f.Backup = func(b *catalog.Backup) {
			b.Tablespaces = append(b.Tablespaces, catalog.Tablespace{OID: 99999, Name: "evil", Location: f.Victim})
		}
	}},
	{Name: "relative tablespace", Do: func(f *site.Forger) {
		f.Backup = func(b *catalog.Backup) {
			b.Tablespaces = append(b.Tablespaces, catalog.Tablespace{OID: 99999, Name: "evil", Location: "../victim"})
		}
	}},
	{Name: "set-id file", Do: func(f *site.Forger) { f.Find("PG_VERSION").Mode = 0o4755 }},
	{Name: "device", Do: func(f *site.Forger) { f.Insert(manifest.File{Path: "aaa", Type: "device"}) }},
	{Name: "root is a link", Do: func(f *site.Forger) { f.Lines[0] = f.Link(".", f.Victim) }},
	{Name: "extent before the part", Do: func(f *site.Forger) { f.Extent().Off = -1 }},
	{Name: "extent beyond the part", Do: func(f *site.Forger) { f.Extent().Off = 1 << 40 }},
	{Name: "extent before the file", Do: func(f *site.Forger) { f.Extent().At = -8192 }},
	{Name: "extent beyond the file", Do: func(f *site.Forger) { f.Extent().At = 1 << 30 }},
	{Name: "extent longer than its chunk", Do: func(f *site.Forger) { f.Extent().Len = 1<<20 + 1 }},
	{Name: "extent of nothing", Do: func(f *site.Forger) { f.Extent().Len = 0 }},
	{Name: "extent outside its frame", Do: func(f *site.Forger) { f.Extent().Skip = part.MaxFrame - f.Extent().Len }},
	{Name: "huge frame", Do: func(f *site.Forger) { f.Extent().Size = 1 << 40 }},
	{Name: "part of another name", Do: func(f *site.Forger) { f.Extent().Part = "../../../../etc/passwd" }},
	{Name: "extents overlap", Do: func(f *site.Forger) {
		c := &f.Big().Chunks[0]
		c.Extents = append(c.Extents, c.Extents[0])
	}},
	{Name: "file is larger than its chunks", Do: func(f *site.Forger) { f.Big().Size = 1 << 50 }},
	{Name: "more data than the backup says", Do: func(f *site.Forger) { // 2 GB of the same chunk
		f.Backup = func(b *catalog.Backup) { b.Size = 24 << 20 }
		x := f.Object(site.Compress(f.T, make([]byte, part.ChunkSize)), part.ChunkSize)
		for n := range 8 {
			l := manifest.File{Path: fmt.Sprintf("aaa%d", n), Type: manifest.TypeFile, Mode: 0o600, Size: manifest.MaxFileChunks * part.ChunkSize}
			for i := range manifest.MaxFileChunks {
				x.At = int64(i) * part.ChunkSize
				l.Chunks = append(l.Chunks, manifest.Chunk{Extents: []manifest.Extent{x}})
			}
			f.Insert(l)
		}
	}},
	{Name: "frame that expands without end", Do: func(f *site.Forger) {
		var bomb bytes.Buffer
		enc, err := zstd.NewWriter(&bomb, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
		if err != nil {
			f.T.Fatal(err)
		}
		for zero := make([]byte, 1<<20); bomb.Len() < 100_000; {
			if _, err := enc.Write(zero); err != nil {
				f.T.Fatal(err)
			}
		}
		if err := enc.Close(); err != nil {
			f.T.Fatal(err)
		}
		x, b := f.Extent(), f.Object(bomb.Bytes(), f.Extent().Len)
		x.Part, x.Off, x.Size, x.SHA256, x.Skip = b.Part, 0, b.Size, b.SHA256, 0
	}},
	{Name: "line without end", Do: func(f *site.Forger) { f.Raw = []string{`{"path":"` + strings.Repeat("a", 64<<20)} }},
	{Name: "deep line", Do: func(f *site.Forger) { f.Raw = []string{strings.Repeat(`{"a":`, 150_000)} }},
	{Name: "no JSON", Do: func(f *site.Forger) { f.Raw = []string{"evil"} }},
}

// What a forged backup says never leads outside of the target. All its hashes hold: somebody who can write to
// the repository has made it.
func TestHostileBackups(t *testing.T) {
	t.Parallel()
	rig := site.NewDirectoryRig(t)
	id := rig.Push(t)
	lines := site.ReadManifest(t, rig.Repo, id)
	all := slices.Concat(forgeries, hostilePaths(), hostileLines(), hostileLists(), hostileDescriptions(), hostileRecords())
	tried := 0
	for _, c := range all {
		if c.Slow && !site.Torture() {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			f := &site.Forger{T: t, Repo: site.CopyRepo(t, rig.Repo), Id: id, Lines: cloneLines(t, lines)}
			rig.TryForgery(t, c, f)
			tried++
		})
	}
	if t.Logf("%d forged repositories", tried); len(all) < 400 {
		t.Errorf("there are only %d", len(all))
	}
	// The forger's tools themselves make a backup that is restored, so it is not they that are refused.
	f := &site.Forger{T: t, Repo: site.CopyRepo(t, rig.Repo), Id: id, Lines: cloneLines(t, lines)}
	f.Store()
	if o := site.Execute(t, rig.Command(site.FromDirectory(f.Repo), "backup-fetch", filepath.Join(testenv.Dir(t), "data"), id), nil); o.Code != 0 {
		t.Error(o)
	}
}

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
