package pgtest

import (
	"os"
	"os/exec"
	"testing"

	"github.com/pgobj/pgobj/test/testenv"
)

// Run runs a program as the user postgres, and returns what it prints.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := Try(name, args...)
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

// Try is Run for a program that may fail.
func Try(name string, args ...string) (string, error) {
	cmd := testenv.AsPostgres(exec.Command(name, args...))
	cmd.Dir, cmd.Env = "/", append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return string(out), err
}
