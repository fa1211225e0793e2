package retention

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/s3server"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// TestRetention: backups with work between them, a recovery to a point in time among them, then deletions: every
// window that they leave is restored.
func TestRetention(t *testing.T) {
	each := 3
	if site.Torture() {
		each = 10
	}
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Major: 15, Checksums: true})
	s.SQL(t, `CREATE TABLE marks (n int)`)
	var windows []site.Moment
	var backups []site.BackupEntry
	n := 0
	night := func(s *site.Site, timeline int) {
		n++
		s.Exec(t, fmt.Sprintf(`CREATE TABLE night%d AS SELECT g, md5(g::text) FROM generate_series(1, 5000) g`, n))
		backups = append(backups, s.Backup(t))
		windows = append(windows, s.Mark(t, n, timeline))
		s.Exec(t, `INSERT INTO marks VALUES (0)`) // a commit after it, at which recovery sees that the time has come
	}
	for range each {
		night(s, 1)
	}
	s.Archived(t)
	s.Stop(t, "fast")

	// The second to last window is gone back to; what came after it is a future that was left behind.
	dir := s.Fetch(t, "--keep-archiving", "--target-time", windows[each-2].At.Format("2006-01-02 15:04:05.999999-07"), "--target-action=promote")
	after := *s
	var err error
	if after.Cluster, err = pgtest.Attach(dir, s.Major); err != nil {
		t.Fatal(err)
	}
	after.AddEnv(slices.Concat(s.Settings, s.Credentials)...)
	t.Cleanup(func() {
		if err := after.Close(); err != nil {
			t.Error(err)
		}
	})
	after.Cluster.Start(t)
	after.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
	for range each {
		night(&after, 2)
	}
	after.Archived(t)

	before := windows[1]
	plan := after.Must(t, "delete", "before", before.At.Format(time.RFC3339Nano))
	if !strings.Contains(plan.Out, "not needed") || !strings.Contains(plan.Out, "Nothing has been deleted") || len(after.List(t)) != 2*each {
		t.Errorf("the plan: %v", plan)
	}
	id := regexp.MustCompile(`--plan ([0-9a-f]+)`).FindStringSubmatch(plan.Out)[1]
	if o := after.Run(t, "delete", "before", before.At.Format(time.RFC3339Nano), "--confirm", "--plan=0123"); o.Code != 7 {
		t.Errorf("another plan was confirmed: %v", o)
	}
	after.Must(t, "delete", "before", before.At.Format(time.RFC3339Nano), "--confirm", "--plan="+id)
	if left := after.List(t); len(left) != 2*each-1 || left[0].Backup != backups[1].Backup {
		t.Errorf("left are %+v", left)
	}
	after.Must(t, "backup-verify", "all")
	for i, w := range windows[1:] {
		if !site.Torture() && i%2 == 1 {
			continue
		}
		after.Restores(t, w)
	}
	pinnedAlone(t, &after, backups[1].Backup, windows[len(windows)-1])
	if o := after.Run(t, "delete", "everything", "another", "--confirm"); o.Code != 2 {
		t.Errorf("everything of another name: %v", o)
	}
	after.Must(t, "delete", "everything", "main", "--confirm")
	entries, err := os.ReadDir(filepath.Join(s.Directory, "main"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		files := 0
		if err := filepath.WalkDir(filepath.Join(s.Directory, "main", e.Name()), func(_ string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				files++
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if e.Name() != "catalog" && files > 0 {
			t.Errorf("after delete everything %d files are left below %s", files, e.Name())
		}
	}
}

// pinnedAlone pins an old backup, lets a policy take all others but the newest two, and restores what is left.
func pinnedAlone(t *testing.T, s *site.Site, id string, newest site.Moment) {
	t.Helper()
	s.Must(t, "backup-mark", id, "--pin")
	s.Must(t, "delete", "policy", "--retention", "REDUNDANCY 2", "--hold=0s", "--confirm")
	left := s.List(t)
	if len(left) != 3 || left[0].Backup != id {
		t.Errorf("left are %+v, want the pinned one and the newest two", left)
	}
	if f := s.Run(t, "--log-format=json", "delete", "target", id, "--confirm").MustFail(t, 15, "retention-refused"); !f.Names("pinned") {
		t.Errorf("deletion of a pinned backup: %+v", f)
	}
	c := s.Spawn(t, s.Fetch(t, id, "--target=immediate", "--target-action=promote"), site.NoArchiving...)
	if got := c.SQL(t, `SELECT max(n) FROM marks`); got != "1" { // the second window's row came after the backup
		t.Errorf("the pinned backup has mark %s, want 1", got)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	s.Restores(t, newest)
	s.Must(t, "backup-mark", id, "--unpin")
	s.Must(t, "delete", "retain", "1", "--confirm")
	if left := s.List(t); len(left) != 1 {
		t.Errorf("left are %+v, want one", left)
	}
	s.Restores(t, newest)
}

// TestObjectLock: in a bucket that locks objects, since the first backup or only later, backups work, and a deletion
// tells what stays until when.
func TestObjectLock(t *testing.T) {
	server := s3server.ForTest(t, s3server.MinIO)
	api, err := minio.New(strings.TrimPrefix(server.Endpoint, "http://"), &minio.Options{Region: server.Region, Creds: credentials.NewStaticV4(server.AccessKey, server.SecretKey, "")})
	if err != nil {
		t.Fatal(err)
	}
	locked := *server
	locked.Bucket = "locked"
	mode, days, unit := minio.Governance, uint(1), minio.Days
	if err := api.MakeBucket(t.Context(), locked.Bucket, minio.MakeBucketOptions{Region: server.Region, ObjectLocking: true}); err != nil {
		t.Fatal(err)
	}
	for _, driver := range []string{"minio", "aws"} {
		s := site.NewSite(t, site.S3Store(t, &locked, driver), pgtest.Options{Major: 15})
		s.Settings = append(s.Settings, "PGOBJ_SERVER="+driver)
		s.Stop(t, "fast")
		s.AddEnv("PGOBJ_SERVER=" + driver)
		s.Cluster.Start(t)
		site.Must(t, api.SetBucketObjectLockConfig(t.Context(), locked.Bucket, nil, nil, nil))
		first, on := s.Backup(t), minio.LegalHoldEnabled
		held := "team/pg/" + driver + "/backups/" + first.Backup + "/backup.json"
		site.Must(t, api.PutObjectLegalHold(t.Context(), locked.Bucket, held, minio.PutObjectLegalHoldOptions{Status: &on}))
		site.Must(t, api.SetBucketObjectLockConfig(t.Context(), locked.Bucket, &mode, &days, &unit))
		second := s.Backup(t)
		s.Backup(t)
		o := s.Run(t, "delete", "retain", "1", "--confirm", "--json")
		var report struct {
			Removed int `json:"removed"`
			Locked  []struct {
				Key   string    `json:"key"`
				Until time.Time `json:"until"`
				Error string    `json:"error"`
			} `json:"locked"`
		}
		if err := json.Unmarshal([]byte(o.Out), &report); err != nil || o.Code != 16 || report.Removed == 0 {
			t.Fatalf("deletion of locked objects: %v (%v)", o, err)
		}
		stays := map[string]bool{}
		for _, x := range report.Locked {
			stays[x.Key] = true
			if left := time.Until(x.Until); strings.HasSuffix(held, x.Key) != strings.Contains(x.Error, "legal hold") || !strings.HasSuffix(held, x.Key) && (left < 20*time.Hour || left > 25*time.Hour) {
				t.Errorf("%+v", x)
			}
		}
		for _, key := range []string{first.Backup + "/backup.json", second.Backup + "/backup.json", second.Backup + "/manifest.jsonl.zst"} {
			if !stays["backups/"+key] {
				t.Errorf("%s is not told to be locked: %v", key, o)
			}
		}
		if len(s.List(t)) != 1 {
			t.Errorf("%v", o)
		}
		if again := s.Run(t, "delete", "garbage", "--confirm"); again.Code != 16 || !strings.Contains(again.Out, "An earlier deletion") {
			t.Errorf("the next run: %v", again)
		}
		s.Must(t, "backup-verify", "all")
	}
}

// withoutDelete are temporary credentials that may put, get and list below a server's directory, and nothing else.
func withoutDelete(t testing.TB, s *s3server.Server, directory string) (env []string, secret string) {
	t.Helper()
	policy := fmt.Sprintf(`{"Version": "2012-10-17", "Statement": [
		{"Effect": "Allow", "Action": ["s3:PutObject", "s3:GetObject"], "Resource": ["arn:aws:s3:::%[1]s/%[2]s/*"]},
		{"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": ["arn:aws:s3:::%[1]s"], "Condition": {"StringLike": {"s3:prefix": ["%[2]s/*"]}}}]}`, s.Bucket, directory)
	role, err := credentials.NewSTSAssumeRole(s.Endpoint, credentials.STSAssumeRoleOptions{AccessKey: s.AccessKey, SecretKey: s.SecretKey, Location: s.Region, Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	v, err := role.GetWithContext(nil)
	if err != nil {
		t.Fatal(err)
	}
	return []string{"AWS_ACCESS_KEY_ID=" + v.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + v.SecretAccessKey, "AWS_SESSION_TOKEN=" + v.SessionToken,
		"AWS_REGION=" + s.Region, "AWS_EC2_METADATA_DISABLED=true"}, v.SecretAccessKey
}

// stored are the keys below a directory of the server's bucket.
func stored(t testing.TB, s *s3server.Server, directory string) (keys []string) {
	t.Helper()
	api, err := minio.New(strings.TrimPrefix(s.Endpoint, "http://"), &minio.Options{Region: s.Region, Creds: credentials.NewStaticV4(s.AccessKey, s.SecretKey, "")})
	if err != nil {
		t.Fatal(err)
	}
	for o := range api.ListObjectsIter(t.Context(), s.Bucket, minio.ListObjectsOptions{Prefix: directory + "/", Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		keys = append(keys, o.Key)
	}
	return keys
}

// TestNoRightToDelete: a host that may not delete backs up and restores; its deletions say what stays, lose nothing,
// and are finished by one that may.
func TestNoRightToDelete(t *testing.T) {
	server := s3server.ForTest(t, s3server.MinIO)
	for _, driver := range []string{"minio", "aws"} {
		t.Run(driver, func(t *testing.T) {
			directory := "team/pg/" + driver
			st := site.S3Store(t, server, driver)
			st.Settings = append(st.Settings, "PGOBJ_SERVER="+driver)
			admin := &site.Site{Store: st, Pgobj: testenv.Pgobj(t)}
			st.Credentials, st.Secret = withoutDelete(t, server, directory)
			s := site.NewSite(t, st, pgtest.Options{Major: 15})
			if o := s.Run(t, "--server=another", "backup-list"); o.Code != 4 {
				t.Errorf("the credentials reach another server's directory: %v", o)
			}
			s.SQL(t, `CREATE TABLE marks (n int)`)
			first := s.Backup(t)
			s.Exec(t, `INSERT INTO marks SELECT generate_series(1, 1000)`)
			second := s.Backup(t)
			before := stored(t, server, directory)
			refusedDeletion(t, s, "delete", "retain", "1", "--confirm")
			after := stored(t, server, directory)
			for _, key := range before {
				if !slices.Contains(after, key) {
					t.Errorf("%s is gone", key)
				}
			}

			// What was condemned holds up neither WAL nor backups, and nothing that is listed needs it.
			s.Exec(t, `INSERT INTO marks SELECT generate_series(1001, 2000)`)
			s.Backup(t)
			s.Archived(t)
			if o := refusedDeletion(t, s, "delete", "garbage", "--confirm"); !strings.Contains(o.Out, "An earlier deletion") {
				t.Errorf("the next run: %v", o)
			}
			s.Must(t, "backup-verify", "all")

			if o := admin.Must(t, "delete", "garbage", "--confirm"); strings.Contains(o.Out, "done: 0 objects") {
				t.Errorf("with the right to delete: %v", o)
			}
			// Parts of it that later backups reuse stay.
			for _, key := range stored(t, server, directory+"/backups") {
				if strings.Contains(key, first.Backup) {
					t.Errorf("%s is left of the backup that was deleted", key)
				}
			}
			if o := admin.Must(t, "delete", "garbage", "--confirm"); !strings.Contains(o.Out, "nothing to delete") || strings.Contains(o.Out, "An earlier deletion") {
				t.Errorf("after the deletion is finished: %v", o)
			}
			if backups := s.List(t); len(backups) != 2 || backups[0].Backup != second.Backup {
				t.Errorf("listed are %+v", backups)
			}
			s.Must(t, "backup-verify", "all")
			for _, id := range []string{second.Backup, "latest"} {
				c := s.Spawn(t, s.Fetch(t, id), site.NoArchiving...)
				c.Eventually(t, `SELECT pg_is_in_recovery()`, "f")
				if got := c.SQL(t, `SELECT count(*) FROM marks`); got != "2000" {
					t.Errorf("restored from %s there are %s rows, want 2000", id, got)
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// refusedDeletion checks that a deletion removes nothing and tells of an object, why it stays, and what to do.
func refusedDeletion(t testing.TB, s *site.Site, args ...string) site.Outcome {
	t.Helper()
	o := s.Run(t, append([]string{"--log-format=json"}, args...)...)
	f := o.MustFail(t, 16, "objects-locked")
	if !strings.Contains(o.Out, "done: 0 objects removed") {
		t.Fatalf("pgobj %s without the right to delete: %v", strings.Join(args, " "), o)
	}
	told := slices.Sorted(strings.Lines(o.Out))
	if len(slices.Compact(slices.Clone(told))) != len(told) {
		t.Errorf("the same object is told twice: %v", o)
	}
	if !regexp.MustCompile(`/(parts|wal|backups)/\S+: `).MatchString(f.Text+f.Detail) || !f.Names("access denied", "delete garbage --confirm") {
		t.Errorf("the error does not name an object, and why: %+v", f)
	}
	return o
}
