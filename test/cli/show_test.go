package cli

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
)

// shownBackup is what users may rely on in backup-show --json, besides what the list has.
type shownBackup struct {
	site.BackupEntry
	Server      string `json:"server"`
	PGDATA      string `json:"pgdata"`
	Owner       string `json:"owner"`
	Checksums   bool   `json:"data_checksums"`
	StartOffset int64  `json:"start_offset"`
	StopOffset  int64  `json:"stop_offset"`
	Previous    string `json:"previous"`
	Next        string `json:"next"`
	WAL         struct {
		First, Last, Next, Missing string
		Segments                   int
		Stored                     int64
	} `json:"wal"`
	Parts int `json:"parts"`
	Space struct {
		Refers, Alone, Frees int64
		Refused              string
	} `json:"space"`
	Retention struct {
		Keep    bool
		Reasons []string
	} `json:"retention"`
	Problems []string `json:"problems"`
}

// listedFile is what backup-files --json tells of an object.
type listedFile struct {
	Key, Kind string
	Size      int64
}

// shows asks a command for JSON.
func shows[T any](t testing.TB, s *site.Site, args ...string) (v T) {
	t.Helper()
	o := s.Must(t, append(args, "--json")...)
	if err := json.Unmarshal([]byte(o.Out), &v); err != nil {
		t.Fatalf("%q: %v in %v", args, err, o)
	}
	return v
}

// TestShow: what the commands that read a repository tell of it is what PostgreSQL and the file system say, and what
// backup-files lists is enough to restore.
func TestShow(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Checksums: true, Template: true})
	first := s.Backup(t, "--label=job=nightly run", "--label=n=1")
	s.Exec(t, `CREATE TABLE more AS SELECT g, md5(g::text) FROM generate_series(1, 50000) g`)
	s.Archived(t)
	s.Exec(t, `CREATE TABLE again AS SELECT 1`)
	s.Archived(t)
	second := s.Backup(t)
	want := site.Contents(t, s.Cluster, "postgres")
	s.Archived(t)

	show := shows[shownBackup](t, s, "backup-show", "oldest", "--retention=redundancy 1")
	t.Run("show", func(t *testing.T) { showsTruth(t, s, show, first, second) })
	last := shows[shownBackup](t, s, "backup-show", "last")
	if last.Backup != second.Backup || last.Previous != first.Backup || last.Next != "" || last.WAL.Next != "" || !strings.Contains(last.Space.Refused, "newest good") {
		t.Errorf("the last backup: %+v", last)
	}
	for _, text := range []string{"job='nightly run' n=1", "restorable", first.FirstWAL, "where backup " + second.Backup + " begins", "all pages were sound", "GOES: ", "would free"} {
		if o := s.Must(t, "backup-show", "first", "--retention=redundancy 1"); !strings.Contains(o.Out, text) {
			t.Errorf("backup-show does not say %q: %v", text, o)
		}
	}
	t.Run("log", func(t *testing.T) {
		var types []string
		for _, r := range shows[[]struct{ Type string }](t, s, "catalog-log") {
			types = append(types, r.Type)
		}
		if want := []string{"server", "begin", "commit", "begin", "commit"}; !slices.Equal(types, want) {
			t.Errorf("the log has %q, want %q", types, want)
		}
	})
	t.Run("servers", func(t *testing.T) { listsServers(t, s, second) })
	t.Run("what it frees", func(t *testing.T) {
		before := occupied(t, s.Directory, "main/parts", "main/wal")
		s.Must(t, "delete", "target", "oldest", "--confirm")
		if freed := before - occupied(t, s.Directory, "main/parts", "main/wal"); freed != show.Space.Frees || freed == 0 {
			t.Errorf("the deletion freed %d bytes, backup-show said %d", freed, show.Space.Frees)
		}
	})
	t.Run("files", func(t *testing.T) { restoresFromFiles(t, s, want) })
}

func showsTruth(t *testing.T, s *site.Site, show shownBackup, first, second site.BackupEntry) {
	if show.Backup != first.Backup || show.Next != second.Backup || show.Previous != "" || show.Server != "main" || show.Labels["n"] != "1" || show.PGDATA != s.Data ||
		!show.Checksums || !strings.Contains(show.Owner, ":") || len(show.Problems) > 0 || show.Retention.Keep || len(show.Retention.Reasons) == 0 {
		t.Errorf("%+v", show)
	}
	offsets := s.SQL(t, `SELECT a.file_name, a.file_offset, b.file_name, b.file_offset FROM pg_walfile_name_offset($1) a, pg_walfile_name_offset($2) b`, show.StartLSN, show.StopLSN)
	if got := fmt.Sprintf("%s|%d|%s|%d", show.FirstWAL, show.StartOffset, show.LastWAL, show.StopOffset); got != offsets {
		t.Errorf("WAL is %s, PostgreSQL says %s", got, offsets)
	}
	var segments int
	var stored int64
	for path, size := range filesBelow(t, filepath.Join(s.Directory, "main/wal")) {
		if name := strings.TrimSuffix(filepath.Base(path), ".zst"); len(name) == 24 && name >= show.FirstWAL && name < second.FirstWAL {
			segments++
			stored += size
		}
	}
	if w := show.WAL; w.First != show.FirstWAL || w.Next != second.Backup || w.Missing != "" || w.Segments != segments || w.Stored != stored || segments < 3 {
		t.Errorf("WAL until the next backup: %+v, the archive has %d segments of %d bytes", w, segments, stored)
	}
	var parts int
	var refers int64
	for _, f := range shows[[]listedFile](t, s, "backup-files", first.Backup, "--target=full") {
		if info, err := os.Stat(filepath.Join(s.Directory, f.Key)); err != nil || info.Size() != f.Size {
			t.Errorf("%+v: %v, %v", f, info, err)
		}
		if f.Kind == "part" {
			parts++
			refers += f.Size
		}
	}
	if show.Parts != parts || show.Space.Refers != refers || show.Space.Alone > refers {
		t.Errorf("%d parts, %+v; there are %d of %d bytes", show.Parts, show.Space, parts, refers)
	}
}

func listsServers(t *testing.T, s *site.Site, last site.BackupEntry) {
	list := shows[[]struct {
		Server, Last_backup string
		Backups             int
		System_id           string
		Usage               struct{ Total int64 }
	}](t, s, "server-list", "--sizes", "--server=whatever")
	if total := occupied(t, s.Directory, "main"); len(list) != 1 || list[0].Server != "main" || list[0].Last_backup != last.Backup || list[0].Backups != 2 ||
		list[0].System_id != last.SystemID || list[0].Usage.Total != total {
		t.Errorf("the servers are %+v, there are %d bytes", list, total)
	}
}

// restoresFromFiles copies with tar what backup-files lists, and the catalog, to another storage, and restores there.
func restoresFromFiles(t *testing.T, s *site.Site, want string) {
	elsewhere := site.DirectoryStore(t)
	pipe := s.Program("bash", "-o", "pipefail", "-c", `"$0" backup-files latest --target=full --null | tar -C "$1" -c --null -T - main/catalog | tar -C "$2" -x`, s.Pgobj, s.Directory, elsewhere.Directory)
	if o := site.Finish(t, pipe); o.Code != 0 {
		t.Fatal(o)
	}
	copied := *s
	copied.Store = elsewhere
	// The newest backup's WAL goes to the end of the archive, and the restored server has all of it.
	c := copied.Spawn(t, copied.Fetch(t), site.NoArchiving...)
	c.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
	site.SameContents(t, c, "postgres", want)

	o := s.Must(t, "backup-files", "latest", "--target=data")
	for line := range strings.Lines(o.Out) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "main/wal/") {
			t.Errorf("--target data lists %s", line)
		}
		if _, err := os.Stat(filepath.Join(s.Directory, line)); err != nil {
			t.Error(err)
		}
	}
	// The first segment of the latest backup is lost: then it cannot be standalone.
	wal := shows[[]listedFile](t, s, "backup-files", "latest", "--target=wal")
	if err := os.Remove(filepath.Join(s.Directory, wal[0].Key)); err != nil {
		t.Fatal(err)
	}
	if o := s.Run(t, "backup-files", "latest"); o.Code != site.ExitWAL || o.Out != "" {
		t.Errorf("a segment that the backup needs is lost: %v", o)
	}
	if o := s.Must(t, "backup-show", "latest"); !strings.Contains(o.Out, "CANNOT BE RESTORED") {
		t.Errorf("a segment that the backup needs is lost: %v", o)
	}
}

// filesBelow are the files below a directory with their sizes.
func filesBelow(t testing.TB, dir string) map[string]int64 {
	t.Helper()
	files := map[string]int64{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			files[path] = info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func occupied(t testing.TB, directory string, dirs ...string) (n int64) {
	t.Helper()
	for _, dir := range dirs {
		for _, size := range filesBelow(t, filepath.Join(directory, dir)) {
			n += size
		}
	}
	return n
}
