package datadir

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/testenv"
	"github.com/pgobj/pgobj/walstore/segment"
)

func TestManifestPassesPgVerifybackup(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{})
	tree(t, c.Data, "odd\nname", "odd\\\"name", "odd\xff\xfename", "grüße <&>\u2028")
	for _, name := range []string{"odd\nname", "odd\\\"name", "odd\xff\xfename", "grüße <&>\u2028"} {
		if err := testenv.ChownPostgres(filepath.Join(c.Data, name)); err != nil {
			t.Fatal(err)
		}
	}
	space := testenv.Dir(t)
	c.Exec(t, "CREATE TABLESPACE s LOCATION '"+space+"'")
	c.Exec(t, "CREATE TABLE t TABLESPACE s AS SELECT generate_series(1, 10000)")
	out := testenv.Dir(t)
	data := out + "/data"
	pgtest.Run(t, c.Bin("pg_basebackup"), "-d", c.DSN("postgres"), "-D", data, "-X", "fetch", "-c", "fast", "-T", space+"="+out+"/s")
	pgtest.Run(t, c.Bin("pg_verifybackup"), data)

	// Ours takes the place of pg_basebackup's own; only the range of WAL is taken over.
	var own struct {
		Files []struct{ Path string }
		WAL   []struct {
			Timeline uint32
			Start    segment.LSN `json:"Start-LSN"`
			End      segment.LSN `json:"End-LSN"`
		} `json:"WAL-Ranges"`
	}
	file := filepath.Join(data, "backup_manifest")
	if err := json.Unmarshal(read(t, file), &own); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	m := NewManifestWriter(&b, 1, 0)
	listed := slices.DeleteFunc(own.Files, func(f struct{ Path string }) bool { // -X fetch lists a .done
		return strings.HasPrefix(f.Path, "pg_wal/")
	})
	if n := addFiles(t, m, data); n != len(listed) {
		t.Errorf("%d files, pg_basebackup has %d", n, len(listed))
	}
	for _, r := range own.WAL {
		if err := m.WALRange(segment.Timeline(r.Timeline), r.Start, r.End); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := testenv.ChownPostgres(file); err != nil {
		t.Fatal(err)
	}
	pgtest.Run(t, c.Bin("pg_verifybackup"), data)

	version := filepath.Join(data, "PG_VERSION")
	if err := os.WriteFile(version, []byte("16\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := pgtest.Try(c.Bin("pg_verifybackup"), data); err == nil || !strings.Contains(out, "checksum mismatch") {
		t.Errorf("a changed file passes: %v\n%s", err, out)
	}
}

// addFiles adds all files of a backup in place.
func addFiles(t *testing.T, m *ManifestWriter, data string) (n int) {
	t.Helper()
	all := map[string]bool{}
	list(t, data, "", all)
	for path := range all {
		full := filepath.Join(data, path)
		info, err := os.Stat(full)
		if err != nil {
			t.Fatal(err)
		}
		if info.IsDir() || path == "backup_manifest" || strings.HasPrefix(path, "pg_wal/") {
			continue
		}
		crc := crc32.Checksum(read(t, full), crc32.MakeTable(crc32.Castagnoli))
		if err := m.File(path, info.Size(), info.ModTime(), crc); err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// From 17 on the server itself reads a manifest, when it is asked for an incremental backup.
func TestManifestIsAcceptedByServers(t *testing.T) {
	for _, major := range []int{17, 18} {
		c := pgtest.Start(t, pgtest.Options{Major: major, Template: true, Conf: []string{"summarize_wal = on"}})
		ctl, _, err := ReadControl(c.Data)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		m := NewManifestWriter(&b, 2, ctl.SystemID)
		for i := range 3 {
			if err := m.File(fmt.Sprintf("base/5/%d\xff", i), int64(i), time.Now(), uint32(i)<<24); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(m.WALRange(1, 0x1000028, 0x1000100), m.Close()); err != nil {
			t.Fatal(err)
		}
		upload := func(manifest []byte) error {
			conn, err := pgconn.Connect(t.Context(), c.DSN("postgres")+" replication=database")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context())
			_, err = conn.CopyFrom(t.Context(), bytes.NewReader(manifest), "UPLOAD_MANIFEST")
			return err
		}
		if err := upload(b.Bytes()); err != nil {
			t.Errorf("%d: %v", major, err)
		}
		if err := upload(bytes.Replace(b.Bytes(), []byte(`"Size": 1`), []byte(`"Size": 2`), 1)); err == nil {
			t.Errorf("%d: a changed manifest is accepted", major)
		}
	}
}

func TestManifestFormat(t *testing.T) {
	var b bytes.Buffer
	m := NewManifestWriter(&b, 2, 1<<63+5)
	at := time.Date(2026, 1, 2, 4, 4, 5, 0, time.FixedZone("", 3600))
	if err := errors.Join(m.File("a\"b", 3, at, 0x01020304), m.File("c\xff", 0, at, 0), m.WALRange(2, 0x10, 0x1_0000_0020), m.WALRange(1, 0, 0x10), m.Close()); err != nil {
		t.Fatal(err)
	}
	want := `{ "PostgreSQL-Backup-Manifest-Version": 2,
"System-Identifier": 9223372036854775813,
"Files": [
{ "Path": "a\"b", "Size": 3, "Last-Modified": "2026-01-02 03:04:05 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "04030201" },
{ "Encoded-Path": "63ff", "Size": 0, "Last-Modified": "2026-01-02 03:04:05 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "00000000" }
],
"WAL-Ranges": [
{ "Timeline": 2, "Start-LSN": "0/10", "End-LSN": "1/20" },
{ "Timeline": 1, "Start-LSN": "0/0", "End-LSN": "0/10" }
],
"Manifest-Checksum": "`
	if got, _, _ := strings.Cut(b.String(), "Manifest-Checksum"); !strings.HasPrefix(want, got) || !json.Valid(b.Bytes()) {
		t.Errorf("%s", b.String())
	}
	if err := NewManifestWriter(&b, 3, 0).Close(); err == nil {
		t.Error("version 3 is accepted")
	}
	m = NewManifestWriter(&b, 1, 0)
	if m.WALRange(1, 0, 1) != nil || m.File("late", 0, at, 0) == nil || m.Close() == nil {
		t.Error("a file after the WAL ranges is accepted")
	}
	full := NewManifestWriter(brokenDisk{}, 1, 0)
	for range 10000 {
		full.File("x", 0, at, 0)
	}
	if err := full.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("a failed write: %v", err)
	}
}

type brokenDisk struct{}

func (brokenDisk) Write([]byte) (int, error) { return 0, fs.ErrClosed }
