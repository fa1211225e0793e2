package file_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/file"
	"github.com/pgobj/pgobj/test/testenv"
)

const helperDir = "PGOBJ_TEST_FILE_DIR"

// TestHelperPut is the process that the tests below watch: it puts one object.
func TestHelperPut(t *testing.T) {
	dir := os.Getenv(helperDir)
	if dir == "" {
		return // run by itself there is nothing to do
	}
	runtime.LockOSThread() // strace counts calls by thread
	err := open(t, file.Config{Dir: dir}).Put(t.Context(), "a/b/key", strings.NewReader("content"), 7)
	fmt.Printf("RESULT %v\n", err)
}

// traced runs TestHelperPut under strace with the given options, and returns what Put said and the trace.
func traced(t *testing.T, dir string, options ...string) (result, trace string) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "trace")
	args := append([]string{"-f", "-y", "-o", log}, options...)
	cmd := exec.Command(testenv.Tool(t, "strace"), append(args, os.Args[0], "-test.run=^TestHelperPut$")...)
	cmd.Env = append(os.Environ(), helperDir+"="+dir)
	out, _ := cmd.CombinedOutput() // an exit code of its own when it is killed
	_, result, _ = strings.Cut(string(out), "RESULT ")
	result, _, _ = strings.Cut(result, "\n")
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return result, string(data)
}

// What a power cut may take back is what was not synced: the file before it gets its name, then each
// directory that got an entry.
func TestPutSyncsBeforeAndAfterTheName(t *testing.T) {
	dir := t.TempDir()
	result, trace := traced(t, dir, "-e", "trace=fsync,linkat")
	if result != "<nil>" {
		t.Fatalf("put: %s", result)
	}
	var steps []string
	for line := range strings.Lines(trace) {
		switch {
		case strings.Contains(line, "linkat("):
			steps = append(steps, "link")
		case strings.Contains(line, ".tmp-"):
			steps = append(steps, "sync file")
		case strings.Contains(line, "fsync("):
			_, path, _ := strings.Cut(line, "<")
			path, _, _ = strings.Cut(path, ">")
			steps = append(steps, "sync "+strings.TrimPrefix(path, dir))
		}
	}
	want := "sync file, link, sync /a/b, sync /a, sync "
	if got := strings.Join(steps, ", "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// A sync that fails is the end of the put, whichever it is.
func TestEverySyncErrorIsFatal(t *testing.T) {
	for n := 1; n <= 4; n++ {
		dir := t.TempDir()
		result, _ := traced(t, dir, "-e", fmt.Sprintf("inject=fsync:error=EIO:when=%d", n))
		if !strings.Contains(result, "input/output error") {
			t.Errorf("sync %d failed, and put said: %s", n, result)
		}
	}
}

// Killed at any of its steps, a put leaves the whole object or none, and does not hinder the next.
func TestKilledPutLeavesNothingInTheWay(t *testing.T) {
	for _, call := range []string{"mkdirat:signal=KILL:when=1", "mkdirat:signal=KILL:when=2", "fsync:signal=KILL:when=1", "fsync:signal=KILL:when=3",
		"linkat:signal=KILL:when=1", "fsync:signal=KILL:when=4", "unlinkat:signal=KILL:when=1"} {
		dir := t.TempDir()
		result, _ := traced(t, dir, "-e", "inject="+call)
		if result != "" {
			t.Errorf("%s: not killed: %s", call, result)
		}
		s := open(t, file.Config{Dir: dir})
		for info, err := range s.List(t.Context(), "", "") {
			if err != nil || info.Key != "a/b/key" || info.Size != 7 {
				t.Errorf("%s: %+v, %v", call, info, err)
			}
		}
		if err := s.Put(t.Context(), "a/b/key", strings.NewReader("content"), 7); err != nil && storage.KindOf(err) != storage.KindExists {
			t.Errorf("%s: %v", call, err)
		}
	}
}
