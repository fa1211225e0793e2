package cli

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
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

func env(kv ...string) []string { return kv }

func TestSettingsThatCannotBeUsed(t *testing.T) {
	dir := testenv.Dir(t)
	s := &site.Site{Pgobj: testenv.Pgobj(t), Store: site.Store{Settings: env("PGOBJ_STORAGE=file://"+dir, "HOME="+dir)}}
	for _, command := range [][]string{{"backup-push"}, {"backup-list"}, {"backup-fetch", dir + "/target"}, {"wal-push", "pg_wal/000000010000000000000001"}} {
		s.Fails(t, env("PGOBJ_STORAGE="), site.ExitUsage, "usage", site.Says("--storage", "PGOBJ_STORAGE", "empty"), command...)
		s.Fails(t, env("PGOBJ_STORAGE=ftp://host/dir"), site.ExitUsage, "usage", site.Says("--storage (PGOBJ_STORAGE)", "ftp://host/dir", "file:///", "s3://"), command...)
	}
	for _, c := range []struct {
		settings []string
		says     []string
		args     []string
	}{
		{nil, site.Says("--storage", "two/slashes"), site.Says("backup-list", "--storage=file://two/slashes")},
		{env("PGOBJ_STORAGE=s3://"), site.Says("--storage", "bucket"), site.Says("backup-list")},
		{env("PGOBJ_STORAGE=s3://user:" + site.Canary + "@bucket/x"), site.Says("--storage"), site.Says("backup-list")},
		{env("PGOBJ_SERVER=a b"), site.Says("--server (PGOBJ_SERVER)", `"a b"`), site.Says("backup-list")},
		{env("PGOBJ_SERVER=.."), site.Says("--server (PGOBJ_SERVER)"), site.Says("backup-list")},
		{env("PGOBJ_SERVER=team/db"), site.Says("--server (PGOBJ_SERVER)", "two names"), site.Says("wal-push", "pg_wal/000000010000000000000001")},
		{env("PGOBJ_S3_DRIVER=gcs"), site.Says("--s3-driver", "gcs"), site.Says("backup-list")},
		{env("PGOBJ_S3_ENDPOINT=https://x"), site.Says("--s3-endpoint (PGOBJ_S3_ENDPOINT)"), site.Says("backup-list")},
		{env("PGOBJ_STORAGE=s3://b/p", "PGOBJ_S3_ENDPOINT=minio:9000"), site.Says("--s3-endpoint (PGOBJ_S3_ENDPOINT)", "http://host"), site.Says("backup-list")},
		{env("PGOBJ_STORAGE=s3://b/p", "PGOBJ_S3_CA_FILE="+dir+"/no.pem"), site.Says("--s3-ca-file (PGOBJ_S3_CA_FILE)", dir+"/no.pem"), site.Says("backup-list")},
		{env("PGOBJ_COMPRESSION=lzma"), site.Says("--compression (PGOBJ_COMPRESSION)", "lzma", "zstd"), site.Says("backup-push")},
		{env("PGOBJ_COMPRESSION=zstd:99"), site.Says("--compression (PGOBJ_COMPRESSION)", "99"), site.Says("backup-push")},
		{nil, site.Says("--label", "NAME=VALUE", "nightly"), site.Says("backup-push", "--label=nightly")},
		{nil, site.Says("--label", "who", "twice"), site.Says("backup-push", "--label=who=me", "--label=who=you")},
		{env("PGOBJ_JOBS=1000"), site.Says("--jobs (PGOBJ_JOBS)", "1000"), site.Says("backup-push")},
		{nil, site.Says("--jobs"), site.Says("backup-fetch", dir+"/target", "--jobs=-1")},
		{env("PGOBJ_RETRY_FOR=0s"), site.Says("--retry-for (PGOBJ_RETRY_FOR)"), site.Says("backup-list")},
		{nil, site.Says("--timeout (PGOBJ_TIMEOUT)"), site.Says("backup-list", "--timeout=-1s")},
		{env("PGOBJ_LOG_LEVEL=loud"), site.Says("--log-level", "loud"), site.Says("backup-list")},
		{nil, site.Says("--target-time", "tomorrow"), site.Says("backup-fetch", dir+"/target", "--target-time=tomorrow")},
		{nil, site.Says("--target-action", "explode"), site.Says("backup-fetch", dir+"/target", "--target-action=explode")},
		{nil, site.Says("--no-such-flag"), site.Says("backup-list", "--no-such-flag")},
		{nil, nil, site.Says("backup-lits")},
		{nil, nil, nil},
	} {
		s.Fails(t, c.settings, site.ExitUsage, "usage", c.says, c.args...)
	}
	s.Fails(t, env("PGOBJ_STORAGE=file://"+dir+"/missing"), site.ExitNoStore, "no-storage-directory", site.Says(dir+"/missing"), "backup-list")
	if made, err := os.ReadDir(dir); err != nil || len(made) != 0 {
		t.Errorf("commands that failed made %v (%v)", made, err)
	}
}

func TestStorageThatRefuses(t *testing.T) {
	for _, kind := range []s3server.Kind{s3server.MinIOTLS, s3server.Versity} {
		server := s3server.ForTest(t, kind)
		for _, driver := range []string{"minio", "aws"} {
			t.Run(string(kind)+" "+driver, func(t *testing.T) {
				s := &site.Site{Pgobj: testenv.Pgobj(t), Store: site.S3Store(t, server, driver)}
				s.Fails(t, env("PGOBJ_STORAGE=s3://no-such-bucket/p"), site.ExitNoStore, "no-bucket", site.Says("no-such-bucket"), "backup-list")
				s.Fails(t, env("AWS_ACCESS_KEY_ID="+server.AccessKey, "AWS_SECRET_ACCESS_KEY="+site.Canary), site.ExitDenied, "bad-credentials", nil, "--log-level=debug", "backup-list")
				s.Fails(t, env("AWS_ACCESS_KEY_ID=nobody", "AWS_SECRET_ACCESS_KEY="+site.Canary), site.ExitDenied, "bad-credentials", nil, "--log-level=debug", "backup-list")
			})
		}
	}
}

// A service that is down is asked again for minutes; meanwhile the user sees which, and may stop waiting.
func TestStorageThatDoesNotAnswer(t *testing.T) {
	s := &site.Site{Pgobj: testenv.Pgobj(t), Store: site.Store{Settings: env("PGOBJ_STORAGE=s3://bucket/p", "PGOBJ_S3_ENDPOINT=http://127.0.0.1:1", "AWS_REGION=r"),
		Credentials: env("AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY="+site.Canary)}}
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
	cmd := s.Command("backup-list")
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
	if code := cmd.ProcessState.ExitCode(); code != site.ExitInterrupted || !strings.Contains(said(), "ERROR:  interrupted") || strings.Contains(said(), site.Canary) {
		t.Errorf("exit code %d: %s", code, said())
	}
}

// How long that goes on is the user's to say: for one operation, and for the whole command.
func TestPatience(t *testing.T) {
	dir := testenv.Dir(t)
	s := &site.Site{Pgobj: testenv.Pgobj(t), Store: site.Store{Settings: env("PGOBJ_STORAGE=s3://bucket/p", "PGOBJ_S3_ENDPOINT=http://127.0.0.1:1", "AWS_REGION=r", "HOME="+dir),
		Credentials: env("AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY="+site.Canary)}}
	for _, command := range [][]string{{"backup-list"}, {"backup-push"}, {"backup-fetch", dir + "/target"}, {"wal-list"}} {
		s.Fails(t, nil, site.ExitStorage, "storage-unavailable", site.Says("127.0.0.1:1", "gave up after"), append(command, "--retry-for=1s")...)
		s.Fails(t, env("PGOBJ_TIMEOUT=1s"), site.ExitTimeout, "timeout", site.Says("--timeout 1s", "127.0.0.1:1"), command...)
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
	s := &site.Site{Pgobj: testenv.Pgobj(t), Store: site.Store{Settings: env("PGOBJ_STORAGE=s3://bucket/p", "PGOBJ_S3_ENDPOINT=https://"+l.Addr().String(), "AWS_REGION=r"),
		Credentials: env("AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY="+site.Canary)}}
	for _, driver := range []string{"minio", "aws"} {
		s.Fails(t, env("PGOBJ_S3_DRIVER="+driver), site.ExitNoStore, "storage-without-tls", nil, "backup-list")
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
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{})
	target := filepath.Join(testenv.Dir(t), "target")
	s.Fails(t, nil, site.ExitNotFound, "no-backup", nil, "backup-fetch", target)
	s.Archived(t)
	if o := s.Must(t, "backup-list"); o.Out != "" || !strings.Contains(o.Err, "no backup") {
		t.Errorf("backup-list of nothing: %v", o)
	}
	if o := s.Must(t, "backup-list", "--json"); strings.TrimSpace(o.Out) != "[]" {
		t.Errorf("backup-list --json of nothing: %v", o)
	}
	b := s.Backup(t)
	s.Archived(t)
	before := site.Objects(t, s.Directory)

	s.Fails(t, nil, site.ExitNotFound, "no-backup", site.Says("20200101T000000Z-0000", b.Backup), "backup-fetch", target, "20200101T000000Z-0000")
	s.Fails(t, nil, site.ExitUnreachable, "unreachable-target", site.Says(b.Backup, "2001"), "backup-fetch", target, "--target-time", "2001-01-01 00:00:00+00")
	s.Fails(t, nil, site.ExitUnreachable, "unreachable-target", site.Says(b.Backup, "2001"), "backup-fetch", target, b.Backup, "--target-time", "2001-01-01 00:00:00+00")
	if _, err := os.Lstat(target); err == nil {
		t.Error("a restore that was refused has made its target")
	}
	s.Eventually(t, `SELECT count(*) FROM pg_ls_dir('pg_wal/archive_status') f WHERE f LIKE '%.ready'`, "0")
	running := site.Tree(t, s.Data)
	s.Fails(t, nil, site.ExitTarget, "restore-directory", site.Says(s.Data, "runs"), "backup-fetch", s.Data)
	site.WriteFile(t, filepath.Join(filepath.Dir(target), "precious"), "data", 0o600)
	s.Fails(t, nil, site.ExitTarget, "restore-directory", site.Says("not empty", "precious"), "backup-fetch", filepath.Dir(target))
	s.Fails(t, nil, site.ExitTarget, "restore-directory", site.Says("precious"), "backup-fetch", filepath.Join(filepath.Dir(target), "precious"))
	if diff := site.Differences(running, site.Tree(t, s.Data)); len(diff) != 0 {
		t.Errorf("a restore onto a running server changed %v", diff)
	}
	s.Fails(t, nil, site.ExitPostgres, "cannot-connect", nil, "backup-push", "--dsn", "host=127.0.0.1 port=1 user=u password="+site.Canary)
	s.Fails(t, env("PGPASSWORD="+site.Canary, "PGHOST=127.0.0.1", "PGPORT=1"), site.ExitPostgres, "cannot-connect", nil, "backup-push")

	t.Run("another cluster", func(t *testing.T) {
		other := site.NewSite(t, s.Store, pgtest.Options{})
		theirs := other.SQL(t, `SELECT system_identifier FROM pg_control_system()`)
		other.Fails(t, nil, site.ExitConflict, "catalog-of-other-cluster", site.Says(b.SystemID, theirs, "--server", "--new-incarnation"), "backup-push")
		s.Fails(t, nil, site.ExitPostgres, "backup-not-allowed", site.Says(other.Data, theirs, b.SystemID), "backup-push", other.Data)
		s.Fails(t, nil, 1, "other", site.Says("/nowhere"), "backup-push", "/nowhere")
	})
	t.Run("no archiving", func(t *testing.T) {
		off := site.NewSite(t, site.Store{Settings: append(slices.Clone(s.Settings), "PGOBJ_SERVER=off")}, pgtest.Options{Conf: []string{"archive_mode = off"}})
		off.Fails(t, nil, site.ExitPostgres, "backup-not-allowed", site.Says("archive_mode"), "backup-push")
		off.Exec(t, `ALTER SYSTEM SET archive_mode = on`)
		off.Exec(t, `ALTER SYSTEM SET archive_command = ''`)
		off.Restart(t)
		off.Fails(t, nil, site.ExitPostgres, "backup-not-allowed", site.Says("archive_command"), "backup-push")
		off.Exec(t, `ALTER SYSTEM SET archive_command = 'false'`)
		off.Exec(t, `SELECT pg_reload_conf()`)
		off.Eventually(t, `SHOW archive_command`, "false")
		off.Fails(t, nil, site.ExitWAL, "backup-wal-missing", site.Says("0000000100000000", "archive_command"), "backup-push", "--wal-timeout=2s")
		if list := off.List(t); len(list) != 0 {
			t.Errorf("a backup without its WAL is listed: %+v", list)
		}
	})
	after := site.Objects(t, s.Directory)
	maps.DeleteFunc(after, func(key, _ string) bool { return strings.HasPrefix(key, "off/") })
	if diff := site.Differences(before, after); len(diff) != 0 {
		t.Errorf("what was refused changed the repository: %v", diff)
	}
}

func TestListAndVersion(t *testing.T) {
	s := site.NewSite(t, site.DirectoryStore(t), pgtest.Options{Template: true})
	first := s.Backup(t, "--label", "job=nightly, with \"quotes\"", "--label=who=me")
	s.Exec(t, `CREATE TABLE more AS SELECT i FROM generate_series(1, 100000) i`)
	second := s.Backup(t)
	if first.Labels["job"] != `nightly, with "quotes"` || first.Labels["who"] != "me" || first.Timeline != 1 || first.PGVersion/10000 != 15 || first.SystemID == "" || first.Size < 1<<20 || first.Files < 500 ||
		first.Stored <= 0 || first.Stored >= first.Size || second.Size <= first.Size || first.FirstWAL > first.LastWAL || len(first.LastWAL) != 24 ||
		first.Consistent.Before(first.Started) || first.Finished.Before(first.Consistent) || second.Started.Before(first.Finished) {
		t.Errorf("the list has\n%+v\n%+v", first, second)
	}
	var raw []map[string]any
	if err := json.Unmarshal([]byte(s.Must(t, "backup-list", "--json").Out), &raw); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"backup", "system_id", "pg_version", "started", "consistent", "finished", "timeline", "start_lsn", "stop_lsn",
		"first_wal", "last_wal", "size", "files", "stored", "damaged_pages"} {
		if _, ok := raw[1][key]; !ok {
			t.Errorf("backup-list --json has no %s: %v", key, raw[1])
		}
	}
	table := s.Must(t, "backup-list")
	lines := strings.Split(strings.TrimSpace(table.Out), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "BACKUP") || !strings.HasPrefix(lines[1], first.Backup) || !strings.HasPrefix(lines[2], second.Backup) {
		t.Fatalf("backup-list: %v", table)
	}
	for _, text := range []string{first.Started.UTC().Format("2006-01-02 15:04:05"), first.FirstWAL, first.StartLSN, `job='nightly, with "quotes"' who=me`, " MB", "15."} {
		if !strings.Contains(lines[1], text) {
			t.Errorf("the line of the first backup does not have %q: %s", text, lines[1])
		}
	}
	version := s.Run(t, "version")
	if version.Code != 0 || version.Err != "" || !regexp.MustCompile(`^pgobj \S+ \(repository format 1, go1\.\S+ linux/\w+\)\n$`).MatchString(version.Out) {
		t.Errorf("version: %v", version)
	}
	if help := s.Run(t, "--help"); help.Code != 0 || !strings.Contains(help.Out, "backup-push") || !strings.Contains(help.Out, "$PGOBJ_STORAGE") {
		t.Errorf("help: %v", help)
	}
}
