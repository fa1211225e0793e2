package s3store_test

import (
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/retry"
	"github.com/pgobj/pgobj/storage/s3store"
	"github.com/pgobj/pgobj/storage/storagetest"
	fp "github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/s3server"
)

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// cleanEnv leaves the AWS chain with nothing but what the test gives it.
func cleanEnv(t *testing.T) (credentialsFile string) {
	t.Helper()
	dir := t.TempDir()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	t.Setenv("HOME", dir)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	file := filepath.Join(dir, "credentials")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	return file
}

func writeCredentials(t *testing.T, file, key, secret string) {
	t.Helper()
	if err := os.WriteFile(file, fmt.Appendf(nil, "[default]\naws_access_key_id=%s\naws_secret_access_key=%s\nregion=us-east-1\n", key, secret), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCredentialsOfTheEnvironment(t *testing.T) {
	server := s3server.ForTest(t, s3server.Versity)
	cleanEnv(t)
	for _, d := range drivers {
		cfg := config(server)
		cfg.Credentials, cfg.Region, cfg.Prefix = nil, "", d.name
		before := open(t, d.open, cfg)
		storagetest.Refused(t, before, storage.KindDenied)
		for _, kv := range server.Env() {
			name, value, _ := strings.Cut(kv, "=")
			t.Setenv(name, value)
		}
		storagetest.PutBytes(t, open(t, d.open, cfg), "a", []byte("x"))
		for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"} {
			t.Setenv(name, "")
		}
	}
}

// Credentials that expire in the middle are read again: an agent may have replaced them in the file.
func TestExpiredCredentialsAreReadAgain(t *testing.T) {
	server := s3server.ForTest(t, s3server.Versity)
	file := cleanEnv(t)
	for _, d := range drivers {
		proxy := fp.ForTest(t, server.Endpoint)
		writeCredentials(t, file, "OLD", "old-secret")
		cfg := s3store.Config{Bucket: server.Bucket, Endpoint: proxy.URL, Prefix: d.name}
		old := func(r fp.Request) bool {
			return strings.Contains(r.Header.Get("Authorization"), "Credential=OLD/")
		}
		proxy.On(old, fp.Fail(400, "ExpiredToken"))
		direct := open(t, d.open, cfg)
		storagetest.Refused(t, direct, storage.KindDenied) // nothing new in the file: no use in trying
		s := retry.New(direct, retry.Policy{FirstWait: time.Millisecond}, slog.New(slog.DiscardHandler))
		writeCredentials(t, file, server.AccessKey, server.SecretKey)
		storagetest.PutBytes(t, s, "a", []byte("x"))
		if n := proxy.Count(old); n > 7 { // five operations and HEAD's second question; the put
			t.Errorf("%d requests with old credentials", n)
		}
	}
}

func TestConfigErrorsNameTheField(t *testing.T) {
	notPEM := filepath.Join(t.TempDir(), "ca")
	if err := os.WriteFile(notPEM, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		field string
		cfg   s3store.Config
	}{
		{"Bucket", s3store.Config{}},
		{"Bucket", s3store.Config{Bucket: "a/b"}},
		{"Prefix", s3store.Config{Bucket: "b", Prefix: "a//b"}},
		{"Prefix", s3store.Config{Bucket: "b", Prefix: "/a"}},
		{"Endpoint", s3store.Config{Bucket: "b", Endpoint: "localhost:9000"}},
		{"Endpoint", s3store.Config{Bucket: "b", Endpoint: "https://user:secret@host"}},
		{"Endpoint", s3store.Config{Bucket: "b", Endpoint: "https://host/path"}},
		{"Endpoint", s3store.Config{Bucket: "b", Endpoint: "ftp://host"}},
		{"CAFile", s3store.Config{Bucket: "b", Endpoint: "https://host", CAFile: "/no/such/file"}},
		{"CAFile", s3store.Config{Bucket: "b", Endpoint: "https://host", CAFile: notPEM}},
		{"CAFile", s3store.Config{Bucket: "b", Endpoint: "http://host", CAFile: notPEM}},
	} {
		for _, d := range drivers {
			_, err := d.open(c.cfg)
			ce, ok := err.(*s3store.ConfigError)
			if !ok || ce.Field != c.field || strings.Contains(err.Error(), "secret") {
				t.Errorf("%+v: %v", c.cfg, err)
			}
		}
	}
}

func TestUnreachableEndpoints(t *testing.T) {
	for _, d := range drivers {
		for endpoint, want := range map[string]storage.Kind{
			"http://127.0.0.1:1":               storage.KindTransient, // refused: a server that restarts
			"http://no-such-host.invalid:9000": storage.KindNoStore,
		} {
			s := open(t, d.open, s3store.Config{Bucket: "bucket", Endpoint: endpoint, Region: "us-east-1", Credentials: static("a", "b")})
			if err := putOne(t, s); storage.KindOf(err) != want {
				t.Errorf("%s: %v", endpoint, err)
			}
		}
	}
}
