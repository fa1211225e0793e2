package app

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/pgobj/pgobj/catalog"
	"github.com/pgobj/pgobj/cmd/cli/config"
	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/connect"
	"github.com/pgobj/pgobj/storage/retry"
)

// Streams are where a command writes: results to Out, everything for people to Err.
type Streams struct{ Out, Err io.Writer }

// Settings are the flags that every command has; each has an environment variable.
type Settings struct {
	Config      string         `name:"config" env:"PGOBJ_CONFIG" placeholder:"FILE" help:"Read settings from this file, or from pgobj.conf and conf.d/*.conf in this directory, instead of those in /etc/pgobj and ~/.config/pgobj; none: read no file. Flags and environment variables override it. It may also have credentials (AWS_…)."`
	Storage     string         `name:"storage" env:"PGOBJ_STORAGE" placeholder:"URL" help:"Where backups and WAL are: file:///directory or s3://bucket/prefix."`
	Server      string         `name:"server" env:"PGOBJ_SERVER" default:"main" help:"Name of the PostgreSQL server: its section in the configuration, and its directory in the storage. Where several make sense: NAME,NAME, or all."`
	AtOnce      int            `name:"servers-at-once" env:"PGOBJ_SERVERS_AT_ONCE" default:"1" placeholder:"N" help:"With several servers: how many at the same time."`
	S3Endpoint  string         `name:"s3-endpoint" env:"PGOBJ_S3_ENDPOINT" placeholder:"URL" help:"S3 service other than AWS, such as https://minio.example:9000 (default: AWS_ENDPOINT_URL)."`
	S3Region    string         `name:"s3-region" env:"PGOBJ_S3_REGION" help:"Region of the bucket (default: as the AWS settings say)."`
	S3PathStyle string         `name:"s3-path-style" env:"PGOBJ_S3_PATH_STYLE" enum:"auto,true,false" default:"auto" help:"Address the bucket in the path (true) or in the host name (false); auto: in the path with --s3-endpoint."`
	S3CAFile    string         `name:"s3-ca-file" env:"PGOBJ_S3_CA_FILE" placeholder:"FILE" help:"Certificates (PEM) to trust in addition to the system's (default: AWS_CA_BUNDLE)."`
	S3Driver    string         `name:"s3-driver" env:"PGOBJ_S3_DRIVER" enum:"auto,aws,minio" default:"auto" help:"Client library; auto: aws for AWS, minio for --s3-endpoint."`
	RetryFor    time.Duration  `name:"retry-for" env:"PGOBJ_RETRY_FOR" default:"5m" placeholder:"TIME" help:"Retry failed storage operations for up to this time (wal-fetch on a standby: at most 10s, because PostgreSQL asks again)."`
	Timeout     *time.Duration `name:"timeout" env:"PGOBJ_TIMEOUT" placeholder:"TIME" help:"End with exit code 18 if the command has not finished after this time (default: never; wal-push 5m)."`
	LogLevel    string         `name:"log-level" env:"PGOBJ_LOG_LEVEL" enum:"debug,info,warn,error" default:"info" help:"Minimum log level: debug, info, warn, error."`
	LogFormat   string         `name:"log-format" env:"PGOBJ_LOG_FORMAT" enum:"text,json" default:"text" help:"Format of the log, and of the error of a command that fails: text or json."`
}

// FromAWS fills in what the AWS tools' own variables say. They may be set on any host, so with a directory
// as storage they mean nothing, while pgobj's own settings would be an error.
func (s *Settings) FromAWS() {
	if strings.HasPrefix(s.Storage, "s3:") {
		s.S3Endpoint = cmp.Or(s.S3Endpoint, os.Getenv("AWS_ENDPOINT_URL_S3"), os.Getenv("AWS_ENDPOINT_URL"))
		if !strings.HasPrefix(s.S3Endpoint, "http://") { // which has no certificate, so no use for the host's bundle
			s.S3CAFile = cmp.Or(s.S3CAFile, os.Getenv("AWS_CA_BUNDLE"))
		}
	}
}

// Check refuses what no command can work with.
func (s *Settings) Check() error {
	if s.RetryFor <= 0 {
		return Usagef("--retry-for (PGOBJ_RETRY_FOR) is %v: use a time above 0, such as 5m", s.RetryFor)
	}
	if s.Timeout != nil && *s.Timeout <= 0 {
		return Usagef("--timeout (PGOBJ_TIMEOUT) is %v: use a time above 0, such as 12h", *s.Timeout)
	}
	if s.AtOnce < 1 || s.AtOnce > 256 {
		return Usagef("--servers-at-once (PGOBJ_SERVERS_AT_ONCE) is %d: use 1 to 256", s.AtOnce)
	}
	return nil
}

// JobsFlag is the number of workers, for the commands that have them.
type JobsFlag struct {
	Jobs int `name:"jobs" short:"j" env:"PGOBJ_JOBS" placeholder:"N" help:"Workers (default: the number of CPUs)."`
}

func (j JobsFlag) Count() (int, error) {
	if j.Jobs < 0 || j.Jobs > 256 {
		return 0, Usagef("--jobs (PGOBJ_JOBS) is %d: use 1 to 256", j.Jobs)
	}
	if j.Jobs == 0 {
		return runtime.NumCPU(), nil
	}
	return j.Jobs, nil
}

// App is what a command gets to work with.
type App struct {
	Settings
	Streams
	Raw        *Output // Out for what is no text
	ConfigFile *config.Config
	Version    string
	Args       []string // the command line
	Now        func() time.Time
	Log        *slog.Logger
}

// WithTimeout ends the context after d, if there is one.
func WithTimeout(ctx context.Context, d *time.Duration) (context.Context, context.CancelFunc) {
	if d == nil {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, *d, fmt.Errorf("%w %v", ErrTimeout, *d))
}

// TimedOut says of an error that the end of WithTimeout's time caused it, if so. What was tried last follows it.
func TimedOut(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, ErrTimeout) && !strings.HasPrefix(err.Error(), cause.Error()) {
		return fmt.Errorf("%w\n%w", cause, err)
	}
	return err
}

// Open connects to the server's directory in the storage. No request is made yet.
func (a *App) Open(policy retry.Policy) (storage.Store, error) {
	if err := catalog.CheckServer(a.Server); err != nil {
		return nil, Usagef("--server (PGOBJ_SERVER) is %q: %v", a.Server, err)
	}
	s, err := a.Root(policy)
	if err != nil {
		return nil, err
	}
	return storage.Sub(s, a.Server), nil
}

// Root connects to the whole storage, all servers in it.
func (a *App) Root(policy retry.Policy) (storage.Store, error) {
	if a.Storage == "" {
		return nil, Usagef("no storage is set: give --storage (or PGOBJ_STORAGE) as file:///directory or s3://bucket/prefix")
	}
	policy.Budget = cmp.Or(policy.Budget, a.RetryFor)
	s, err := connect.Open(connect.Config{
		URL: a.Storage, Endpoint: a.S3Endpoint, Region: a.S3Region, PathStyle: a.S3PathStyle,
		CAFile: a.S3CAFile, Driver: a.S3Driver, Retry: policy, Log: a.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUsage, err)
	}
	return s, nil
}

// Catalog returns the catalog in a store that open returned.
func (a *App) Catalog(s storage.Store) *catalog.Catalog {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return catalog.New(s, fmt.Sprintf("%s/%d/%s", host, os.Getpid(), rand.Text()[:8]), a.Now)
}

// repository is a server's directory in the storage, with the catalog as it is now.
type repository struct {
	Store storage.Store
	Cat   *catalog.Catalog
	State *catalog.State
}

// Load opens the server's directory and reads its catalog. The server need not be there yet.
func (a *App) Load(ctx context.Context) (r repository, err error) {
	if r.Store, err = a.Open(retry.Policy{}); err != nil {
		return r, err
	}
	r.Cat = a.Catalog(r.Store)
	r.State, err = r.Cat.Load(ctx)
	return r, err
}

// LoadKnown is load for a server that has to be there, for all who only read: of a name that is mistyped there is
// nothing, and who watches it would be content for ever. It costs a request where the catalog is empty.
func (a *App) LoadKnown(ctx context.Context) (repository, error) {
	r, err := a.Load(ctx)
	if err == nil && r.State.N == 0 {
		err = a.Known(ctx, r.Store)
	}
	return r, err
}

// Known fails with ErrNoServer if there is nothing of the server.
func (a *App) Known(ctx context.Context, s storage.Store) error {
	exists, err := catalog.Exists(ctx, s)
	if err == nil && !exists {
		err = fmt.Errorf("%w: %[3]s has nothing of server %[2]s", ErrNoServer, a.Server, s)
	}
	return err
}

// IsPath says of what stands in a backup's place that it is none for certain: ids have no slash.
func IsPath(arg string) bool { return strings.Contains(arg, "/") || arg == "." || arg == ".." }

// Find is load, and the backup that somebody names.
func (a *App) Find(ctx context.Context, name string) (repository, *catalog.Entry, error) {
	r, err := a.LoadKnown(ctx)
	if err != nil {
		return r, nil, err
	}
	e, err := r.State.Resolve(name)
	return r, e, err
}
