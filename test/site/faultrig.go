package site

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/connect"
	"github.com/pgobj/pgobj/storage/retry"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/s3server"
	"github.com/pgobj/pgobj/test/testenv"
)

// Exit codes that users and scripts rely on.
const (
	ExitDamaged     = 8
	ExitPostgres    = 9
	ExitTarget      = 10
	ExitUnreachable = 14
	ExitWAL         = 11
	ExitInterrupted = 20
)

// FaultRig is a small cluster that archives with pgobj, and the repository it archives to. The fault
// tests damage, starve and kill what runs on it.
type FaultRig struct {
	Cluster *pgtest.Cluster
	Pgobj   string
	Repo    string   // the repository as a directory, whatever the storage is: with versitygw objects are files
	Env     []string // of every pgobj: storage, credentials, server
}

// NewDirectoryRig has a directory as storage, newS3Rig a versitygw.
func NewDirectoryRig(t testing.TB, conf ...string) *FaultRig {
	t.Helper()
	repo := testenv.Dir(t)
	return NewFaultRig(t, repo, []string{"PGOBJ_STORAGE=file://" + repo}, conf...)
}

func NewS3Rig(t testing.TB, conf ...string) (*FaultRig, *s3server.Server) {
	t.Helper()
	s := s3server.ForTest(t, s3server.Versity)
	return NewFaultRig(t, s.Dir, append(s.Env(), "PGOBJ_STORAGE="+s.URL(""), "PGOBJ_S3_ENDPOINT="+s.Endpoint), conf...), s
}

func NewFaultRig(t testing.TB, repo string, env []string, conf ...string) *FaultRig {
	t.Helper()
	r := &FaultRig{Pgobj: testenv.Pgobj(t), Repo: repo, Env: env}
	// Segments of 1 MiB: each backup ends one, and hundreds of backups are taken.
	r.Cluster = pgtest.Start(t, pgtest.Options{Template: true, WALSegMB: 1, Checksums: true, Env: env, Conf: append([]string{
		"archive_mode = on", "archive_command = '" + r.Pgobj + " wal-push \"%p\"'", "min_wal_size = '2MB'", "max_wal_size = '32MB'",
		"autovacuum = off", "shared_buffers = '16MB'"}, conf...)})
	r.Cluster.Exec(t, `CREATE TABLE proof AS SELECT i, md5(i::text) AS sum FROM generate_series(1, 20000) i`)
	return r
}

// Proof is what a restored cluster has to answer, as the source does.
func Proof(t testing.TB, c *pgtest.Cluster) string {
	t.Helper()
	return c.SQL(t, `SELECT count(*), md5(string_agg(sum, ',' ORDER BY i)) FROM proof`)
}

// Outcome is how a command ended.
type Outcome struct {
	Code     int // -1: by a signal
	Out, Err string
}

func (o Outcome) String() string {
	return fmt.Sprintf("exit code %d\nstdout: %s\nstderr: %s", o.Code, o.Out, o.Err)
}

// Command is pgobj as the user postgres; env comes after the rig's own.
func (r *FaultRig) Command(env []string, args ...string) *exec.Cmd {
	return r.Program(env, r.Pgobj, args...)
}

func (r *FaultRig) Program(env []string, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "PG") || strings.HasPrefix(kv, "AWS_")
	}), append([]string{"PGOBJ_CONFIG=none"}, r.Env...)...)
	cmd.Env = append(append(cmd.Env, r.Cluster.Env()...), env...)
	return testenv.AsPostgres(cmd)
}

// Patience bounds one command. Nothing is concluded from it but "it hangs".
const Patience = 4 * time.Minute

// Execute runs a command to its end; started is called as soon as it runs.
func Execute(t testing.TB, cmd *exec.Cmd, started func(*os.Process)) Outcome {
	t.Helper()
	return ExecuteWithin(t, Patience, cmd, started)
}

func ExecuteWithin(t testing.TB, patience time.Duration, cmd *exec.Cmd, started func(*os.Process)) Outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if started != nil {
		started(cmd.Process)
	}
	hung := time.AfterFunc(patience, func() { _ = cmd.Process.Signal(syscall.SIGABRT) }) // Go tells where it hangs
	err := cmd.Wait()
	if !hung.Stop() {
		t.Fatalf("%s hung\nstderr: %s", cmd, stderr.String())
	}
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return Outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func (r *FaultRig) Run(t testing.TB, args ...string) Outcome {
	t.Helper()
	return Execute(t, r.Command(nil, args...), nil)
}

// MustRun is run for what has to work.
func (r *FaultRig) MustRun(t testing.TB, args ...string) Outcome {
	t.Helper()
	o := r.Run(t, args...)
	if o.Code != 0 {
		t.Fatalf("pgobj %s: %v", strings.Join(args, " "), o)
	}
	return o
}

// List returns the ids that backup-list shows, oldest first.
func (r *FaultRig) List(t testing.TB) []string {
	t.Helper()
	return r.ListOf(t, nil)
}

func (r *FaultRig) ListOf(t testing.TB, env []string) []string {
	t.Helper()
	o := Execute(t, r.Command(env, "backup-list", "--json"), nil)
	if o.Code == ExitNotFound { // nothing has been stored of it yet
		return []string{}
	}
	var backups []struct{ Backup string }
	if err := json.Unmarshal([]byte(o.Out), &backups); o.Code != 0 || err != nil {
		t.Fatalf("backup-list: %v %v", err, o)
	}
	ids := []string{}
	for _, b := range backups {
		ids = append(ids, b.Backup)
	}
	return ids
}

// Push takes a backup and returns its id.
func (r *FaultRig) Push(t testing.TB, args ...string) string {
	t.Helper()
	before := r.List(t)
	r.MustRun(t, append([]string{"backup-push", "--wal-timeout=10m"}, args...)...)
	after := r.List(t)
	if len(after) != len(before)+1 || !slices.Equal(after[:len(before)], before) {
		t.Fatalf("backup-push succeeded; the list was %v and is %v", before, after)
	}
	return after[len(before)]
}

// CheckRestore restores a backup, lets PostgreSQL's own pg_verifybackup look at every file, starts a
// server on it, and compares what it says.
func (r *FaultRig) CheckRestore(t testing.TB, id, want string) {
	t.Helper()
	target := filepath.Join(testenv.Dir(t), "data")
	r.MustRun(t, "backup-fetch", target, id)
	r.Verify(t, target)
	c := r.Open(t, target)
	if got := Proof(t, c); got != want {
		t.Errorf("restored backup %s answers %q, want %q", id, got, want)
	}
	c.Stop(t, "immediate")
}

// Open starts a server on a restore and waits for the end of its recovery.
func (r *FaultRig) Open(t testing.TB, target string) *pgtest.Cluster {
	t.Helper()
	args := []string{"-c", "archive_mode=off"}
	if !slices.Contains(r.Env, "PGOBJ_STORAGE=file://"+r.Repo) {
		// The restore_command that was written takes credentials from the environment, where this server has none.
		args = append(args, "-c", "restore_command=env '"+strings.Join(r.Env, "' '")+"' "+r.Pgobj+" wal-fetch %f %p")
	}
	c, err := pgtest.Open(t, target, 15, args...)
	if err != nil {
		t.Fatalf("start a server on the restore in %s: %v", target, err)
	}
	return c
}

func (r *FaultRig) Verify(t testing.TB, target string) {
	t.Helper()
	cmd := r.Program(nil, r.Cluster.Bin("pg_verifybackup"), "--no-parse-wal", "--quiet", target)
	if o := Execute(t, cmd, nil); o.Code != 0 {
		t.Errorf("pg_verifybackup: %v", o)
	}
}

// CheckNoStart proves that PostgreSQL does not start on what a failed restore has left.
func CheckNoStart(t testing.TB, target string) {
	t.Helper()
	CheckNoControl(t, target)
	if _, err := os.Stat(filepath.Join(target, "PG_VERSION")); errors.Is(err, fs.ErrNotExist) {
		return // nothing at all is there to start
	}
	c, err := pgtest.Attach(target, 15)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	if _, ended := errors.AsType[*pgtest.Ended](c.Launch(ctx)); !ended {
		t.Errorf("PostgreSQL started on the incomplete restore in %s", target)
	}
}

// CheckNoControl is the cheap form of checkNoStart: without pg_control no server starts.
func CheckNoControl(t testing.TB, target string) {
	t.Helper()
	if _, err := os.Lstat(filepath.Join(target, "global", "pg_control")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the restore to %s failed, and global/pg_control is in place (%v)", target, err)
	}
}

// Tree is the SHA-256 of every file below dir by relative path; directories and links have a word for it.
func Tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			files[rel] = "directory " + info.Mode().String()
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			files[rel] = fmt.Sprintf("%s %x", info.Mode(), sha256.Sum256(data))
		default:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			files[rel] = "link to " + to
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// Differences names what changed between two trees, briefly.
func Differences(a, b map[string]string) []string {
	var out []string
	for _, p := range slices.Sorted(maps.Keys(a)) {
		if _, ok := b[p]; !ok {
			out = append(out, p+" is gone")
		} else if a[p] != b[p] {
			out = append(out, p+" differs")
		}
	}
	for _, p := range slices.Sorted(maps.Keys(b)) {
		if _, ok := a[p]; !ok {
			out = append(out, p+" is new")
		}
	}
	return out[:min(len(out), 20)]
}

// Snapshot is the state of a repository that a test returns to. WAL is not part of it: it belongs to the
// cluster, which goes on.
type Snapshot struct {
	Repo  string
	Objs  map[string]string
	store storage.Store // nil: the directory itself
}

func TakeSnapshot(t testing.TB, r *FaultRig, server *s3server.Server) Snapshot {
	t.Helper()
	return Snapshot{r.Repo, Objects(t, r.Repo), OpenS3(t, server, server.Endpoint, retry.Policy{})}
}

// OpenS3 is the server's bucket as pgobj sees it, by way of an endpoint.
func OpenS3(t testing.TB, server *s3server.Server, endpoint string, policy retry.Policy) storage.Store {
	t.Helper()
	s, err := connect.Open(connect.Config{URL: server.URL(""), Endpoint: endpoint, Region: server.Region, Retry: policy,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: server.AccessKey, SecretAccessKey: server.SecretKey}, nil
		})})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func Objects(t testing.TB, repo string) map[string]string {
	t.Helper()
	all := Tree(t, repo)
	maps.DeleteFunc(all, func(path, what string) bool {
		return strings.HasPrefix(what, "directory") || strings.HasPrefix(path, "main/wal/") || strings.Contains(path, "/.tmp") || strings.Contains(path, ".sgwtmp")
	})
	return all
}

// Unchanged proves that everything older is as it was, byte for byte.
func (s Snapshot) Unchanged(t testing.TB) {
	t.Helper()
	now := Objects(t, s.Repo)
	for path, sum := range s.Objs {
		if now[path] != sum {
			t.Errorf("object %s was changed or removed", path)
		}
	}
}

// Rollback removes what came since.
func (s Snapshot) Rollback(t testing.TB) {
	t.Helper()
	for path := range Objects(t, s.Repo) {
		if _, old := s.Objs[path]; !old {
			var err error
			if s.store != nil {
				err = s.store.Delete(t.Context(), path) // not the file: the server has metadata of its own
			} else {
				err = os.Remove(filepath.Join(s.Repo, path))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// victim is the process that a fault kills. A request can only come from a process that runs, yet it may
// come before the test has heard of it: kill waits for that.
type victim struct {
	ready   chan struct{}
	once    sync.Once
	process *os.Process
	Dead    bool
}

func NewVictim() *victim { return &victim{ready: make(chan struct{})} }

func (v *victim) Started(p *os.Process) {
	v.process = p
	close(v.ready)
}

// Kill ends it with SIGKILL, and returns when none of its threads can do anything any more.
func (v *victim) Kill() {
	<-v.ready
	v.once.Do(func() {
		v.Dead = true
		_ = v.process.Kill() // it may just have ended
		for range 100_000 {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", v.process.Pid))
			_, state, _ := strings.Cut(string(stat), ") ")
			if err != nil || strings.HasPrefix(state, "Z") || strings.HasPrefix(state, "X") {
				return
			}
			time.Sleep(time.Millisecond) // a poll, bounded: the kernel is at it
		}
	})
}
