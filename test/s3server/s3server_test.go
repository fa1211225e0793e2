package s3server_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/pgobj/pgobj/storage/minio"
	"github.com/pgobj/pgobj/storage/storagetest"
	"github.com/pgobj/pgobj/test/s3server"
)

func TestEveryKindStartsServesAndStops(t *testing.T) {
	for _, kind := range []s3server.Kind{s3server.MinIO, s3server.MinIOTLS, s3server.Versity, s3server.VersityTLS} {
		t.Run(string(kind), func(t *testing.T) {
			server, err := s3server.Start(t.Context(), kind)
			if err != nil {
				t.Fatal(err)
			}
			store, err := minio.New(minio.Config{Bucket: server.Bucket, Endpoint: server.Endpoint, CAFile: server.CAFile,
				Credentials: credentials.NewStaticCredentialsProvider(server.AccessKey, server.SecretKey, "")})
			if err != nil {
				t.Fatal(err)
			}
			storagetest.PutBytes(t, store, "a/b", []byte("content"))
			if strings.HasPrefix(string(kind), "versity") {
				if data, err := os.ReadFile(filepath.Join(server.Dir, "a", "b")); string(data) != "content" || err != nil {
					t.Errorf("%q, %v", data, err)
				}
			}
			if err := server.Stop(); err != nil {
				t.Fatal(err)
			}
			_, addr, _ := strings.Cut(server.Endpoint, "://")
			if conn, err := net.Dial("tcp", addr); err == nil {
				conn.Close()
				t.Error("still there")
			}
			if _, err := os.Stat(server.Dir); err == nil {
				t.Error("its data is still there")
			}
		})
	}
	if _, err := s3server.Start(t.Context(), "other"); err == nil {
		t.Error("unknown kind accepted")
	}
}
