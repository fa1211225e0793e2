// Package s3server starts real S3 servers for tests, demos and benchmarks: MinIO and versitygw, each
// with or without TLS by a CA made on the spot. It owns their processes and directories, and knows
// nothing of pgobj.
package s3server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/pgobj/pgobj/test/testenv"
)

// Kind selects a server.
type Kind string

const (
	MinIO      Kind = "minio"
	MinIOTLS   Kind = "minio-tls"
	Versity    Kind = "versitygw"
	VersityTLS Kind = "versitygw-tls"
	// MinIOConsole is MinIO with its console for people, at Server.Console.
	MinIOConsole Kind = "minio-console"
)

// Server is a running server with one empty bucket.
type Server struct {
	Kind      Kind
	Endpoint  string // http(s)://127.0.0.1:port
	Region    string
	AccessKey string
	SecretKey string
	CAFile    string // "" without TLS
	Console   string // http://127.0.0.1:port, of MinIOConsole only
	Bucket    string

	// Dir is the bucket as a directory. With versitygw every object is a plain file at Dir/key, which a test
	// may damage; MinIO's files are its own format.
	Dir string

	root   string
	cmd    *exec.Cmd
	exited chan error
}

// Start runs a server and returns when its bucket exists. Stop ends it; so does the end of this process.
func Start(ctx context.Context, kind Kind) (*Server, error) {
	if !slices.Contains([]Kind{MinIO, MinIOTLS, Versity, VersityTLS, MinIOConsole}, kind) {
		return nil, fmt.Errorf("no S3 server of kind %q", kind)
	}
	var errs []error
	for range 3 { // another process may take the port between our look and the server's
		s, err := start(ctx, kind)
		if err == nil || ctx.Err() != nil {
			return s, err
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// ForTest is Start for a test; the server ends with the test.
func ForTest(t testing.TB, kind Kind) *Server {
	t.Helper()
	s, err := Start(t.Context(), kind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func start(ctx context.Context, kind Kind) (*Server, error) {
	port, err := testenv.Port()
	if err != nil {
		return nil, err
	}
	root, err := os.MkdirTemp("", "pgobj-s3-")
	if err != nil {
		return nil, err
	}
	s := &Server{Kind: kind, Endpoint: fmt.Sprintf("http://127.0.0.1:%d", port), Region: "us-east-1",
		AccessKey: "pgobj-test", SecretKey: "pgobj-test-secret", Bucket: "backups", root: root, exited: make(chan error, 1)}
	s.Dir = filepath.Join(root, "data", s.Bucket)
	err = s.launch(fmt.Sprintf("127.0.0.1:%d", port))
	if err == nil {
		if err = s.await(ctx); err != nil {
			log, _ := os.ReadFile(filepath.Join(root, "log"))
			err = fmt.Errorf("%w; its log: %s", err, log)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", kind, err), s.Stop())
	}
	return s, nil
}

func (s *Server) launch(addr string) error {
	data, certs := filepath.Join(s.root, "data"), filepath.Join(s.root, "certs")
	for _, dir := range []string{data, certs, filepath.Join(s.root, "meta")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	secure := s.Kind == MinIOTLS || s.Kind == VersityTLS
	if secure {
		if err := MakeCerts(certs); err != nil {
			return err
		}
		s.Endpoint, s.CAFile = "https://"+addr, filepath.Join(certs, "CAs", "ca.crt")
	}
	var tool string
	var args []string
	browser := "off"
	switch s.Kind {
	case MinIO, MinIOTLS, MinIOConsole:
		tool = "minio"
		args = []string{"server", data, "--address", addr, "--certs-dir", certs, "--quiet", "--anonymous"}
		if s.Kind == MinIOConsole {
			port, err := testenv.Port()
			if err != nil {
				return err
			}
			s.Console, browser = fmt.Sprintf("http://127.0.0.1:%d", port), "on"
			args = append(args, "--console-address", strings.TrimPrefix(s.Console, "http://"))
		}
	case Versity, VersityTLS:
		tool = "versitygw"
		// --keep-alive: as every other S3 server does. --sidecar: not all file systems have xattrs.
		args = []string{"--port", addr, "--keep-alive", "--quiet", "--region", s.Region}
		if secure {
			args = append(args, "--cert", filepath.Join(certs, "public.crt"), "--key", filepath.Join(certs, "private.key"))
		}
		args = append(args, "posix", "--sidecar", filepath.Join(s.root, "meta"), data)
	}
	path, err := testenv.FindTool(tool)
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(s.root, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.root, log, log
	cmd.Env = []string{"HOME=" + s.root, "PATH=" + os.Getenv("PATH"),
		"MINIO_ROOT_USER=" + s.AccessKey, "MINIO_ROOT_PASSWORD=" + s.SecretKey, "MINIO_BROWSER=" + browser, "MINIO_UPDATE=off",
		"ROOT_ACCESS_KEY=" + s.AccessKey, "ROOT_SECRET_KEY=" + s.SecretKey}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd = cmd
	go func() { s.exited <- cmd.Wait() }() // Stop waits for it
	return nil
}

// await returns when the server has taken our order to create the bucket.
func (s *Server) await(ctx context.Context) error {
	transport, err := s.transport()
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	_, host, _ := strings.Cut(s.Endpoint, "://")
	var last error
	err = testenv.Until(ctx, "the server has made a bucket", func() bool {
		select {
		case err := <-s.exited:
			s.exited <- err
			last = fmt.Errorf("server ended: %v", err)
			cancel()
			return false
		default:
		}
		// A new client each time: this SDK takes a server that refused once for dead for a while.
		api, err := minio.New(host, &minio.Options{Secure: s.CAFile != "", Region: s.Region, MaxRetries: 1,
			Creds: credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""), Transport: transport, BucketLookup: minio.BucketLookupPath})
		if err == nil {
			err = api.MakeBucket(ctx, s.Bucket, minio.MakeBucketOptions{Region: s.Region})
		}
		last = err
		return err == nil || minio.ToErrorResponse(err).Code == "BucketAlreadyOwnedByYou"
	})
	if err != nil {
		return fmt.Errorf("%w: %w", err, last)
	}
	return nil
}

func (s *Server) transport() (*http.Transport, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil
	if s.CAFile == "" {
		return t, nil
	}
	conf, err := trust(s.CAFile)
	t.TLSClientConfig = conf
	return t, err
}

// Stop kills the server and removes all it stored.
func (s *Server) Stop() error {
	if s.cmd != nil {
		if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stop %s: %w", s.Kind, err)
		}
		<-s.exited
		s.cmd = nil
	}
	return os.RemoveAll(s.root)
}

// URL is the bucket, or a prefix in it, as pgobj's --storage.
func (s *Server) URL(prefix string) string {
	if prefix != "" {
		prefix = "/" + prefix
	}
	return "s3://" + s.Bucket + prefix
}

// Env is what a program needs in its environment to use the server by the AWS credential chain.
func (s *Server) Env() []string {
	return []string{"AWS_ACCESS_KEY_ID=" + s.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s.SecretKey, "AWS_REGION=" + s.Region,
		"AWS_EC2_METADATA_DISABLED=true"}
}
