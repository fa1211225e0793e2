package testenv

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// built keeps the one build of this process: every test that asks means the same source.
var built = sync.OnceValues(buildPgobj)

// BuildPgobj builds cmd/pgobj from the working tree, once a process, and returns the binary's absolute
// path. The user postgres can execute it. The file stays (named by its content, in the cache) and is
// cleared away by a build a day later.
func BuildPgobj() (string, error) { return built() }

// Pgobj is BuildPgobj for a test.
func Pgobj(t testing.TB) string {
	t.Helper()
	path, err := BuildPgobj()
	return must(t, path, err)
}

// ModuleRoot is the directory of our go.mod, above the directory we run in.
func ModuleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.mod above the current directory: run this inside the source tree")
		}
		dir = parent
	}
}

func buildPgobj() (_ string, err error) {
	root, err := ModuleRoot()
	if err != nil {
		return "", err
	}
	if err := noteSources(root); err != nil {
		return "", err
	}
	builds := filepath.Join(CacheDir(), "build")
	if err := os.MkdirAll(builds, 0o755); err != nil {
		return "", fmt.Errorf("make a place for the binary: %w", err)
	}
	prune(builds)
	tmp, err := os.MkdirTemp(builds, ".tmp-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()

	binary := filepath.Join(tmp, "pgobj")
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	// Without -trimpath, so that what go test and go run have compiled is not compiled once more.
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", binary, "./cmd/pgobj")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build cmd/pgobj: %w\n%s", err, out)
	}

	sum, err := hashFile(binary)
	if err != nil {
		return "", err
	}
	// A name by content lets test processes that run side by side share the file, and never replaces
	// a binary that one of them is executing.
	dest := filepath.Join(builds, sum[:16])
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", err
	}
	if err := os.Chmod(binary, 0o755); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, dest); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("put the binary in its place: %w", err)
	}
	now := time.Now()
	if err := os.Chtimes(dest, now, now); err != nil {
		return "", err
	}
	return filepath.Join(dest, "pgobj"), nil
}

// noteSources looks at every directory of the module. go test remembers what a test has looked at, and
// repeats an old result only when that is unchanged; what a go build below us reads it cannot see, so
// without this look it would answer "ok (cached)" for a binary that changed.
func noteSources(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (d.Name() == ".git" || path == filepath.Join(root, "bin")) {
			return fs.SkipDir
		}
		if errors.Is(err, os.ErrNotExist) { // an editor's passing file
			return nil
		}
		return err
	})
}

// prune removes builds that nobody asked for in a day. A failure leaves a file too many, so it is no error.
func prune(builds string) {
	entries, err := os.ReadDir(builds)
	if err != nil {
		return
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > 24*time.Hour {
			_ = os.RemoveAll(filepath.Join(builds, e.Name()))
		}
	}
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("hash %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
