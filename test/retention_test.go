package test

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
	"github.com/pgobj/pgobj/test/testenv"
)

// moment is a time that can be restored, and what the database held then.
type moment struct {
	at       time.Time
	timeline int
	mark     string
}

// mark commits a row of its own and tells when that was.
func (s *site) mark(t testing.TB, n, timeline int) moment {
	t.Helper()
	s.Exec(t, fmt.Sprintf(`INSERT INTO marks VALUES (%d)`, n))
	at, err := time.Parse("2006-01-02 15:04:05.999999-07", s.SQL(t, `SET timezone = 'UTC'; SELECT clock_timestamp()`))
	if err != nil {
		t.Fatal(err)
	}
	return moment{at, timeline, fmt.Sprint(n)}
}

// restores recovers to a window and looks whether it is that one.
func (s *site) restores(t testing.TB, w moment) {
	t.Helper()
	dir := s.fetch(t, "--target-time", w.at.Format("2006-01-02 15:04:05.999999-07"), "--target-timeline", fmt.Sprint(w.timeline), "--target-action=promote")
	c := s.start(t, dir, noArchiving...)
	if got := c.SQL(t, `SELECT max(n) FROM marks`); got != w.mark {
		t.Errorf("restored to %s on timeline %d the database has mark %s, want %s", w.at, w.timeline, got, w.mark)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// TestRetention: backups with work between them, a recovery to a point in time among them, then deletions: every
// window that they leave is restored.
func TestRetention(t *testing.T) {
	each := 3
	if torture() {
		each = 10
	}
	s := newSite(t, folderStore(t), pgtest.Options{Major: 15, Checksums: true})
	s.SQL(t, `CREATE TABLE marks (n int)`)
	var windows []moment
	var backups []backupEntry
	n := 0
	night := func(s *site, timeline int) {
		n++
		s.Exec(t, fmt.Sprintf(`CREATE TABLE night%d AS SELECT g, md5(g::text) FROM generate_series(1, 5000) g`, n))
		backups = append(backups, s.backup(t))
		windows = append(windows, s.mark(t, n, timeline))
		s.Exec(t, `INSERT INTO marks VALUES (0)`) // a commit after it, at which recovery sees that the time has come
	}
	for range each {
		night(s, 1)
	}
	s.archived(t)
	s.Stop(t, "fast")

	// The second to last window is gone back to; what came after it is a future that was left behind.
	dir := s.fetch(t, "--keep-archiving", "--target-time", windows[each-2].at.Format("2006-01-02 15:04:05.999999-07"), "--target-action=promote")
	after := *s
	var err error
	if after.Cluster, err = pgtest.Attach(dir, s.Major); err != nil {
		t.Fatal(err)
	}
	after.AddEnv(slices.Concat(s.settings, s.credentials)...)
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
	after.archived(t)

	before := windows[1]
	plan := after.must(t, "delete", "before", before.at.Format(time.RFC3339Nano))
	if !strings.Contains(plan.out, "not needed to restore to") || !strings.Contains(plan.out, "Nothing has been deleted") || len(after.list(t)) != 2*each {
		t.Errorf("the plan: %v", plan)
	}
	id := regexp.MustCompile(`--plan ([0-9a-f]+)`).FindStringSubmatch(plan.out)[1]
	if o := after.run(t, "delete", "before", before.at.Format(time.RFC3339Nano), "--confirm", "--plan=0123"); o.code != 7 {
		t.Errorf("another plan was confirmed: %v", o)
	}
	after.must(t, "delete", "before", before.at.Format(time.RFC3339Nano), "--confirm", "--plan="+id)
	if left := after.list(t); len(left) != 2*each-1 || left[0].Backup != backups[1].Backup {
		t.Errorf("left are %+v", left)
	}
	after.must(t, "backup-verify", "all")
	for i, w := range windows[1:] {
		if !torture() && i%2 == 1 {
			continue
		}
		after.restores(t, w)
	}
	pinnedAlone(t, &after, backups[1].Backup, windows[len(windows)-1])
	if o := after.run(t, "delete", "everything", "another", "--confirm"); o.code != 2 {
		t.Errorf("everything of another name: %v", o)
	}
	after.must(t, "delete", "everything", "main", "--confirm")
	entries, err := os.ReadDir(filepath.Join(s.folder, "main"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		files := 0
		if err := filepath.WalkDir(filepath.Join(s.folder, "main", e.Name()), func(_ string, d os.DirEntry, err error) error {
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
func pinnedAlone(t *testing.T, s *site, id string, newest moment) {
	t.Helper()
	s.must(t, "backup-mark", id, "--pin")
	s.must(t, "delete", "policy", "--retention", "REDUNDANCY 2", "--hold=0s", "--confirm")
	left := s.list(t)
	if len(left) != 3 || left[0].Backup != id {
		t.Errorf("left are %+v, want the pinned one and the newest two", left)
	}
	if o := s.run(t, "delete", "target", id, "--confirm"); o.code != 15 || !strings.Contains(o.err, "pinned") {
		t.Errorf("deletion of a pinned backup: %v", o)
	}
	c := s.start(t, s.fetch(t, id, "--target=immediate", "--target-action=promote"), noArchiving...)
	if got := c.SQL(t, `SELECT max(n) FROM marks`); got != "1" { // the second window's row came after the backup
		t.Errorf("the pinned backup has mark %s, want 1", got)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	s.restores(t, newest)
	s.must(t, "backup-mark", id, "--unpin")
	s.must(t, "delete", "retain", "1", "--confirm")
	if left := s.list(t); len(left) != 1 {
		t.Errorf("left are %+v, want one", left)
	}
	s.restores(t, newest)
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
		s := newSite(t, s3Store(t, &locked, driver), pgtest.Options{Major: 15})
		s.settings = append(s.settings, "PGOBJ_SERVER="+driver)
		s.Stop(t, "fast")
		s.AddEnv("PGOBJ_SERVER=" + driver)
		s.Cluster.Start(t)
		must(t, api.SetBucketObjectLockConfig(t.Context(), locked.Bucket, nil, nil, nil))
		first, on := s.backup(t), minio.LegalHoldEnabled
		held := "team/pg/" + driver + "/backups/" + first.Backup + "/backup.json"
		must(t, api.PutObjectLegalHold(t.Context(), locked.Bucket, held, minio.PutObjectLegalHoldOptions{Status: &on}))
		must(t, api.SetBucketObjectLockConfig(t.Context(), locked.Bucket, &mode, &days, &unit))
		second := s.backup(t)
		s.backup(t)
		o := s.run(t, "delete", "retain", "1", "--confirm", "--json")
		var report struct {
			Removed int `json:"removed"`
			Locked  []struct {
				Key   string    `json:"key"`
				Until time.Time `json:"until"`
				Error string    `json:"error"`
			} `json:"locked"`
		}
		if err := json.Unmarshal([]byte(o.out), &report); err != nil || o.code != 16 || report.Removed == 0 {
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
		if len(s.list(t)) != 1 {
			t.Errorf("%v", o)
		}
		if again := s.run(t, "delete", "garbage", "--confirm"); again.code != 16 || !strings.Contains(again.out, "An earlier deletion") {
			t.Errorf("the next run: %v", again)
		}
		s.must(t, "backup-verify", "all")
	}
}

// withoutDelete are temporary credentials that may put, get and list below a server's folder, and nothing else.
func withoutDelete(t testing.TB, s *s3server.Server, folder string) (env []string, secret string) {
	t.Helper()
	policy := fmt.Sprintf(`{"Version": "2012-10-17", "Statement": [
		{"Effect": "Allow", "Action": ["s3:PutObject", "s3:GetObject"], "Resource": ["arn:aws:s3:::%[1]s/%[2]s/*"]},
		{"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": ["arn:aws:s3:::%[1]s"], "Condition": {"StringLike": {"s3:prefix": ["%[2]s/*"]}}}]}`, s.Bucket, folder)
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

// stored are the keys below a folder of the server's bucket.
func stored(t testing.TB, s *s3server.Server, folder string) (keys []string) {
	t.Helper()
	api, err := minio.New(strings.TrimPrefix(s.Endpoint, "http://"), &minio.Options{Region: s.Region, Creds: credentials.NewStaticV4(s.AccessKey, s.SecretKey, "")})
	if err != nil {
		t.Fatal(err)
	}
	for o := range api.ListObjectsIter(t.Context(), s.Bucket, minio.ListObjectsOptions{Prefix: folder + "/", Recursive: true}) {
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
			folder := "team/pg/" + driver
			st := s3Store(t, server, driver)
			st.settings = append(st.settings, "PGOBJ_SERVER="+driver)
			admin := &site{store: st, pgobj: testenv.Pgobj(t)}
			st.credentials, st.secret = withoutDelete(t, server, folder)
			s := newSite(t, st, pgtest.Options{Major: 15})
			if o := s.run(t, "--server=another", "backup-list"); o.code != 4 {
				t.Errorf("the credentials reach another server's folder: %v", o)
			}
			s.SQL(t, `CREATE TABLE marks (n int)`)
			first := s.backup(t)
			s.Exec(t, `INSERT INTO marks SELECT generate_series(1, 1000)`)
			second := s.backup(t)
			before := stored(t, server, folder)
			refusedDeletion(t, s, "delete", "retain", "1", "--confirm")
			after := stored(t, server, folder)
			for _, key := range before {
				if !slices.Contains(after, key) {
					t.Errorf("%s is gone", key)
				}
			}

			// What was condemned holds up neither WAL nor backups, and nothing that is listed needs it.
			s.Exec(t, `INSERT INTO marks SELECT generate_series(1001, 2000)`)
			s.backup(t)
			s.archived(t)
			if o := refusedDeletion(t, s, "delete", "garbage", "--confirm"); !strings.Contains(o.out, "An earlier deletion") {
				t.Errorf("the next run: %v", o)
			}
			s.must(t, "backup-verify", "all")

			if o := admin.must(t, "delete", "garbage", "--confirm"); strings.Contains(o.out, "done: 0 objects") {
				t.Errorf("with the right to delete: %v", o)
			}
			// Parts of it that later backups reuse stay.
			for _, key := range stored(t, server, folder+"/backups") {
				if strings.Contains(key, first.Backup) {
					t.Errorf("%s is left of the backup that was deleted", key)
				}
			}
			if o := admin.must(t, "delete", "garbage", "--confirm"); !strings.Contains(o.out, "nothing to delete") || strings.Contains(o.out, "An earlier deletion") {
				t.Errorf("after the deletion is finished: %v", o)
			}
			if backups := s.list(t); len(backups) != 2 || backups[0].Backup != second.Backup {
				t.Errorf("listed are %+v", backups)
			}
			s.must(t, "backup-verify", "all")
			for _, id := range []string{second.Backup, "latest"} {
				c := s.start(t, s.fetch(t, id), noArchiving...)
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
func refusedDeletion(t testing.TB, s *site, args ...string) outcome {
	t.Helper()
	o := s.run(t, args...)
	if o.code != 16 || !strings.Contains(o.out, "done: 0 objects removed") {
		t.Fatalf("pgobj %s without the right to delete: %v", strings.Join(args, " "), o)
	}
	told := slices.Sorted(strings.Lines(o.out))
	if len(slices.Compact(slices.Clone(told))) != len(told) {
		t.Errorf("the same object is told twice: %v", o)
	}
	for _, want := range []string{`the first is \S+/(parts|wal|backups)/\S+: `, "access denied", "HINT: .*delete garbage --confirm.*credentials that may delete"} {
		if !regexp.MustCompile(want).MatchString(o.err) {
			t.Errorf("the error does not say %q: %v", want, o)
		}
	}
	return o
}
