// Package site is what the end-to-end tests of all areas share: a server that archives and is backed up, and what is
// asked of it.
package site

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/s3server"
	"github.com/pgobj/pgobj/test/testenv"
)

// Store is a place for a repository, as a user would set it up: settings for pgobj and the server it
// archives for, and the credentials, which a restored server needs too.
type Store struct {
	Settings    []string
	Credentials []string
	Secret      string // nothing that pgobj prints or writes may contain it
	Directory   string // of a file:// storage
}

func DirectoryStore(t testing.TB) Store {
	t.Helper()
	dir := testenv.Dir(t)
	return Store{Settings: []string{"PGOBJ_STORAGE=file://" + dir}, Directory: dir}
}

// S3Store is a prefix in a server's bucket. The aws driver gets what it needs in the words of the AWS
// tools, the minio driver in pgobj's own.
func S3Store(t testing.TB, s *s3server.Server, driver string) Store {
	t.Helper()
	st := Store{Settings: []string{"PGOBJ_STORAGE=" + s.URL("team/pg"), "PGOBJ_S3_DRIVER=" + driver}, Credentials: s.Env(), Secret: s.SecretKey}
	endpoint, ca := "PGOBJ_S3_ENDPOINT=", "PGOBJ_S3_CA_FILE="
	own := testenv.Dir(t)
	if driver == "aws" {
		endpoint, ca = "AWS_ENDPOINT_URL=", "AWS_CA_BUNDLE="
		file := filepath.Join(own, "credentials")
		WriteFile(t, file, fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", s.AccessKey, s.SecretKey), 0o600)
		st.Credentials = []string{"AWS_SHARED_CREDENTIALS_FILE=" + file, "AWS_REGION=" + s.Region, "AWS_EC2_METADATA_DISABLED=true"}
	}
	st.Settings = append(st.Settings, endpoint+s.Endpoint)
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile) // lies where the user postgres cannot read it
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(own, "our ca.pem") // a space: restore_command has to quote
		WriteFile(t, file, string(pem), 0o644)
		st.Settings = append(st.Settings, ca+file)
	}
	return st
}

func WriteFile(t testing.TB, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
	if err := testenv.ChownPostgres(path); err != nil {
		t.Fatal(err)
	}
}

// Site is a running server that archives with pgobj, and the store that it archives to.
type Site struct {
	*pgtest.Cluster
	Store
	Pgobj string
}

// Archiving is what the README tells people to put into postgresql.conf.
func Archiving(pgobj string) []string {
	return []string{"archive_mode = on", "archive_command = '" + pgobj + " wal-push %p'"}
}

func NewSite(t testing.TB, st Store, o pgtest.Options) *Site {
	t.Helper()
	s := &Site{Store: st, Pgobj: testenv.Pgobj(t)}
	o.Env = append(append(o.Env, st.Settings...), st.Credentials...)
	o.Conf = append(Archiving(s.Pgobj), o.Conf...)
	s.Cluster = pgtest.Start(t, o)
	return s
}

// Command is pgobj, as the user postgres, with the settings in its environment and nothing else of ours.
func (s *Site) Command(args ...string) *exec.Cmd {
	return s.Program(s.Pgobj, args...)
}

// Generous is how long a command or a recovery may take: the slowest ones take half a minute when nothing
// else runs here.
const Generous = 5 * time.Minute

func Finish(t testing.TB, cmd *exec.Cmd) Outcome {
	t.Helper()
	return ExecuteWithin(t, Generous, cmd, nil)
}

func (s *Site) Program(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = slices.Concat([]string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "PGOBJ_CONFIG=none"}, s.Settings, s.Credentials)
	if s.Cluster != nil {
		cmd.Env = append(cmd.Env, s.Env()...)
	}
	return testenv.AsPostgres(cmd)
}

// Run executes pgobj with all that it has to say, and sees to it that the secret is not in it.
func (s *Site) Run(t testing.TB, args ...string) Outcome {
	t.Helper()
	o := Finish(t, s.Command(append([]string{"--log-level=debug"}, args...)...))
	if s.Secret != "" && strings.Contains(o.Out+o.Err, s.Secret) {
		t.Errorf("pgobj %s prints the secret key: %v", strings.Join(args, " "), o)
	}
	return o
}

func (s *Site) Must(t testing.TB, args ...string) Outcome {
	t.Helper()
	o := s.Run(t, args...)
	if o.Code != 0 {
		t.Fatalf("pgobj %s: %v", strings.Join(args, " "), o)
	}
	return o
}

// BackupEntry is what users may rely on in backup-list --json.
type BackupEntry struct {
	Backup       string            `json:"backup"`
	SystemID     string            `json:"system_id"`
	PGVersion    int               `json:"pg_version"`
	Started      time.Time         `json:"started"`
	Consistent   time.Time         `json:"consistent"`
	Finished     time.Time         `json:"finished"`
	Timeline     int               `json:"timeline"`
	StartLSN     string            `json:"start_lsn"`
	StopLSN      string            `json:"stop_lsn"`
	FirstWAL     string            `json:"first_wal"`
	LastWAL      string            `json:"last_wal"`
	Size         int64             `json:"size"`
	Files        int64             `json:"files"`
	Stored       int64             `json:"stored"`
	DamagedPages int64             `json:"damaged_pages"`
	Labels       map[string]string `json:"labels"`
	From         string            `json:"from"`
}

func (s *Site) List(t testing.TB) (backups []BackupEntry) {
	t.Helper()
	o := s.Run(t, "backup-list", "--json")
	if o.Code == ExitNotFound { // nothing has been stored of it yet
		return nil
	}
	if err := json.Unmarshal([]byte(o.Out), &backups); err != nil {
		t.Fatalf("backup-list --json: %v in %v", err, o)
	}
	return backups
}

// Backup takes one and returns what the list then says of it.
func (s *Site) Backup(t testing.TB, args ...string) BackupEntry {
	t.Helper()
	before := len(s.List(t))
	s.Must(t, append([]string{"backup-push", "--wal-timeout=10m"}, args...)...)
	after := s.List(t)
	if len(after) != before+1 {
		t.Fatalf("after backup-push there are %d backups, before there were %d", len(after), before)
	}
	for _, name := range []string{"backup_label", "tablespace_map"} {
		if _, err := os.Lstat(filepath.Join(s.Data, name)); err == nil {
			t.Errorf("after backup-push there is %s in the live data directory", name)
		}
	}
	return after[before]
}

// Archived ends the WAL segment and returns when all of the WAL so far is in the archive.
func (s *Site) Archived(t testing.TB) {
	t.Helper()
	last := s.SwitchWAL(t)
	s.Eventually(t, fmt.Sprintf(`SELECT left(last_archived_wal, 24) >= '%s' FROM pg_stat_archiver`, last), "t")
}

// Fetch restores to a directory of its own and returns it.
func (s *Site) Fetch(t testing.TB, args ...string) string {
	t.Helper()
	target := filepath.Join(testenv.Dir(t), "data")
	s.Must(t, append([]string{"backup-fetch", target}, args...)...)
	return target
}

// start starts a server on what was restored: with the credentials in its environment, as a server is
// run, and nothing of pgobj's settings.
func (s *Site) Spawn(t testing.TB, target string, args ...string) *pgtest.Cluster {
	t.Helper()
	c, err := pgtest.Attach(target, s.Major, args...)
	if err != nil {
		t.Fatal(err)
	}
	c.AddEnv(s.Credentials...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the restored server:\n%s", LastLines(c.Log(), 40))
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), Generous)
	defer cancel()
	if err := c.Launch(ctx); err != nil {
		t.Fatalf("start the restored server: %v", err)
	}
	return c
}

func LastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// NoArchiving keeps a restored server from archiving its new timeline, which a later restore would follow.
var NoArchiving = []string{"-c", "archive_mode=off"}

// Contents is all rows of all tables in a database, one line with a count and a sum over each table.
func Contents(t testing.TB, c *pgtest.Cluster, db string) string {
	t.Helper()
	tables := c.SQLIn(t, db, `SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY 1`)
	var out strings.Builder
	for table := range strings.SplitSeq(tables, "\n") {
		if table == "" {
			continue
		}
		fmt.Fprintln(&out, table, c.SQLIn(t, db, `SELECT count(*), sum(('x' || left(md5(t::text), 15))::bit(60)::bigint) FROM `+table+` t`))
	}
	return out.String()
}

func SameContents(t testing.TB, c *pgtest.Cluster, db, want string) {
	t.Helper()
	if got := Contents(t, c, db); got != want {
		t.Errorf("the restored server has\n%s\nthe source had\n%s", got, want)
	}
}

// Verified lets PostgreSQL's own checker look at a restored directory before a server starts on it.
func (s *Site) Verified(t testing.TB, target string, ignore ...string) {
	t.Helper()
	args := []string{"--no-parse-wal", "--quiet"}
	for _, path := range ignore {
		args = append(args, "--ignore="+path)
	}
	if o := Finish(t, s.Program(s.Bin("pg_verifybackup"), append(args, target)...)); o.Code != 0 {
		t.Errorf("pg_verifybackup: %v", o)
	}
}

// Sound lets PostgreSQL check every table and index, then stops the server and checks every page.
func Sound(t testing.TB, c *pgtest.Cluster) {
	t.Helper()
	s := &Site{Cluster: c}
	if o := Finish(t, s.Program(c.Bin("pg_amcheck"), "--all", "--heapallindexed", "--install-missing")); o.Code != 0 || o.Out != "" {
		t.Errorf("pg_amcheck: %v", o)
	}
	c.Stop(t, "fast")
	o := Finish(t, s.Program(c.Bin("pg_checksums"), "--check", "--pgdata", c.Data))
	if o.Code != 0 || !strings.Contains(o.Out, "Bad checksums:  0") {
		t.Errorf("pg_checksums: %v", o)
	}
}
