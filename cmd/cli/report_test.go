package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/storage"
)

// printed is what a command writes, and its exit code.
func printed(t *testing.T, args ...string) (out, messages string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), &app.App{Streams: app.Streams{Out: &o, Err: &e}, Version: "v0.1", Args: args, Now: time.Now})
	return o.String(), e.String(), code
}

// failureIn is the one JSON value in a text.
func failureIn(t *testing.T, text string) failure {
	t.Helper()
	var v struct{ Error failure }
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("want one JSON value with the error: %v in %q", err, text)
	}
	return v.Error
}

// TestFailureWithJSON: every command that takes --json prints one JSON value when it fails, too.
func TestFailureWithJSON(t *testing.T) {
	k, err := kong.New(&grammar{}, kong.Name("pgobj"), kong.Vars{"version": ""})
	if err != nil {
		t.Fatal(err)
	}
	commands := 0
	for _, c := range k.Model.Leaves(false) {
		if !slices.ContainsFunc(c.Flags, func(f *kong.Flag) bool { return f.Name == "json" }) {
			continue
		}
		commands++
		args := append(strings.Fields(c.Path()), "--json")
		for _, p := range c.Positional {
			args = append(args, map[bool]string{true: "1"}[p.Target.Kind().String() == "int"]+map[bool]string{true: "main"}[p.Target.Kind().String() != "int"])
		}
		out, messages, code := printed(t, append(args, "--storage=file://"+t.TempDir()+"/none", "--dsn=host=/none")...)
		if f := failureIn(t, out); f.ExitCode != code || code == 0 || f.Kind == "" || f.Kind == otherKind || f.Text == "" || !strings.HasPrefix(messages, "ERROR:  ") {
			t.Errorf("%v: exit code %d, %+v\n%s", args, code, f, messages)
		}
	}
	if commands < 15 {
		t.Errorf("only %d commands take --json?", commands)
	}
}

// TestFailureOfEachSource: a setting, the configuration file, the storage.
func TestFailureOfEachSource(t *testing.T) {
	w := newWorld(t)
	w.story()
	here := "--storage=file://" + w.dir
	for _, c := range []struct {
		kind string
		code int
		args []string
	}{
		{"usage", app.ExitUsage, []string{"backup-list", "--json", "--no-such-flag"}},
		{"usage", app.ExitUsage, []string{"no-such-command", "--json"}},
		{"usage", app.ExitUsage, []string{"backup-list", "--json", "--retry-for=0s"}},
		{"config-file-unreadable", app.ExitUsage, []string{"backup-list", "--json", "--config=/no/such/file"}},
		{"no-storage-directory", app.ExitNoStore, []string{"backup-list", "--json", "--storage=file://" + w.dir + "/none"}},
		{"no-server", app.ExitNotFound, []string{"backup-list", "--json", here, "--server=none"}},
		{"no-backup", app.ExitNotFound, []string{"backup-show", "2027", "--json", here, "--server=db1"}},
		{"damaged-catalog", app.ExitDamaged, []string{"delete", "oldest", "--json", here, "--server=db3"}},
	} {
		out, messages, code := printed(t, c.args...)
		f := failureIn(t, out)
		if code != c.code || f.ExitCode != code || f.Kind != c.kind || !strings.Contains(messages, "ERROR:  "+f.Text) || f.Hint != "" && !strings.Contains(messages, "HINT:  "+f.Hint) {
			t.Errorf("%v: exit code %d, %+v\n%s", c.args, code, f, messages)
		}
		out, messages, _ = printed(t, append([]string{"--log-format", "json"}, c.args...)...)
		lines := strings.Split(strings.TrimSpace(messages), "\n")
		if again := failureIn(t, lines[len(lines)-1]); again != f || failureIn(t, out) != f {
			t.Errorf("%v: stderr has %+v, stdout %+v", c.args, again, f)
		}
	}
}

// TestFailureAfterResult: a command that has printed its result prints no second value.
func TestFailureAfterResult(t *testing.T) {
	w := newWorld(t)
	w.story()
	for _, args := range [][]string{{"backup-verify", "latest", "--json"}, {"wal-list", "--json"}} {
		out, messages, code := printed(t, append([]string{"--storage=file://" + w.dir, "--server=db1", "--log-format=json"}, args...)...)
		var result []map[string]any
		if err := json.Unmarshal([]byte(out), &result); err != nil || code == 0 {
			t.Errorf("%v: exit code %d, %v in %q", args, code, err, out)
		}
		if says := strings.Contains(messages, `"kind":"`); says != (args[0] == "backup-verify") { // of the other, the result is all
			t.Errorf("%v: %s", args, messages)
		}
	}
}

// TestFileCalledJSON: what follows -- is no flag, and standard output is for the file's bytes.
func TestFileCalledJSON(t *testing.T) {
	out, _, code := printed(t, "--storage=file://"+t.TempDir(), "backup-cat", "latest", "--", "--json")
	if out != "" || code != app.ExitNotFound {
		t.Errorf("exit code %d, stdout %q", code, out)
	}
}

// TestFailureInJSONLog: a collector of logs gets JSON on each line, also of those who are given no --json.
func TestFailureInJSONLog(t *testing.T) {
	out, messages, code := printed(t, "wal-fetch", "--log-format=json", "--storage=file:///none", "000000010000000000000001")
	if f := failureIn(t, messages); out != "" || code != 255 || f.ExitCode != code || f.Kind != "usage" {
		t.Errorf("exit code %d, %+v, stdout %q", code, f, out)
	}
	var line struct{ Level, Msg string }
	if err := json.Unmarshal([]byte(messages), &line); err != nil || line.Level != "ERROR" || line.Msg == "" {
		t.Errorf("%v in %s", err, messages)
	}
}

// TestJudge: the kind is that of the closest cause, the exit code that of its kind of error.
func TestJudge(t *testing.T) {
	trouble := fmt.Errorf("%w: list: %w\nsecond\n\nthird", storage.ErrNoStore, storage.ErrNoBucket)
	for want, err := range map[failure]error{
		{}:                             nil,
		{ExitCode: 9, Kind: otherKind}: &app.Coded{Code: 9},
		{ExitCode: 1, Kind: otherKind, Text: "nobody foresaw this"}:                                                  errors.New("nobody foresaw this"),
		{ExitCode: 5, Kind: "no-bucket", Text: "storage not found: list: no such bucket", Detail: "second\nthird"}:   trouble,
		{ExitCode: 255, Kind: "no-bucket", Text: "storage not found: list: no such bucket", Detail: "second\nthird"}: &app.Coded{Code: 255, Err: trouble},
	} {
		got := judge(err)
		got.Hint = ""
		if got != want {
			t.Errorf("%v: %+v, want %+v", err, got, want)
		}
	}
}
