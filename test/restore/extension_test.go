package restore

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// ofAnExtension makes the record of a restore point one of a resource manager that an extension would register (from PostgreSQL 15 on).
func ofAnExtension(t testing.TB, data []byte, name string) {
	t.Helper()
	const header = 24
	at := bytes.Index(data, append([]byte(name), 0)) - 8 - 2 - header // its time, and the header of its data
	if at < 0 {
		t.Fatalf("there is no restore point %s", name)
	}
	le, castagnoli := binary.LittleEndian, crc32.MakeTable(crc32.Castagnoli)
	r := data[at : at+int(le.Uint32(data[at:]))]
	r[17] = 200
	le.PutUint32(r[20:], crc32.Update(crc32.Checksum(r[header:], castagnoli), castagnoli, r[:20]))
}

// TestRecordsOfAnExtension: recovery stops where the library is not loaded, and a drill loads none. That says nothing about the backup.
func TestRecordsOfAnExtension(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: 18})
	s.Exec(t, `CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)`)
	s.Backup(t)
	name := s.SQL(t, `SELECT pg_walfile_name(pg_create_restore_point('custom'))`)
	s.Archived(t)
	file := filepath.Join(testenv.Dir(t), name)
	s.Must(t, "wal-fetch", name, file)
	data := site.ReadFile(t, file)
	ofAnExtension(t, data, "custom")
	site.Must(t, os.WriteFile(file, data, 0o600))
	stored, err := filepath.Glob(filepath.Join(s.Directory, "main/wal/*/*", name+".zst"))
	if err != nil || len(stored) != 1 {
		t.Fatalf("%s is stored as %v (%v)", name, stored, err)
	}
	site.Must(t, os.Remove(stored[0]))
	s.Must(t, "wal-push", file)
	o := s.Run(t, "drill", "--scratch", testenv.Dir(t), "--bindir", s.BinDir)
	if o.Code != 2 || !strings.Contains(o.Err, "--preload") || !strings.Contains(o.Err, "resource manager with ID 200") {
		t.Errorf("drill: %v", o)
	}
	if b := s.Must(t, "backup-list", "--json"); strings.Contains(b.Out, `"drill"`) {
		t.Errorf("the catalog has the drill: %v", b)
	}
}
