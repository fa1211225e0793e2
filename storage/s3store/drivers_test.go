package s3store_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/minio"
	"github.com/pgobj/pgobj/storage/s3"
	"github.com/pgobj/pgobj/storage/s3store"
	"github.com/pgobj/pgobj/storage/storagetest"
	"github.com/pgobj/pgobj/test/s3server"
)

// drivers are tested here together: the same cases on the same servers show where they differ.
var drivers = []struct {
	name string
	open func(s3store.Config) (storage.Store, error)
}{{"aws", s3.New}, {"minio", minio.New}}

func config(s *s3server.Server) s3store.Config {
	return s3store.Config{Bucket: s.Bucket, Endpoint: s.Endpoint, CAFile: s.CAFile, Region: s.Region, Credentials: static(s.AccessKey, s.SecretKey)}
}

func static(key, secret string) aws.CredentialsProvider {
	return credentials.NewStaticCredentialsProvider(key, secret, "")
}

func open(t *testing.T, new func(s3store.Config) (storage.Store, error), cfg s3store.Config) storage.Store {
	t.Helper()
	s, err := new(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	for _, kind := range []s3server.Kind{s3server.MinIOTLS, s3server.Versity} {
		server := s3server.ForTest(t, kind)
		var prefixes atomic.Int64
		for _, d := range drivers {
			t.Run(fmt.Sprintf("%s on %s", d.name, kind), func(t *testing.T) {
				storagetest.Run(t, func(t *testing.T) storage.Store {
					cfg := config(server)
					cfg.Prefix = fmt.Sprintf("prefix/%d", prefixes.Add(1))
					return open(t, d.open, cfg)
				})
				t.Run("wrong secret", func(t *testing.T) {
					cfg := config(server)
					cfg.Credentials = static(server.AccessKey, "not-the-secret")
					storagetest.Refused(t, open(t, d.open, cfg), storage.KindDenied)
				})
				t.Run("unknown access key", func(t *testing.T) {
					cfg := config(server)
					cfg.Credentials = static("nobody", server.SecretKey)
					storagetest.Refused(t, open(t, d.open, cfg), storage.KindDenied)
				})
				t.Run("wrong bucket", func(t *testing.T) {
					cfg := config(server)
					cfg.Bucket = "no-such-bucket"
					storagetest.Refused(t, open(t, d.open, cfg), storage.KindNoStore)
				})
				t.Run("root of the bucket", func(t *testing.T) {
					s := open(t, d.open, config(server))
					key := "root-" + d.name
					storagetest.PutBytes(t, s, key, []byte(key))
					for info, err := range s.List(t.Context(), key, "") {
						if err != nil || info.Key != key {
							t.Errorf("%+v, %v", info, err)
						}
					}
				})
			})
		}
	}
}

func TestUntrustedCertificateFailsFast(t *testing.T) {
	server := s3server.ForTest(t, s3server.MinIOTLS)
	for _, d := range drivers {
		cfg := config(server)
		cfg.CAFile = ""
		storagetest.Refused(t, open(t, d.open, cfg), storage.KindNoStore)
		// Plain HTTP to a TLS port is answered, at least when it is a GET, by an error that is not S3's.
		cfg.Endpoint = "http" + server.Endpoint[len("https"):]
		if _, err := open(t, d.open, cfg).Get(t.Context(), "a", storage.All); storage.KindOf(err) != storage.KindNoStore {
			t.Errorf("plain HTTP to a TLS port: %v", err)
		}
	}
}
