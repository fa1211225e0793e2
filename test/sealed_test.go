package test

import (
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/s3server"
)

const exitUnreadable = 19

// TestSealedParts: what a lifecycle rule has archived, or a disabled key encrypts, is stored anew by the next backup, and all else
// that meets it says what it is and what to do.
func TestSealedParts(t *testing.T) {
	server := s3server.ForTest(t, s3server.MinIO)
	for _, driver := range []string{"aws", "minio"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			proxy := faultproxy.ForTest(t, server.Endpoint)
			behind := *server
			behind.Endpoint = proxy.URL
			st := s3Store(t, &behind, driver)
			st.settings = append(st.settings, "PGOBJ_SERVER="+driver)
			s := newSite(t, st, pgtest.Options{Template: true})
			s.Exec(t, `CREATE TABLE idle AS SELECT i, md5(i::text) FROM generate_series(1, 100000) i; CHECKPOINT`)
			first := s.backup(t)
			if again := s.backup(t); again.Stored > 2_000_000 {
				t.Fatalf("a second backup stores %d bytes: this shows nothing", again.Stored)
			}
			for _, class := range []string{"GLACIER", "DEEP_ARCHIVE"} {
				proxy.On(faultproxy.Archived("/"+driver+"/parts/"+first.Backup+"/", class))
				next := s.storedAnew(t, first, class)
				s.sealed(t, first, class)
				if o := s.must(t, "backup-files", first.Backup, "--target", "data", "--url"); !strings.Contains(o.out, "s3://"+server.Bucket+"/team/pg/"+driver+"/parts/"+first.Backup+"/00001.tar.zst\n") {
					t.Errorf("backup-files: %v", o)
				}
				proxy.On(faultproxy.Archived("/"+driver+"/backups/"+next.Backup+"/backup.json", class)) // which every restore reads
				first = s.storedAnew(t, next, class)
				s.sealed(t, next, class)
			}
			proxy.On(faultproxy.KeyDisabled("/" + driver + "/parts/" + first.Backup + "/"))
			last := s.storedAnew(t, first, "KMS.DisabledException")
			s.sealed(t, first, "KMS.DisabledException")
			s.must(t, "backup-verify", last.Backup)
			proxy.On(faultproxy.Archived("/"+driver+"/catalog/log/", "GLACIER"))
			if o := s.run(t, "catalog-log"); o.code != exitUnreadable || !strings.Contains(o.err, "GLACIER") {
				t.Errorf("catalog-log: %v", o)
			}
		})
	}
}

// storedAnew takes a backup that needs nothing of one that cannot be read, and says so.
func (s *site) storedAnew(t *testing.T, unreadable backupEntry, says string) backupEntry {
	t.Helper()
	before := len(s.list(t))
	o := s.must(t, "backup-push", "--wal-timeout=1m")
	list := s.list(t)
	b := list[len(list)-1]
	if len(list) != before+1 || b.Stored < unreadable.Stored/2 || !strings.Contains(o.err, says) {
		t.Errorf("%s: the next backup stores %d bytes, the first stored %d: %v", says, b.Stored, unreadable.Stored, o)
	}
	s.must(t, "backup-verify", b.Backup)
	return b
}

// sealed says of a backup that it cannot be read, why, and what to do.
func (s *site) sealed(t *testing.T, b backupEntry, says string) {
	t.Helper()
	for _, args := range [][]string{{"backup-verify", b.Backup}, {"backup-fetch", t.TempDir() + "/data", b.Backup}, {"backup-cat", b.Backup, "PG_VERSION"}} {
		if o := s.run(t, args...); o.code != exitUnreadable || !strings.Contains(o.err, says) || !strings.Contains(o.err, "pgobj backup-files") {
			t.Errorf("%v: %v", args, o)
		}
	}
}
