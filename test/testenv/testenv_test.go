package testenv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestToolsAreInstalled(t *testing.T) {
	for _, name := range []string{"minio", "versitygw", "zstd", "jq", "strace", "lz4"} {
		if path := Tool(t, name); !filepath.IsAbs(path) {
			t.Errorf("%s is at %s, want an absolute path", name, path)
		}
	}
	if _, err := FindTool("no-such-tool"); err == nil || !strings.Contains(err.Error(), "test/install") {
		t.Errorf("a missing tool gives %v, want a hint to test/install", err)
	}
}

func TestDirectoryBelongsToPostgres(t *testing.T) {
	var dir string
	t.Run("inner", func(t *testing.T) {
		dir = Dir(t)
		out, err := AsPostgres(exec.CommandContext(t.Context(), "sh", "-c", `id -un; cd "$0" && echo x >file && stat -c %a .`, dir)).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		name := "postgres"
		if os.Geteuid() != 0 {
			me, err := user.Current()
			if err != nil {
				t.Fatal(err)
			}
			name = me.Username
		}
		if want := name + "\n700\n"; string(out) != want {
			t.Errorf("got %q, want %q", out, want)
		}
	})
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after its test the directory is still there: %v", err)
	}
}

func TestPgobjRunsAsPostgres(t *testing.T) {
	out, err := AsPostgres(exec.CommandContext(t.Context(), Pgobj(t), "version")).CombinedOutput()
	if err != nil || len(out) == 0 {
		t.Fatalf("pgobj version: %v: %s", err, out)
	}
}

func TestFreePortCanBeListenedOn(t *testing.T) {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", FreePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestUntil(t *testing.T) {
	calls := 0
	if err := Until(t.Context(), "three calls", func() bool { calls++; return calls == 3 }); err != nil || calls != 3 {
		t.Errorf("%v after %d calls", err, calls)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	err := Until(ctx, "pigs fly", func() bool { return false })
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "pigs fly") {
		t.Errorf("got %v, want the deadline and what was waited for", err)
	}
}
