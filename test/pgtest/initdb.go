package pgtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/pgobj/pgobj/test/testenv"
)

// initdb fills c.Data, from the cache when template is set and the cache has it.
func (c *Cluster) initdb(ctx context.Context, args []string, template bool) error {
	var cached string
	if template {
		key := sha256.Sum256([]byte(c.BinDir + "\n" + strings.Join(args, "\n")))
		cached = filepath.Join(testenv.CacheDir(), "template", fmt.Sprintf("%d-%x", c.Major, key[:6]))
		if _, err := os.Stat(cached); err == nil {
			return copyTree(ctx, cached, c.Data)
		}
	}
	cmd := c.command(ctx, "initdb", append([]string{"--pgdata=" + c.Data}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	if !template {
		return nil
	}
	return keep(ctx, c.Data, cached)
}

// keep puts a copy of data into the cache, under a name that appears only once the copy is whole.
func keep(ctx context.Context, data, cached string) (err error) {
	if err := os.MkdirAll(filepath.Dir(cached), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(cached), ".tmp-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if err := copyTree(ctx, data, filepath.Join(tmp, "data")); err != nil {
		return err
	}
	// Another test process may have been faster; its copy is as good as ours.
	if err := os.Rename(filepath.Join(tmp, "data"), cached); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// copyTree copies with owners, modes and times, to a name that does not exist yet.
func copyTree(ctx context.Context, from, to string) error {
	if out, err := exec.CommandContext(ctx, "cp", "-a", "--reflink=auto", "-T", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s to %s: %w\n%s", from, to, err, out)
	}
	return nil
}
