// Package testenv is the ground the tests stand on: where test/install put the servers and tools, the
// pgobj binary under test, directories and processes that belong to the user postgres, and polling. It
// refuses to skip: what is missing fails the test and names the command that installs it. It knows
// neither PostgreSQL (see test/pgtest) nor S3.
//
// Each helper comes in two forms: one that returns an error, for programs (the demo, the benchmark),
// and one that takes a testing.TB.
package testenv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// A test is not affected by the configuration of the host that it runs on.
func init() { os.Setenv("PGOBJ_CONFIG", "none") }

// CacheDir is where test/install puts servers and tools: $PGOBJ_CACHE, else /var/cache/pgobj for
// root, else pgobj in the user's cache directory. The script computes it by the same rule.
func CacheDir() string {
	if dir := os.Getenv("PGOBJ_CACHE"); dir != "" {
		return dir
	}
	if os.Geteuid() == 0 {
		return "/var/cache/pgobj"
	}
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "pgobj")
	}
	return filepath.Join(os.Getenv("HOME"), ".cache", "pgobj")
}

// FindTool returns the absolute path of a program that test/install provides: one that it built
// itself (minio, versitygw), else one in PATH (zstd, jq, strace, lz4, …).
func FindTool(name string) (string, error) {
	own := filepath.Join(CacheDir(), "bin", name)
	if info, err := os.Stat(own); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
		return own, nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is missing (neither %s nor in PATH): run test/install", name, own)
	}
	return filepath.Abs(path)
}

// Tool is FindTool for a test.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := FindTool(name)
	return must(t, path, err)
}

// MakeDir creates an empty directory, mode 0700, that the user postgres owns (without root: the user who
// runs us). Its path is short, because the path of a unix socket ends at 107 bytes. The caller removes it.
func MakeDir() (string, error) {
	if err := traversable(os.TempDir()); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "pgobj-")
	if err != nil {
		return "", err
	}
	if err := ChownPostgres(dir); err != nil {
		return "", errors.Join(err, os.Remove(dir))
	}
	return dir, nil
}

// Dir is MakeDir for a test; the directory goes away with the test. (t.TempDir would not do: its parent
// is closed to the user postgres.)
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := MakeDir()
	must(t, dir, err)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the test's directory: %v", err)
		}
	})
	return dir
}

// traversable fails early with a clear text where a server would fail late with "permission denied".
func traversable(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if info.Mode()&0o001 == 0 {
			return fmt.Errorf("the user postgres cannot enter %s (mode %v): set TMPDIR to a directory that everyone can enter",
				dir, info.Mode().Perm())
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// ChownPostgres gives a file, or a directory with all that is in it, to the user postgres. Without root
// it does nothing.
func ChownPostgres(path string) error {
	cred, _, err := postgres()
	if err != nil || cred == nil {
		return err
	}
	return filepath.WalkDir(path, func(p string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = os.Lchown(p, int(cred.Uid), int(cred.Gid))
		}
		if errors.Is(err, fs.ErrNotExist) && p != path { // a server or pgobj may be at work there
			return nil
		}
		return err
	})
}

// Port returns a TCP port of 127.0.0.1 that nobody listens on. It lies below the range from which the
// kernel takes the local ports of outgoing connections, one of which could otherwise take it before
// the server does.
func Port() (int, error) {
	var err error
	for range 100 {
		port := 10000 + rand.IntN(20000)
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}

// FreePort is Port for a test.
func FreePort(t testing.TB) int {
	t.Helper()
	port, err := Port()
	return must(t, port, err)
}

// Until polls cond until it holds or ctx is done; what says, in the error, what was waited for.
func Until(ctx context.Context, what string, cond func() bool) error {
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain until %s: %w", what, context.Cause(ctx))
		case <-tick.C:
		}
	}
	return nil
}

// Eventually fails the test unless cond holds within the deadline. Be generous: a deadline that is
// not reached costs nothing, and machines that run tests are slow now and then.
func Eventually(t testing.TB, deadline time.Duration, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	if err := Until(ctx, what, cond); err != nil {
		t.Fatal(err)
	}
}

func must[T any](t testing.TB, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}
