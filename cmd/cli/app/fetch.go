package app

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgobj/pgobj/cmd/cli/config"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/cmd/instant"
)

// RestoreCommand is this very program with its configuration file, if it has one, and the settings that differ from
// that and from their defaults. Credentials are not among them: the server finds those where pgobj does.
func (a *App) RestoreCommand(c *config.Config) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the path of pgobj for restore_command (or give --restore-command): %w", err)
	}
	args := []string{exe}
	if c.Path != "" {
		args = append(args, "--config", c.Path)
	}
	for _, s := range a.settings() {
		known, _ := c.Filed(s.env)
		switch {
		case s.flag != "--server":
			known = cmp.Or(known, s.otherwise)
		case len(c.Sections) > 0:
			known = "" // it is named in any case where it chooses a section, or no file names it
		case c.Path != "":
			known = cmp.Or(known, s.otherwise)
		}
		if s.value != known {
			args = append(args, s.flag, s.value)
		}
	}
	for i, arg := range args {
		args[i] = strings.ReplaceAll(show.ShellQuote(arg), "%", "%%")
	}
	return strings.Join(args, " ") + ` wal-fetch "%f" "%p"`, nil
}

// globalSetting is a flag of every command that says where the storage is.
type globalSetting struct{ flag, value, env, otherwise string }

// settings are the flags that lead to the storage, with their values. A relative path is made absolute.
func (a *App) settings() []globalSetting {
	url := a.Storage
	if dir, ok := strings.CutPrefix(url, "file://"); ok && !strings.HasPrefix(dir, "/") {
		if abs, err := filepath.Abs(dir); err == nil { // fails without a working directory, in which there is no relative path
			url = "file://" + abs
		}
	}
	return []globalSetting{
		{"--storage", url, "PGOBJ_STORAGE", ""}, {"--server", a.Server, "PGOBJ_SERVER", "main"},
		{"--s3-endpoint", a.S3Endpoint, "PGOBJ_S3_ENDPOINT", ""}, {"--s3-region", a.S3Region, "PGOBJ_S3_REGION", ""}, {"--s3-path-style", a.S3PathStyle, "PGOBJ_S3_PATH_STYLE", "auto"},
		{"--s3-ca-file", a.S3CAFile, "PGOBJ_S3_CA_FILE", ""}, {"--s3-driver", a.S3Driver, "PGOBJ_S3_DRIVER", "auto"},
	}
}

// Invocation is how pgobj is called for the same storage from the same environment, without a command.
func (a *App) Invocation() string {
	line := "pgobj"
	if a.ConfigFile.Path != "" && a.ConfigFile.Path != os.Getenv("PGOBJ_CONFIG") {
		line += " --config " + show.ShellQuote(a.ConfigFile.Path)
	}
	for _, s := range a.settings() {
		if s.value != cmp.Or(os.Getenv(s.env), s.otherwise) {
			line += " " + s.flag + " " + show.ShellQuote(s.value)
		}
	}
	return line
}

// ParseTime reads a point in time. what is the flag that has it.
func ParseTime(what, text string) (time.Time, error) {
	local, tz := time.Local, os.Getenv("TZ")
	if _, set := os.LookupEnv("TZ"); !set {
		local, tz = instant.HostZone("/etc/localtime")
	}
	t, err := instant.Parse(text, local, tz)
	if err != nil {
		return t, fmt.Errorf("%w: %s %q: %w", ErrUsage, what, text, err)
	}
	return t, nil
}
