package connect_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/connect"
	"github.com/pgobj/pgobj/storage/retry"
	"github.com/pgobj/pgobj/storage/storagetest"
	"github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/s3server"
)

func TestSettingsThatCannotBeUsed(t *testing.T) {
	notPEM := filepath.Join(t.TempDir(), "ca")
	if err := os.WriteFile(notPEM, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	s3 := func(change func(*connect.Config)) connect.Config {
		cfg := connect.Config{URL: "s3://bucket/prefix"}
		change(&cfg)
		return cfg
	}
	file := func(change func(*connect.Config)) connect.Config {
		cfg := connect.Config{URL: "file:///backups"}
		change(&cfg)
		return cfg
	}
	for _, c := range []struct {
		setting string // flag and variable
		says    string
		cfg     connect.Config
	}{
		{"--storage (PGOBJ_STORAGE)", "s3://bucket/prefix", connect.Config{}},
		{"--storage (PGOBJ_STORAGE)", "s3://bucket/prefix", connect.Config{URL: "/backups"}},
		{"--storage (PGOBJ_STORAGE)", "s3://bucket/prefix", connect.Config{URL: "gs://bucket"}},
		{"--storage (PGOBJ_STORAGE)", "s3://bucket/prefix", connect.Config{URL: "s3://%zz"}},
		{"--storage (PGOBJ_STORAGE)", "no bucket", connect.Config{URL: "s3://"}},
		{"--storage (PGOBJ_STORAGE)", "no bucket", connect.Config{URL: "s3:///prefix"}},
		{"--storage (PGOBJ_STORAGE)", "user or password", connect.Config{URL: "s3://key:hunter2@bucket/prefix"}},
		{"--storage (PGOBJ_STORAGE)", "not understood", connect.Config{URL: "s3://bucket/prefix?region=x"}},
		{"--storage (PGOBJ_STORAGE)", "not allowed", connect.Config{URL: "s3://bucket/a b"}},
		{"--storage (PGOBJ_STORAGE)", "bucket name", connect.Config{URL: "s3://bucket:9000/prefix"}},
		{"--storage (PGOBJ_STORAGE)", "three slashes", connect.Config{URL: "file://backups/main"}},
		{"--storage (PGOBJ_STORAGE)", "three slashes", connect.Config{URL: "file:///"}},
		{"--s3-endpoint (PGOBJ_S3_ENDPOINT)", "https://host", s3(func(c *connect.Config) { c.Endpoint = "localhost:9000" })},
		{"--s3-endpoint (PGOBJ_S3_ENDPOINT)", "no user", s3(func(c *connect.Config) { c.Endpoint = "https://u:hunter2@host" })},
		{"--s3-ca-file (PGOBJ_S3_CA_FILE)", "no such file", s3(func(c *connect.Config) { c.CAFile = "/no/such/file" })},
		{"--s3-ca-file (PGOBJ_S3_CA_FILE)", "PEM", s3(func(c *connect.Config) { c.CAFile = notPEM })},
		{"--s3-path-style (PGOBJ_S3_PATH_STYLE)", "auto, true or false", s3(func(c *connect.Config) { c.PathStyle = "yes" })},
		{"--s3-driver (PGOBJ_S3_DRIVER)", "auto, aws or minio", s3(func(c *connect.Config) { c.Driver = "gcs" })},
		{"--s3-endpoint (PGOBJ_S3_ENDPOINT)", "s3:// only", file(func(c *connect.Config) { c.Endpoint = "https://host" })},
		{"--s3-region (PGOBJ_S3_REGION)", "s3:// only", file(func(c *connect.Config) { c.Region = "x" })},
		{"--s3-ca-file (PGOBJ_S3_CA_FILE)", "s3:// only", file(func(c *connect.Config) { c.CAFile = notPEM })},
		{"--s3-path-style (PGOBJ_S3_PATH_STYLE)", "s3:// only", file(func(c *connect.Config) { c.PathStyle = "true" })},
		{"--s3-driver (PGOBJ_S3_DRIVER)", "s3:// only", file(func(c *connect.Config) { c.Driver = "aws" })},
	} {
		_, err := connect.Open(c.cfg)
		se, ok := errors.AsType[*connect.SettingError](err)
		if !ok || se.Setting != c.setting || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%+v: want %s, %s; got: %v", c.cfg, c.setting, c.says, err)
		}
	}
}

func TestFileURL(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "with space", "äöü")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := connect.Open(connect.Config{URL: "file://" + strings.ReplaceAll(dir, " ", "%20") + "/new/", Create: true, Driver: "auto", PathStyle: "auto"})
	if err != nil {
		t.Fatal(err)
	}
	storagetest.PutBytes(t, s, "a/b", []byte("x"))
	if _, err := os.Stat(filepath.Join(dir, "new", "a", "b")); err != nil {
		t.Error(err)
	}
}

func TestS3URLWithRetries(t *testing.T) {
	server := s3server.ForTest(t, s3server.Versity)
	for _, driver := range []string{"auto", "aws", "minio"} {
		proxy := faultproxy.ForTest(t, server.Endpoint)
		proxy.Times(2, faultproxy.Always, faultproxy.Fail(503, "SlowDown"))
		var log bytes.Buffer
		s, err := connect.Open(connect.Config{URL: server.URL("deep/" + driver + "/"), Endpoint: proxy.URL, Driver: driver, Region: server.Region,
			Credentials: credentials.NewStaticCredentialsProvider(server.AccessKey, server.SecretKey, ""),
			Retry:       retry.Policy{FirstWait: time.Millisecond}, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		storagetest.PutBytes(t, s, "a/b", []byte("x"))
		if _, err := os.Stat(filepath.Join(server.Dir, "deep", driver, "a", "b")); err != nil {
			t.Error(err)
		}
		if n := strings.Count(log.String(), "SlowDown"); n != 2 {
			t.Errorf("%d warnings: %s", n, &log)
		}
		if want := server.URL("deep/" + driver); s.String() != want {
			t.Errorf("store is called %s, not %s", s, want)
		}
		agent := proxy.Requests()[0].Header.Get("User-Agent")
		if isAWS := strings.Contains(agent, "aws-sdk-go"); isAWS != (driver == "aws") {
			t.Errorf("driver %s is %q", driver, agent)
		}
		_, err = s.Get(t.Context(), "absent", storage.All)
		if !errors.Is(err, storage.ErrNotFound) {
			t.Error(err)
		}
	}
}
