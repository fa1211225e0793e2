package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgobj/pgobj/backup"
	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/storage/retry"
)

type backupFetch struct {
	Target         string `arg:"" name:"target-dir" help:"Folder to restore to: the new PGDATA. It must be empty or not exist."`
	Backup         string `arg:"" optional:"" default:"LATEST" help:"Id of the backup, the beginning of one, or LATEST (default)."`
	TargetTime     string `name:"target-time" placeholder:"TIME" help:"Recover to this time, such as '2026-11-21 14:05:00+01' (without an offset: local time); default: to the end of the WAL."`
	TargetAction   string `name:"target-action" enum:"pause,promote,shutdown" default:"pause" help:"What the server does when it is there: pause, promote or shutdown."`
	RestoreCommand string `name:"restore-command" placeholder:"COMMAND" help:"restore_command to write (default: this pgobj with its settings)."`
	jobsFlag
}

func (c *backupFetch) Run(ctx context.Context, a *app) error {
	jobs, err := c.count()
	if err != nil {
		return err
	}
	recovery := backup.Recovery{RestoreCommand: c.RestoreCommand, TargetAction: c.TargetAction}
	if c.TargetTime != "" {
		if recovery.TargetTime, err = parseTime(c.TargetTime); err != nil {
			return err
		}
	}
	store, err := a.open(retry.Policy{})
	if err != nil {
		return err
	}
	if recovery.RestoreCommand == "" {
		if recovery.RestoreCommand, err = a.restoreCommand(); err != nil {
			return err
		}
	}
	progress := &backup.Progress{}
	stop := a.show("backup-fetch", progress)
	start := time.Now()
	b, err := backup.Fetch(ctx, backup.FetchRequest{
		Store: store, Catalog: a.catalog(store), Target: c.Target, Backup: c.Backup, Workers: jobs,
		Recovery: recovery, Progress: progress, Log: a.log,
	})
	stop()
	if err != nil {
		return err
	}
	c.next(a, b, recovery, time.Since(start))
	return nil
}

// next tells what was done and how to go on.
func (c *backupFetch) next(a *app, b *catalog.Backup, r backup.Recovery, took time.Duration) {
	goal := "to the end of the WAL"
	if !r.TargetTime.IsZero() {
		goal = fmt.Sprintf("to %s (%s), then %s", r.TargetTime.UTC().Format("2006-01-02 15:04:05.999999 MST"), r.TargetTime.Local().Format("2006-01-02 15:04:05 MST"), r.TargetAction)
	}
	fmt.Fprintf(a.Out, "backup %s is restored to %s: %d files, %s in %s\n", b.ID, c.Target, b.Files, size(b.Size), took.Round(100*time.Millisecond))
	fmt.Fprintf(a.Out, "start PostgreSQL %d on it, and it recovers %s\n", b.PGVersion/10000, goal)
	if !r.TargetTime.IsZero() && r.TargetAction == "pause" {
		fmt.Fprintln(a.Out, "it pauses there, open for reading: look around, then end the recovery with: SELECT pg_wal_replay_resume();")
	}
	for _, f := range b.ConfigFiles {
		fmt.Fprintf(a.Out, "note: %s was outside of the data directory; it is kept in the backup's backup.json and was not restored\n", f.Path)
	}
}

// restoreCommand is this very program with the settings that differ from their defaults. Credentials are
// not among them: the server finds those where pgobj does.
func (a *app) restoreCommand() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the path of pgobj for restore_command (or give --restore-command): %w", err)
	}
	url := a.Storage
	if dir, ok := strings.CutPrefix(url, "file://"); ok && !strings.HasPrefix(dir, "/") {
		if dir, err = filepath.Abs(dir); err != nil {
			return "", err
		}
		url = "file://" + dir
	}
	args := []string{exe, "--storage", url, "--server", a.Server}
	for _, s := range [][3]string{
		{"--s3-endpoint", a.S3Endpoint, ""}, {"--s3-region", a.S3Region, ""}, {"--s3-path-style", a.S3PathStyle, "auto"},
		{"--s3-ca-file", a.S3CAFile, ""}, {"--s3-driver", a.S3Driver, "auto"},
	} {
		if s[1] != s[2] {
			args = append(args, s[0], s[1])
		}
	}
	for i, arg := range args {
		args[i] = strings.ReplaceAll(shellQuote(arg), "%", "%%")
	}
	return strings.Join(args, " ") + ` wal-fetch "%f" "%p"`, nil
}

// shellQuote makes one word of s for a POSIX shell.
func shellQuote(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=+,@") == "" && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// parseTime reads a time as people and PostgreSQL write it.
func parseTime(s string) (time.Time, error) {
	for _, day := range []string{"2006-01-02 ", "2006-01-02T"} {
		for _, zone := range []string{"Z07:00", "-07", "-0700", " -07:00", " -07", " MST", ""} {
			if t, err := time.ParseInLocation(day+"15:04:05.999999999"+zone, s, time.Local); err == nil {
				if _, offset := t.Zone(); zone == " MST" && offset == 0 && !strings.HasSuffix(s, "UTC") && !strings.HasSuffix(s, "GMT") {
					continue // Go takes any three letters for a zone at UTC
				}
				return t, nil
			}
		}
	}
	return time.Time{}, usagef("--target-time %q: write it as '2026-11-21 14:05:00+01:00'", s)
}
