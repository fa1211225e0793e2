package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pgobj/pgobj/backup/recovery"
	"github.com/pgobj/pgobj/backup/restore"
	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/config"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/walstore/timeline"
)

func TestHidePassword(t *testing.T) {
	for line, want := range map[string]string{
		"host=a password=secret port=1":                    "host=a password=…",
		"primary_conninfo = 'password=secret'":             "primary_conninfo = 'password=…'",
		"PASSWORD = 'a b c' x":                             "PASSWORD =…",
		"postgres://me:s:cr@et@host/db":                    "postgres://me:…@host/db",
		"postgresql://me:secret@host/db":                   "postgresql://me:…@host/db",
		"s3://bucket/prefix":                               "s3://bucket/prefix",
		"primary_conninfo = 'password=''se cret'''":        "primary_conninfo = 'password=…'",
		"'--primary-conninfo=host=a password=s' --standby": "'--primary-conninfo=host=a password=…",
		`'--primary-conninfo=password='\''a b'\'''`:        "'--primary-conninfo=password=…'",
		"oauth_client_secret=x":                            "oauth_client_secret=…",
		"restore_command = 'x --dsn postgres://u:p@h/d'":   "restore_command = 'x --dsn postgres://u:…@h/d'",
	} {
		if got := show.HidePassword(line); got != want {
			t.Errorf("%q becomes %q, want %q", line, got, want)
		}
	}
}

// TestCredentialsNote: what only this shell's environment has the server will not have, and what the configuration file has it
// will, as restore_command names that.
func TestCredentialsNote(t *testing.T) {
	for _, name := range []string{"AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "canary")
	plan := &restore.Plan{Path: make(timeline.Path, 1), Recovery: recovery.Recovery{OwnCommand: true}}
	said := func(storage string, filed map[string]string, p *restore.Plan) string {
		var out strings.Builder
		values := config.Section{}
		for name, text := range filed {
			values[name] = config.Value{Text: text}
		}
		(&app.App{Settings: app.Settings{Storage: storage}, ConfigFile: &config.Config{Chosen: config.Chosen{Values: values}}}).PrintCredentials(&show.Columns{W: &out}, p)
		return out.String()
	}
	if got := said("s3://b/p", nil, plan); !strings.Contains(got, "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY:") || strings.Contains(got, "canary") {
		t.Errorf("it says %q", got)
	}
	if got := said("s3://b/p", map[string]string{"AWS_ACCESS_KEY_ID": "id"}, plan); strings.Contains(got, "AWS_ACCESS_KEY_ID") || !strings.Contains(got, "AWS_SECRET_ACCESS_KEY:") {
		t.Errorf("of half of it in the file it says %q", got)
	}
	both := map[string]string{"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "canary"}
	for _, got := range []string{said("s3://b/p", both, plan), said("file:///b", nil, plan), said("s3://b/p", nil, &restore.Plan{Recovery: plan.Recovery}), said("s3://b/p", nil, &restore.Plan{Path: plan.Path})} {
		if got != "" {
			t.Errorf("where the server needs nothing it says %q", got)
		}
	}
}

// TestWarnedOnce: on one terminal the log has just told the warnings, elsewhere the result has to.
func TestWarnedOnce(t *testing.T) {
	terminal := openTerminal(t)
	for _, c := range []struct {
		out, err io.Writer
		level    string
		want     bool
	}{
		{terminal, terminal, "info", true}, {terminal, terminal, "error", false}, {&strings.Builder{}, terminal, "info", false}, {terminal, &strings.Builder{}, "info", false},
	} {
		a := &app.App{Streams: app.Streams{Err: c.err}, Raw: &app.Output{Writer: c.out}, Log: newLogger(io.Discard, c.level, "text")}
		if a.Warned() != c.want {
			t.Errorf("%T %T %s: %v", c.out, c.err, c.level, !c.want)
		}
	}
}

// openTerminal is one of the system's pseudo-terminals.
func openTerminal(t *testing.T) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return slave
}
