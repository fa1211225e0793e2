package push

import (
	"strings"
	"testing"

	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/s3server"
	"github.com/pgobj/pgobj/test/site"
)

// TestSealedParts: what a lifecycle rule has archived, or a disabled key encrypts, is stored again by the next backup, and all else
// that meets it says what it is and what to do.
func TestSealedParts(t *testing.T) {
	server := s3server.ForTest(t, s3server.MinIO)
	for _, driver := range []string{"aws", "minio"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			proxy := faultproxy.ForTest(t, server.Endpoint)
			behind := *server
			behind.Endpoint = proxy.URL
			st := site.S3Store(t, &behind, driver)
			st.Settings = append(st.Settings, "PGOBJ_SERVER="+driver)
			s := site.NewSite(t, st, pgtest.Options{Template: true})
			s.Exec(t, `CREATE TABLE idle AS SELECT i, md5(i::text) FROM generate_series(1, 100000) i; CHECKPOINT`)
			first := s.Backup(t)
			if again := s.Backup(t); again.Stored > 2_000_000 {
				t.Fatalf("a second backup stores %d bytes: this shows nothing", again.Stored)
			}
			for _, class := range []string{"GLACIER", "DEEP_ARCHIVE"} {
				proxy.On(faultproxy.Archived("/"+driver+"/parts/"+first.Backup+"/", class))
				next := s.StoredAnew(t, first, class)
				s.Sealed(t, first, class)
				if o := s.Must(t, "backup-files", first.Backup, "--target", "data", "--url"); !strings.Contains(o.Out, "s3://"+server.Bucket+"/team/pg/"+driver+"/parts/"+first.Backup+"/00001.tar.zst\n") {
					t.Errorf("backup-files: %v", o)
				}
				proxy.On(faultproxy.Archived("/"+driver+"/backups/"+next.Backup+"/backup.json", class)) // which every restore reads
				first = s.StoredAnew(t, next, class)
				s.Sealed(t, next, class)
			}
			proxy.On(faultproxy.KeyDisabled("/" + driver + "/parts/" + first.Backup + "/"))
			last := s.StoredAnew(t, first, "KMS.DisabledException")
			s.Sealed(t, first, "KMS.DisabledException")
			s.Must(t, "backup-verify", last.Backup)
			proxy.On(faultproxy.Archived("/"+driver+"/catalog/log/", "GLACIER"))
			if o := s.Run(t, "catalog-log"); o.Code != site.ExitUnreadable || !strings.Contains(o.Err, "GLACIER") {
				t.Errorf("catalog-log: %v", o)
			}
		})
	}
}
