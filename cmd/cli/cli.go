// Package cli is pgobj's command line: one file for each command with its flags, wiring and output, and
// one table that turns errors into text, hint and exit code. It refuses logic: that lives in the packages
// that it calls. Nothing imports it but cmd/pgobj.
package cli

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/show"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/connect"
	"github.com/pgobj/pgobj/storage/retry"
)

// Streams are where a command writes: results to Out, everything for people to Err.
type Streams struct{ Out, Err io.Writer }

// grammar is the whole command line.
type grammar struct {
	Settings

	WalPush      walPush      `cmd:"" name:"wal-push" help:"Archive one WAL file. For archive_command: pgobj wal-push %p"`
	WalFetch     walFetch     `cmd:"" name:"wal-fetch" help:"Fetch one WAL file. For restore_command: pgobj wal-fetch %f %p"`
	WalReceive   walReceive   `cmd:"" name:"wal-receive" help:"Stream WAL from the server into the archive, so that only seconds can be lost; with --synchronous, nothing that was acknowledged."`
	WalList      walList      `cmd:"" name:"wal-list" help:"List the WAL archive: timelines, sizes, holes. Exit code 11 if there is a hole."`
	WalVerify    walVerify    `cmd:"" name:"wal-verify" help:"Read archived WAL, check every hash, and say which backups a damaged or missing segment hurts."`
	PitrWindows  pitrWindows  `cmd:"" name:"pitr-windows" help:"Show which points in time can be restored, on which timeline and from which backups, and where the gaps are."`
	WalPrefetch  walPrefetch  `cmd:"" name:"wal-prefetch" hidden:""`
	WalPushAhead walPushAhead `cmd:"" name:"wal-push-ahead" hidden:""`
	BackupPush   backupPush   `cmd:"" name:"backup-push" help:"Take a base backup of a server: a primary, a standby, or, with --offline, a stopped one."`
	BackupFetch  backupFetch  `cmd:"" name:"backup-fetch" help:"Restore a base backup into an empty folder, ready to recover."`
	BackupVerify backupVerify `cmd:"" name:"backup-verify" help:"Read all that a backup needs from the storage, and check every hash."`
	BackupList   backupList   `cmd:"" name:"backup-list" help:"List the backups of a server."`
	ServerList   serverList   `cmd:"" name:"server-list" help:"List the servers in a storage, each with its last backup."`
	CatalogLog   catalogLog   `cmd:"" name:"catalog-log" help:"Show who did what when: every record of a server's catalog."`
	BackupShow   backupShow   `cmd:"" name:"backup-show" help:"Show all that is known of a backup."`
	BackupFiles  backupFiles  `cmd:"" name:"backup-files" help:"List the objects that a backup consists of, one a line, for pipes."`
	BackupMark   backupMark   `cmd:"" name:"backup-mark" help:"Pin a backup, so that no deletion takes it, or take the pin off."`
	BackupCat    backupCat    `cmd:"" name:"backup-cat" help:"Write one file of a backup to stdout; nothing of it that has not been checked."`
	RestoreCheck restoreCheck `cmd:"" name:"restore-check" help:"Say whether the recovery of a restored server ended where it should. Exit code 21: it did not; 22: it goes on."`
	Drill        drillCmd     `cmd:"" name:"drill" help:"Prove that a backup can be restored: restore it to a scratch folder, recover, check, measure, and clean up."`
	Rebuild      rebuildCmd   `cmd:"" name:"catalog-rebuild" help:"Mend a catalog that has lost records or descriptions of backups: prints a plan, and does it only with --confirm."`
	Delete       deleteCmd    `cmd:"" name:"delete" help:"Delete backups and WAL: prints a plan with reasons, and does it only with --confirm."`
	Version      versionCmd   `cmd:"" name:"version" help:"Print the version."`
}

// Settings are the flags that every command has; each has an environment variable.
type Settings struct {
	Config      string         `name:"config" env:"PGOBJ_CONFIG" placeholder:"FILE" help:"Read settings from this file: lines NAME=VALUE, with the names of the environment variables, which come before it, as flags do. Credentials (AWS_…) may be in it, too."`
	Storage     string         `name:"storage" env:"PGOBJ_STORAGE" placeholder:"URL" help:"Where backups and WAL are: file:///folder or s3://bucket/prefix."`
	Server      string         `name:"server" env:"PGOBJ_SERVER" default:"main" help:"Name of the PostgreSQL server: its folder in the storage."`
	S3Endpoint  string         `name:"s3-endpoint" env:"PGOBJ_S3_ENDPOINT" placeholder:"URL" help:"S3 service other than AWS, such as https://minio.example:9000 (default: AWS_ENDPOINT_URL)."`
	S3Region    string         `name:"s3-region" env:"PGOBJ_S3_REGION" help:"Region of the bucket (default: as the AWS settings say)."`
	S3PathStyle string         `name:"s3-path-style" env:"PGOBJ_S3_PATH_STYLE" enum:"auto,true,false" default:"auto" help:"Address the bucket in the path (true) or in the host name (false); auto: in the path with --s3-endpoint."`
	S3CAFile    string         `name:"s3-ca-file" env:"PGOBJ_S3_CA_FILE" placeholder:"FILE" help:"Certificates (PEM) to trust besides the system's (default: AWS_CA_BUNDLE)."`
	S3Driver    string         `name:"s3-driver" env:"PGOBJ_S3_DRIVER" enum:"auto,aws,minio" default:"auto" help:"Client library; auto: aws for AWS, minio for --s3-endpoint."`
	RetryFor    time.Duration  `name:"retry-for" env:"PGOBJ_RETRY_FOR" default:"5m" placeholder:"TIME" help:"How long to try one operation again while the storage is in trouble (wal-fetch on a standby: at most 10s, as PostgreSQL asks again)."`
	Timeout     *time.Duration `name:"timeout" env:"PGOBJ_TIMEOUT" placeholder:"TIME" help:"Give up, with exit code 18, when the command has not finished after this time (default: never; wal-push 5m)."`
	LogLevel    string         `name:"log-level" env:"PGOBJ_LOG_LEVEL" enum:"debug,info,warn,error" default:"info" help:"Least level that is logged: debug, info, warn, error."`
	LogFormat   string         `name:"log-format" env:"PGOBJ_LOG_FORMAT" enum:"text,json" default:"text" help:"Format of the log: text or json."`
}

// fromAWS fills in what the AWS tools' own variables say. They may be set on any host, so with a folder
// as storage they mean nothing, while pgobj's own settings would be an error.
func (s *Settings) fromAWS() {
	if strings.HasPrefix(s.Storage, "s3:") {
		s.S3Endpoint = cmp.Or(s.S3Endpoint, os.Getenv("AWS_ENDPOINT_URL_S3"), os.Getenv("AWS_ENDPOINT_URL"))
		if !strings.HasPrefix(s.S3Endpoint, "http://") { // which has no certificate, so no use for the host's bundle
			s.S3CAFile = cmp.Or(s.S3CAFile, os.Getenv("AWS_CA_BUNDLE"))
		}
	}
}

// check refuses what no command can work with.
func (s *Settings) check() error {
	if s.RetryFor <= 0 {
		return usagef("--retry-for (PGOBJ_RETRY_FOR) is %v: use a time above 0, such as 5m", s.RetryFor)
	}
	if s.Timeout != nil && *s.Timeout <= 0 {
		return usagef("--timeout (PGOBJ_TIMEOUT) is %v: use a time above 0, such as 12h", *s.Timeout)
	}
	return nil
}

// jobsFlag is the number of workers, for the commands that have them.
type jobsFlag struct {
	Jobs int `name:"jobs" short:"j" env:"PGOBJ_JOBS" placeholder:"N" help:"Workers (default: the number of CPUs)."`
}

func (j jobsFlag) count() (int, error) {
	if j.Jobs < 0 || j.Jobs > 256 {
		return 0, usagef("--jobs (PGOBJ_JOBS) is %d: use 1 to 256", j.Jobs)
	}
	if j.Jobs == 0 {
		return runtime.NumCPU(), nil
	}
	return j.Jobs, nil
}

// app is what a command gets to work with.
type app struct {
	Settings
	Streams
	raw     *output // Out for what is no text
	config  config
	version string
	args    []string // the command line
	now     func() time.Time
	log     *slog.Logger
}

// Run executes one command line and returns the process's exit code.
func Run(ctx context.Context, version string, args []string, streams Streams) (code int) {
	return run(ctx, &app{Streams: streams, version: version, args: args, now: time.Now})
}

// exit is how kong's own end of the process comes out of parse.
type exit int

// run executes the command line of an app whose settings it fills in.
func run(ctx context.Context, a *app) (code int) {
	defer func() { // kong ends the process after --help: so does this, one level up
		if r := recover(); r != nil {
			e, ok := r.(exit)
			if !ok {
				panic(r)
			}
			if code = int(e); code == 0 {
				code = report(a.Err, a.raw.endHelp())
			}
		}
	}()
	a.raw = &output{Writer: a.Out}
	a.Out = show.Printable{Writer: a.raw}
	var err error
	if a.config, err = loadConfig(a.args); err != nil {
		return report(a.Err, badCommandLine(a.args, err))
	}
	command, settings, err := parse(a)
	if err == nil {
		err = settings.check()
	}
	if err != nil {
		return report(a.Err, badCommandLine(a.args, err))
	}
	settings.fromAWS()
	if settings.S3CAFile != "" { // restore_command has it, too, and is run from elsewhere
		settings.S3CAFile, _ = filepath.Abs(settings.S3CAFile) // fails only where there is no working directory
	}
	a.Settings = *settings
	a.Config = a.config.path // absolute: others run from elsewhere
	a.log = newLogger(a.Err, a.LogLevel, a.LogFormat)
	if a.config.leaks {
		a.log.Warn("everybody on this host can read the secrets in the configuration file: chmod o= it", "file", a.config.path)
	}
	limited, cancel := withTimeout(ctx, a.Timeout)
	defer cancel()
	command.BindTo(limited, (*context.Context)(nil))
	err = command.Run(a)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		err = fmt.Errorf("%w: %w", errInterrupted, err)
	default:
		err = timedOut(limited, err)
	}
	return report(a.Err, a.raw.end(err))
}

func parse(a *app) (*kong.Context, *Settings, error) {
	with := func(target any, more ...kong.Option) (*kong.Context, error) {
		parser, err := kong.New(target, append(more, kong.Name("pgobj"), kong.Writers(helpTo{a.Out}, a.Err), kong.Exit(func(c int) { panic(exit(c)) }),
			kong.Description("PostgreSQL backup to object storage: base backups, WAL archive, point-in-time recovery."),
			kong.ConfigureHelp(kong.HelpOptions{Compact: true}), kong.UsageOnError(), kong.KindMapper(reflect.String, kong.MapperFunc(verbatim)))...)
		if err != nil {
			return nil, fmt.Errorf("set up the command line: %w", err)
		}
		command, err := parser.Parse(a.args)
		if err != nil {
			return nil, usagef("%v%s", err, instead(err))
		}
		return command, nil
	}
	if target, settings, ok := oneCommand(a.args); ok {
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
		return fmt.Sprintf("\nGive one of these after %s: %s", at.Name, strings.Join(kinds, ", "))
	case at.Name == "policy" && strings.HasPrefix(err.Error(), "unexpected argument"):
		return "\nThe policy is given with --retention, in quotes"
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
		return errors.New("the value is empty: give one, or leave it out")
	}
	to.SetString(text)
	return nil
}

// oneCommand is the grammar of the command line's command alone, behind settings, which all take a value: building all
// of it takes longer than all else that wal-push does with a file that was archived ahead. What it cannot parse, and
// help, needs the whole.
func oneCommand(args []string) (target any, settings *Settings, ok bool) {
	for len(args) > 0 && strings.HasPrefix(args[0], "--") {
		n := 2
		if strings.Contains(args[0], "=") {
			n = 1
		}
		args = args[min(n, len(args)):]
	}
	for f := range reflect.TypeFor[grammar]().Fields() {
		if name := f.Tag.Get("name"); len(args) > 0 && name != "" && name == args[0] {
			g := reflect.New(reflect.StructOf([]reflect.StructField{{Name: "Settings", Type: reflect.TypeFor[Settings](), Tag: `embed:""`}, f}))
			return g.Interface(), g.Elem().Field(0).Addr().Interface().(*Settings), true
		}
	}
	return nil, nil, false
}

// withTimeout ends the context after d, if there is one.
func withTimeout(ctx context.Context, d *time.Duration) (context.Context, context.CancelFunc) {
	if d == nil {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, *d, fmt.Errorf("%w %v", errTimeout, *d))
}

// timedOut says of an error that the end of withTimeout's time caused it, if so. What was tried last follows it.
func timedOut(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errTimeout) && !strings.HasPrefix(err.Error(), cause.Error()) {
		return fmt.Errorf("%w\n%w", cause, err)
	}
	return err
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

// open connects to the server's folder in the storage. No request is made yet.
func (a *app) open(policy retry.Policy) (storage.Store, error) {
	if err := catalog.CheckServer(a.Server); err != nil {
		return nil, usagef("--server (PGOBJ_SERVER) is %q: %v", a.Server, err)
	}
	s, err := a.root(policy)
	if err != nil {
		return nil, err
	}
	return storage.Sub(s, a.Server), nil
}

// root connects to the whole storage, all servers in it.
func (a *app) root(policy retry.Policy) (storage.Store, error) {
	if a.Storage == "" {
		return nil, usagef("no storage is set: give --storage (or PGOBJ_STORAGE) as file:///folder or s3://bucket/prefix")
	}
	policy.Budget = cmp.Or(policy.Budget, a.RetryFor)
	s, err := connect.Open(connect.Config{
		URL: a.Storage, Endpoint: a.S3Endpoint, Region: a.S3Region, PathStyle: a.S3PathStyle,
		CAFile: a.S3CAFile, Driver: a.S3Driver, Retry: policy, Log: a.log,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	return s, nil
}

// catalog returns the catalog in a store that open returned.
func (a *app) catalog(s storage.Store) *catalog.Catalog {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return catalog.New(s, fmt.Sprintf("%s/%d/%s", host, os.Getpid(), rand.Text()[:8]), a.now)
}

// repository is a server's folder in the storage, with the catalog as it is now.
type repository struct {
	store storage.Store
	cat   *catalog.Catalog
	state *catalog.State
}

// load opens the server's folder and reads its catalog. The server need not be there yet.
func (a *app) load(ctx context.Context) (r repository, err error) {
	if r.store, err = a.open(retry.Policy{}); err != nil {
		return r, err
	}
	r.cat = a.catalog(r.store)
	r.state, err = r.cat.Load(ctx)
	return r, err
}

// loadKnown is load for a server that has to be there, for all who only read: of a name that is mistyped there is
// nothing, and who watches it would be content for ever. It costs a request where the catalog is empty.
func (a *app) loadKnown(ctx context.Context) (repository, error) {
	r, err := a.load(ctx)
	if err == nil && r.state.N == 0 {
		err = a.known(ctx, r.store)
	}
	return r, err
}

// known fails with errNoServer if there is nothing of the server.
func (a *app) known(ctx context.Context, s storage.Store) error {
	exists, err := catalog.Exists(ctx, s)
	if err == nil && !exists {
		err = fmt.Errorf("%w: there is nothing of server %s in %s", errNoServer, a.Server, s)
	}
	return err
}

// isPath says of what stands in a backup's place that it is none for certain: ids have no slash.
func isPath(arg string) bool { return strings.Contains(arg, "/") || arg == "." || arg == ".." }

// find is load, and the backup that somebody names.
func (a *app) find(ctx context.Context, name string) (repository, *catalog.Entry, error) {
	r, err := a.loadKnown(ctx)
	if err != nil {
		return r, nil, err
	}
	e, err := r.state.Resolve(name)
	return r, e, err
}
