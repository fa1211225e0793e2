package test

import (
	"encoding/json"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/s3server"
	"github.com/pgobj/pgobj/test/testenv"
)

// Exit codes beside those of the fault tests.
const (
	exitUsage    = 2
	exitStorage  = 3
	exitTimeout  = 18
	exitDenied   = 4
	exitNoStore  = 5
	exitNotFound = 6
	exitConflict = 7
)

// canary stands for every secret. It must not come back out of pgobj, however wrong it is.
const canary = "CANARY/s3cr3t+wJalrXUtnFEMI"

// fails runs pgobj with other settings on top, and checks how it refuses: exit code, and texts on stderr.
func (s *site) fails(t testing.TB, settings []string, code int, texts []string, args ...string) {
	t.Helper()
	cmd := s.command(args...)
	cmd.Env = append(cmd.Env, settings...)
	o := finish(t, cmd)
	line := strings.Join(append(slices.Clone(settings), args...), " ")
	if o.code != code || o.out != "" || !strings.Contains(o.err, "ERROR:  ") {
		t.Errorf("%s: %v, want exit code %d, an ERROR and nothing on stdout", line, o, code)
	}
	for _, text := range texts {
		if !strings.Contains(o.err, text) {
			t.Errorf("%s: stderr does not say %q: %s", line, text, o.err)
		}
	}
	if strings.Contains(o.err, canary) {
		t.Errorf("%s: stderr has the secret: %s", line, o.err)
	}
}

func env(kv ...string) []string     { return kv }
func says(texts ...string) []string { return texts }

func TestSettingsThatCannotBeUsed(t *testing.T) {
	dir := testenv.Dir(t)
	s := &site{pgobj: testenv.Pgobj(t), store: store{settings: env("PGOBJ_STORAGE=file://"+dir, "HOME="+dir)}}
	for _, command := range [][]string{{"backup-push"}, {"backup-list"}, {"backup-fetch", dir + "/target"}, {"wal-push", "pg_wal/000000010000000000000001"}} {
		s.fails(t, env("PGOBJ_STORAGE="), exitUsage, says("--storage", "PGOBJ_STORAGE", "empty"), command...)
		s.fails(t, env("PGOBJ_STORAGE=ftp://host/dir"), exitUsage, says("--storage (PGOBJ_STORAGE)", "ftp://host/dir", "file:///", "s3://"), command...)
	}
	for _, c := range []struct {
		settings []string
		code     int
		says     []string
		args     []string
	}{
		{nil, exitUsage, says("--storage", "two/slashes"), says("backup-list", "--storage=file://two/slashes")},
		{env("PGOBJ_STORAGE=s3://"), exitUsage, says("--storage", "bucket"), says("backup-list")},
		{env("PGOBJ_STORAGE=s3://user:" + canary + "@bucket/x"), exitUsage, says("--storage"), says("backup-list")},
		{env("PGOBJ_STORAGE=file://" + dir + "/missing"), exitNoStore, says(dir+"/missing", "HINT:", "--storage"), says("backup-list")},
		{env("PGOBJ_SERVER=a b"), exitUsage, says("--server (PGOBJ_SERVER)", `"a b"`), says("backup-list")},
		{env("PGOBJ_SERVER=.."), exitUsage, says("--server (PGOBJ_SERVER)"), says("backup-list")},
		{env("PGOBJ_SERVER=team/db"), exitUsage, says("--server (PGOBJ_SERVER)", "two names"), says("wal-push", "pg_wal/000000010000000000000001")},
		{env("PGOBJ_S3_DRIVER=gcs"), exitUsage, says("--s3-driver", "gcs"), says("backup-list")},
		{env("PGOBJ_S3_ENDPOINT=https://x"), exitUsage, says("--s3-endpoint (PGOBJ_S3_ENDPOINT)"), says("backup-list")},
		{env("PGOBJ_STORAGE=s3://b/p", "PGOBJ_S3_ENDPOINT=minio:9000"), exitUsage, says("--s3-endpoint (PGOBJ_S3_ENDPOINT)", "http://host"), says("backup-list")},
		{env("PGOBJ_STORAGE=s3://b/p", "PGOBJ_S3_CA_FILE="+dir+"/no.pem"), exitUsage, says("--s3-ca-file (PGOBJ_S3_CA_FILE)", dir+"/no.pem"), says("backup-list")},
		{env("PGOBJ_COMPRESSION=lzma"), exitUsage, says("--compression (PGOBJ_COMPRESSION)", "lzma", "zstd"), says("backup-push")},
		{env("PGOBJ_COMPRESSION=zstd:99"), exitUsage, says("--compression (PGOBJ_COMPRESSION)", "99"), says("backup-push")},
		{nil, exitUsage, says("--label", "NAME=VALUE", "nightly"), says("backup-push", "--label=nightly")},
		{nil, exitUsage, says("--label", "who", "twice"), says("backup-push", "--label=who=me", "--label=who=you")},
		{env("PGOBJ_JOBS=1000"), exitUsage, says("--jobs (PGOBJ_JOBS)", "1000"), says("backup-push")},
		{nil, exitUsage, says("--jobs"), says("backup-fetch", dir+"/target", "--jobs=-1")},
		{env("PGOBJ_RETRY_FOR=0s"), exitUsage, says("--retry-for (PGOBJ_RETRY_FOR)"), says("backup-list")},
		{nil, exitUsage, says("--timeout (PGOBJ_TIMEOUT)"), says("backup-list", "--timeout=-1s")},
		{env("PGOBJ_LOG_LEVEL=loud"), exitUsage, says("--log-level", "loud"), says("backup-list")},
		{nil, exitUsage, says("--target-time", "tomorrow"), says("backup-fetch", dir+"/target", "--target-time=tomorrow")},
		{nil, exitUsage, says("--target-action", "explode"), says("backup-fetch", dir+"/target", "--target-action=explode")},
		{nil, exitUsage, says("--no-such-flag"), says("backup-list", "--no-such-flag")},
		{nil, exitUsage, nil, says("backup-lits")},
		{nil, exitUsage, nil, nil},
	} {
		s.fails(t, c.settings, c.code, c.says, c.args...)
	}
	if made, err := os.ReadDir(dir); err != nil || len(made) != 0 {
		t.Errorf("commands that failed made %v (%v)", made, err)
	}
}

func TestStorageThatRefuses(t *testing.T) {
	for _, kind := range []s3server.Kind{s3server.MinIOTLS, s3server.Versity} {
		server := s3server.ForTest(t, kind)
		for _, driver := range []string{"minio", "aws"} {
			t.Run(string(kind)+" "+driver, func(t *testing.T) {
				s := &site{pgobj: testenv.Pgobj(t), store: s3Store(t, server, driver)}
				s.fails(t, env("PGOBJ_STORAGE=s3://no-such-bucket/p"), exitNoStore, says("no-such-bucket", "HINT:", "--storage"), "backup-list")
				s.fails(t, env("AWS_ACCESS_KEY_ID="+server.AccessKey, "AWS_SECRET_ACCESS_KEY="+canary), exitDenied, says("HINT:", "credentials"), "--log-level=debug", "backup-list")
				s.fails(t, env("AWS_ACCESS_KEY_ID=nobody", "AWS_SECRET_ACCESS_KEY="+canary), exitDenied, says("HINT:", "credentials"), "--log-level=debug", "backup-list")
			})
		}
	}
}

// A service that is down is asked again for minutes; meanwhile the user sees which, and may stop waiting.
func TestStorageThatDoesNotAnswer(t *testing.T) {
	s := &site{pgobj: testenv.Pgobj(t), store: store{settings: env("PGOBJ_STORAGE=s3://bucket/p", "PGOBJ_S3_ENDPOINT=http://127.0.0.1:1", "AWS_REGION=r"),
		credentials: env("AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY="+canary)}}
	file := filepath.Join(testenv.Dir(t), "log")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	said := func() string {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	cmd := s.command("backup-list")
	cmd.Stderr = f
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }() // in case that it never says anything
	testenv.Eventually(t, time.Minute, "pgobj says what it waits for", func() bool {
		return strings.Contains(said(), "level=WARN") && strings.Contains(said(), "127.0.0.1:1: connect: connection refused")
	})
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its exit code is looked at
	if code := cmd.ProcessState.ExitCode(); code != exitInterrupted || !strings.Contains(said(), "ERROR:  interrupted") || strings.Contains(said(), canary) {
		t.Errorf("exit code %d: %s", code, said())
	}
}

// How long that goes on is the user's to say: for one operation, and for the whole command.
func TestPatience(t *testing.T) {
	dir := testenv.Dir(t)
	s := &site{pgobj: testenv.Pgobj(t), store: store{settings: env("PGOBJ_STORAGE=s3://bucket/p", "PGOBJ_S3_ENDPOINT=http://127.0.0.1:1", "AWS_REGION=r", "HOME="+dir),
		credentials: env("AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY="+canary)}}
	for _, command := range [][]string{{"backup-list"}, {"backup-push"}, {"backup-fetch", dir + "/target"}, {"wal-list"}} {
		s.fails(t, nil, exitStorage, says("127.0.0.1:1", "gave up after", "HINT:"), append(command, "--retry-for=1s")...)
		s.fails(t, env("PGOBJ_TIMEOUT=1s"), exitTimeout, says("not finished within --timeout 1s", "127.0.0.1:1", "HINT:"), command...)
	}
}

// What answers but is no S3 service will not become one by asking again.
func TestEndpointThatIsNoStorage(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go answerAsSSH(l) // ends with the listener
	s := &site{pgobj: testenv.Pgobj(t), store: store{settings: env("PGOBJ_STORAGE=s3://bucket/p", "PGOBJ_S3_ENDPOINT=https://"+l.Addr().String(), "AWS_REGION=r"),
		credentials: env("AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY="+canary)}}
	for _, driver := range []string{"minio", "aws"} {
		s.fails(t, env("PGOBJ_S3_DRIVER="+driver), exitNoStore, says("does not speak TLS", "--s3-endpoint"), "backup-list")
	}
}

func answerAsSSH(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = c.Read(make([]byte, 4096)) // else the close would be a reset
		_, _ = c.Write([]byte("SSH-2.0-OpenSSH_9.2\r\n"))
		_ = c.Close()
	}
}

// TestRefusals: what would go wrong later is refused at once, by name, and nothing is changed.
func TestRefusals(t *testing.T) {
	s := newSite(t, folderStore(t), pgtest.Options{})
	target := filepath.Join(testenv.Dir(t), "target")
	s.fails(t, nil, exitNotFound, says("no complete backup", "HINT:"), "backup-fetch", target)
	s.archived(t)
	if o := s.must(t, "backup-list"); o.out != "" || !strings.Contains(o.err, "no backup") {
		t.Errorf("backup-list of nothing: %v", o)
	}
	if o := s.must(t, "backup-list", "--json"); strings.TrimSpace(o.out) != "[]" {
		t.Errorf("backup-list --json of nothing: %v", o)
	}
	b := s.backup(t)
	s.archived(t)
	before := objects(t, s.folder)

	s.fails(t, nil, exitNotFound, says("20200101T000000Z-0000", b.Backup, "backup-list"), "backup-fetch", target, "20200101T000000Z-0000")
	s.fails(t, nil, exitUnreachable, says(b.Backup, "old enough", "2001"), "backup-fetch", target, "--target-time", "2001-01-01 00:00:00+00")
	s.fails(t, nil, exitUnreachable, says(b.Backup, "2001"), "backup-fetch", target, b.Backup, "--target-time", "2001-01-01 00:00:00+00")
	if _, err := os.Lstat(target); err == nil {
		t.Error("a restore that was refused has made its target")
	}
	s.Eventually(t, `SELECT count(*) FROM pg_ls_dir('pg_wal/archive_status') f WHERE f LIKE '%.ready'`, "0")
	running := tree(t, s.Data)
	s.fails(t, nil, exitTarget, says(s.Data, "runs"), "backup-fetch", s.Data)
	writeFile(t, filepath.Join(filepath.Dir(target), "precious"), "data", 0o600)
	s.fails(t, nil, exitTarget, says("not empty", "precious"), "backup-fetch", filepath.Dir(target))
	s.fails(t, nil, exitTarget, says("precious"), "backup-fetch", filepath.Join(filepath.Dir(target), "precious"))
	if diff := differences(running, tree(t, s.Data)); len(diff) != 0 {
		t.Errorf("a restore onto a running server changed %v", diff)
	}
	s.fails(t, nil, exitPostgres, says("connect to PostgreSQL"), "backup-push", "--dsn", "host=127.0.0.1 port=1 user=u password="+canary)
	s.fails(t, env("PGPASSWORD="+canary, "PGHOST=127.0.0.1", "PGPORT=1"), exitPostgres, says("connect to PostgreSQL"), "backup-push")

	t.Run("another cluster", func(t *testing.T) {
		other := newSite(t, s.store, pgtest.Options{})
		theirs := other.SQL(t, `SELECT system_identifier FROM pg_control_system()`)
		other.fails(t, nil, exitConflict, says(b.SystemID, theirs, "--server", "--new-incarnation"), "backup-push")
		s.fails(t, nil, exitPostgres, says(other.Data, theirs, b.SystemID), "backup-push", other.Data)
		s.fails(t, nil, 1, says("/nowhere"), "backup-push", "/nowhere")
	})
	t.Run("no archiving", func(t *testing.T) {
		off := newSite(t, store{settings: append(slices.Clone(s.settings), "PGOBJ_SERVER=off")}, pgtest.Options{Conf: []string{"archive_mode = off"}})
		off.fails(t, nil, exitPostgres, says("archive_mode is off", "wal-push"), "backup-push")
		off.Exec(t, `ALTER SYSTEM SET archive_mode = on`)
		off.Exec(t, `ALTER SYSTEM SET archive_command = ''`)
		off.Restart(t)
		off.fails(t, nil, exitPostgres, says("archive_command is empty", "wal-push"), "backup-push")
		off.Exec(t, `ALTER SYSTEM SET archive_command = 'false'`)
		off.Exec(t, `SELECT pg_reload_conf()`)
		off.Eventually(t, `SHOW archive_command`, "false")
		off.fails(t, nil, exitWAL, says("segment 0000000100000000", "archive_command failed", "pg_stat_archiver"), "backup-push", "--wal-timeout=2s")
		if list := off.list(t); len(list) != 0 {
			t.Errorf("a backup without its WAL is listed: %+v", list)
		}
	})
	after := objects(t, s.folder)
	maps.DeleteFunc(after, func(key, _ string) bool { return strings.HasPrefix(key, "off/") })
	if diff := differences(before, after); len(diff) != 0 {
		t.Errorf("what was refused changed the repository: %v", diff)
	}
}

func TestListAndVersion(t *testing.T) {
	s := newSite(t, folderStore(t), pgtest.Options{Template: true})
	first := s.backup(t, "--label", "job=nightly, with \"quotes\"", "--label=who=me")
	s.Exec(t, `CREATE TABLE more AS SELECT i FROM generate_series(1, 100000) i`)
	second := s.backup(t)
	if first.Labels["job"] != `nightly, with "quotes"` || first.Labels["who"] != "me" || first.Timeline != 1 || first.PGVersion/10000 != 15 || first.SystemID == "" || first.Size < 1<<20 || first.Files < 500 ||
		first.Stored <= 0 || first.Stored >= first.Size || second.Size <= first.Size || first.FirstWAL > first.LastWAL || len(first.LastWAL) != 24 ||
		first.Consistent.Before(first.Started) || first.Finished.Before(first.Consistent) || second.Started.Before(first.Finished) {
		t.Errorf("the list has\n%+v\n%+v", first, second)
	}
	var raw []map[string]any
	if err := json.Unmarshal([]byte(s.must(t, "backup-list", "--json").out), &raw); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"backup", "system_id", "pg_version", "started", "consistent", "finished", "timeline", "start_lsn", "stop_lsn",
		"first_wal", "last_wal", "size", "files", "stored", "damaged_pages"} {
		if _, ok := raw[1][key]; !ok {
			t.Errorf("backup-list --json has no %s: %v", key, raw[1])
		}
	}
	table := s.must(t, "backup-list")
	lines := strings.Split(strings.TrimSpace(table.out), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "BACKUP") || !strings.HasPrefix(lines[1], first.Backup) || !strings.HasPrefix(lines[2], second.Backup) {
		t.Fatalf("backup-list: %v", table)
	}
	for _, text := range []string{first.Started.UTC().Format("2006-01-02 15:04:05"), first.FirstWAL, first.StartLSN, `job='nightly, with "quotes"' who=me`, " MB", "15."} {
		if !strings.Contains(lines[1], text) {
			t.Errorf("the line of the first backup does not have %q: %s", text, lines[1])
		}
	}
	version := s.run(t, "version")
	if version.code != 0 || version.err != "" || !regexp.MustCompile(`^pgobj \S+ \(repository format 1, go1\.\S+ linux/\w+\)\n$`).MatchString(version.out) {
		t.Errorf("version: %v", version)
	}
	if help := s.run(t, "--help"); help.code != 0 || !strings.Contains(help.out, "backup-push") || !strings.Contains(help.out, "$PGOBJ_STORAGE") {
		t.Errorf("help: %v", help)
	}
}
