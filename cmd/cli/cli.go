// Package cli is pgobj's command line: the grammar, the configuration file, and one table that turns errors into text, hint and
// exit code. The commands are in the packages below it, one file each: flags, one call, output. They refuse logic: that lives in the
// packages that they call. Nothing imports it but cmd/pgobj.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/pgobj/pgobj/cmd/cli/app"
	"github.com/pgobj/pgobj/cmd/cli/backups"
	"github.com/pgobj/pgobj/cmd/cli/lists"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/cmd/cli/wal"
	"github.com/pgobj/pgobj/cmd/cli/watch"
)

// grammar is the whole command line.
type grammar struct {
	app.Settings

	WalPush      wal.WalPush          `cmd:"" name:"wal-push" active:"" help:"Archive one WAL file. For archive_command: pgobj wal-push %p"`
	WalFetch     wal.WalFetch         `cmd:"" name:"wal-fetch" help:"Fetch one WAL file. For restore_command: pgobj wal-fetch %f %p"`
	WalReceive   wal.WalReceive       `cmd:"" name:"wal-receive" active:"" help:"Stream WAL from the server into the archive, so that at most seconds can be lost; with --synchronous, no acknowledged transaction."`
	WalList      watch.WalList        `cmd:"" name:"wal-list" servers:"read" help:"List the WAL archive: timelines, sizes, gaps. Exit code 11 if there is a gap."`
	WalVerify    watch.WalVerify      `cmd:"" name:"wal-verify" servers:"read" help:"Read archived WAL, check every hash, and show which backups a damaged or missing segment affects."`
	PitrWindows  watch.PitrWindows    `cmd:"" name:"pitr-windows" servers:"read" help:"Show which points in time can be restored, on which timeline and from which backups, and where the gaps are."`
	WalPrefetch  wal.WalPrefetch      `cmd:"" name:"wal-prefetch" hidden:""`
	WalPushAhead wal.WalPushAhead     `cmd:"" name:"wal-push-ahead" hidden:""`
	BackupPush   backups.BackupPush   `cmd:"" name:"backup-push" servers:"write" active:"" help:"Take a base backup of a server: a primary, a standby, or, with --offline, a stopped one."`
	BackupFetch  backups.BackupFetch  `cmd:"" name:"backup-fetch" help:"Restore a base backup into an empty directory, ready to recover."`
	BackupVerify backups.BackupVerify `cmd:"" name:"backup-verify" servers:"read" help:"Read everything that a backup needs from the storage, and check every hash."`
	BackupList   lists.BackupList     `cmd:"" name:"backup-list" servers:"read" help:"List the backups of a server."`
	ServerList   lists.ServerList     `cmd:"" name:"server-list" servers:"none" help:"List the servers in a storage, each with its last backup."`
	CatalogLog   lists.CatalogLog     `cmd:"" name:"catalog-log" help:"Show the catalog's log: who did what, and when."`
	BackupShow   lists.BackupShow     `cmd:"" name:"backup-show" help:"Show everything that is known about a backup."`
	BackupFiles  lists.BackupFiles    `cmd:"" name:"backup-files" help:"List the objects of a backup, one per line, for pipes."`
	BackupMark   lists.BackupMark     `cmd:"" name:"backup-mark" help:"Pin a backup, so that no deletion removes it, or remove the pin."`
	BackupCat    backups.BackupCat    `cmd:"" name:"backup-cat" help:"Write one file of a backup to stdout. Every byte is checked before it is written."`
	RestoreCheck backups.RestoreCheck `cmd:"" name:"restore-check" help:"Check whether the recovery of a restored server reached its target. Exit code 21: it did not; 22: it is still running."`
	Drill        backups.DrillCmd     `cmd:"" name:"drill" servers:"read" help:"Prove that a backup can be restored: restore it to a scratch directory, recover, check, measure, and clean up."`
	Rebuild      lists.RebuildCmd     `cmd:"" name:"catalog-rebuild" help:"Repair a catalog that has lost records or descriptions of backups: prints a plan, and carries it out only with --confirm."`
	Delete       lists.DeleteCmd      `cmd:"" name:"delete" help:"Delete backups and WAL: prints a plan with reasons, and carries it out only with --confirm."`
	Config       configCmd            `cmd:"" name:"config" servers:"read" help:"Show which settings hold for a server, and where each comes from."`
	Version      versionCmd           `cmd:"" name:"version" servers:"none" help:"Print the version."`
}

// Run executes one command line and returns the process's exit code.
func Run(ctx context.Context, version string, args []string, streams app.Streams) (code int) {
	return run(ctx, &app.App{Streams: streams, Version: version, Args: args, Now: time.Now})
}

// exit is how kong's own end of the process comes out of parse.
type exit int

// run executes the command line of an app whose settings it fills in.
func run(ctx context.Context, a *app.App) (code int) {
	defer func() { // kong ends the process after --help: so does this, one level up
		if r := recover(); r != nil {
			e, ok := r.(exit)
			if !ok {
				panic(r)
			}
			if code = int(e); code == 0 {
				code = report(a.Err, logFormat(a.Args), a.Raw.EndHelp())
			}
		}
	}()
	a.Raw = &app.Output{Writer: a.Out}
	a.Out = show.Printable{Writer: a.Raw}
	env := os.Environ() // without what the files say: that differs between servers
	var unclear error
	a.ConfigFile, unclear = loadConfig(a.Args)
	command, settings, err := parse(a)
	if err == nil {
		err = settings.Check()
	}
	if err = first(command, err, unclear); err != nil {
		return finish(a, wal.BadCommandLine(a.Args, err))
	}
	settings.FromAWS()
	if settings.S3CAFile != "" { // restore_command has it, too, and is run from elsewhere
		settings.S3CAFile, _ = filepath.Abs(settings.S3CAFile) // fails only where there is no working directory
	}
	a.Settings = *settings
	a.Config = a.ConfigFile.Path // absolute: others run from elsewhere
	a.Log = newLogger(a.Err, a.LogLevel, a.LogFormat)
	if err := suits(command, a); err != nil {
		return finish(a, wal.BadCommandLine(a.Args, err))
	}
	if a.ConfigFile.Many() && command.Selected().Tag.Get(servers) != noServer {
		return finish(a, forEach(ctx, a, command, env))
	}
	for _, file := range a.ConfigFile.Leaks {
		a.Log.Warn("every user on this host can read the secrets in the configuration file: run chmod o= on it", "file", file)
	}
	limited, cancel := app.WithTimeout(ctx, a.Timeout)
	defer cancel()
	command.BindTo(limited, (*context.Context)(nil))
	err = command.Run(a)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		err = fmt.Errorf("%w: %w", app.ErrInterrupted, err)
	default:
		err = app.TimedOut(limited, err)
	}
	return finish(a, err)
}

func parse(a *app.App) (*kong.Context, *app.Settings, error) {
	with := func(target any, more ...kong.Option) (*kong.Context, error) {
		parser, err := kong.New(target, append(more, kong.Name("pgobj"), kong.Writers(helpTo{a.Out}, a.Err), kong.Exit(func(c int) { panic(exit(c)) }),
			kong.Description("PostgreSQL backup to object storage: base backups, WAL archive, point-in-time recovery."),
			kong.ConfigureHelp(kong.HelpOptions{Compact: true}), kong.UsageOnError(), kong.KindMapper(reflect.String, kong.MapperFunc(verbatim)))...)
		if err != nil {
			return nil, fmt.Errorf("set up the command line: %w", err)
		}
		command, err := parser.Parse(a.Args)
		if err != nil {
			return nil, app.Usagef("%v%s", err, instead(err))
		}
		return command, nil
	}
	if target, settings, ok := oneCommand(a.Args); ok {
		if command, err := with(target, kong.NoDefaultHelp()); err == nil {
			return command, settings, nil
		}
	}
	var g grammar
	command, err := with(&g)
	return command, &g.Settings, err
}

// helpTo is where help is written: kong would blame the command line for a failure, which output remembers.
type helpTo struct{ io.Writer }

func (h helpTo) Write(p []byte) (int, error) {
	_, _ = h.Writer.Write(p)
	return len(p), nil
}

// instead adds to what kong says of a deletion's command line. Its own list of commands ends after five.
func instead(err error) string {
	p, ok := errors.AsType[*kong.ParseError](err)
	if !ok || p.Context == nil || p.Context.Selected() == nil {
		return ""
	}
	switch at := p.Context.Selected(); {
	case len(at.Children) > 0:
		var kinds []string
		for _, n := range at.Children {
			kind := n.Name
			for _, arg := range n.Positional {
				kind += " " + arg.Summary()
			}
			kinds = append(kinds, kind)
		}
		return fmt.Sprintf("\nAdd one of these after %s: %s", at.Name, strings.Join(kinds, ", "))
	case at.Name == "policy" && strings.HasPrefix(err.Error(), "unexpected argument"):
		return "\nGive the policy with --retention, in quotes"
	}
	return ""
}

// verbatim takes a string as it was given, of a flag, an argument or an environment variable. kong's own way for strings
// leads through JSON, which puts U+FFFD in place of bytes that are not UTF-8: the path of another file, or of none.
//
// An empty string is refused, wherever it comes from. It is what a script makes of "$TIME" where TIME is not set, and
// never means what leaving the flag out means. Values of other kinds refuse it themselves, as it is no number.
func verbatim(c *kong.DecodeContext, to reflect.Value) error {
	token, err := c.Scan.PopValue("string")
	if err != nil {
		return err
	}
	text := fmt.Sprint(token.Value)
	if text == "" {
		return errors.New("the value is empty: give a value, or remove the option")
	}
	to.SetString(text)
	return nil
}

// oneCommand is the grammar of the command line's command alone, after settings, which all take a value: building all
// of it takes longer than all else that wal-push does with a file that was archived ahead. What it cannot parse, and
// help, needs the whole.
func oneCommand(args []string) (target any, settings *app.Settings, ok bool) {
	for len(args) > 0 && strings.HasPrefix(args[0], "--") {
		n := 2
		if strings.Contains(args[0], "=") {
			n = 1
		}
		args = args[min(n, len(args)):]
	}
	for f := range reflect.TypeFor[grammar]().Fields() {
		if name := f.Tag.Get("name"); len(args) > 0 && name != "" && name == args[0] {
			g := reflect.New(reflect.StructOf([]reflect.StructField{{Name: "Settings", Type: reflect.TypeFor[app.Settings](), Tag: `embed:""`}, f}))
			return g.Interface(), g.Elem().Field(0).Addr().Interface().(*app.Settings), true
		}
	}
	return nil, nil, false
}

func newLogger(w io.Writer, level, format string) *slog.Logger {
	var l slog.Level
	_ = l.UnmarshalText([]byte(level)) // kong has checked it
	opt := &slog.HandlerOptions{Level: l}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, opt))
	}
	return slog.New(slog.NewTextHandler(w, opt))
}
