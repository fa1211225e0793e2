// Package connect turns settings into a storage.Store with retries. It alone imports the drivers. Its
// errors name the setting as a user knows it: flag and environment variable.
package connect

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/file"
	"github.com/pgobj/pgobj/storage/minio"
	"github.com/pgobj/pgobj/storage/retry"
	"github.com/pgobj/pgobj/storage/s3"
	"github.com/pgobj/pgobj/storage/s3store"
)

// Config is where a repository is, in the words of the command line. Only URL is required.
type Config struct {
	URL string // file:///directory or s3://bucket[/prefix]

	// For s3:// only.
	Endpoint  string // http(s)://host[:port]; "" is AWS
	Region    string // "" is what the AWS settings say
	PathStyle string // "auto" (or ""), "true", "false"
	CAFile    string // PEM file
	Driver    string // "auto" (or ""), "aws", "minio"

	// Credentials replaces the AWS credential chain when it is not nil: for embedding and tests, as secrets
	// do not belong on a command line.
	Credentials aws.CredentialsProvider

	// Create lets the first Put make the directory of a file:// URL: see file.Config.
	Create bool

	Retry retry.Policy
	Log   *slog.Logger // nil: retries are not logged
}

// A setting is named in errors by its flag and its variable.
const (
	nameURL       = "--storage (PGOBJ_STORAGE)"
	nameEndpoint  = "--s3-endpoint (PGOBJ_S3_ENDPOINT)"
	nameRegion    = "--s3-region (PGOBJ_S3_REGION)"
	namePathStyle = "--s3-path-style (PGOBJ_S3_PATH_STYLE)"
	nameCAFile    = "--s3-ca-file (PGOBJ_S3_CA_FILE)"
	nameDriver    = "--s3-driver (PGOBJ_S3_DRIVER)"

	accepted = "expected file:///directory or s3://bucket/prefix"
)

// SettingError is a setting that cannot be used.
type SettingError struct {
	Setting string // flag and variable
	Problem string // what is wrong and what is accepted
}

func (e *SettingError) Error() string { return e.Setting + ": " + e.Problem }

// Open checks the settings and returns the store. It makes no request: that the store is there and lets
// us in is seen at the first operation. Every error is a *SettingError.
func Open(cfg Config) (storage.Store, error) {
	s, err := open(cfg)
	if err != nil {
		return nil, err
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return retry.New(s, cfg.Retry, log), nil
}

func open(cfg Config) (storage.Store, error) {
	if cfg.URL == "" {
		return nil, &SettingError{nameURL, "is not set: " + accepted}
	}
	u, err := url.Parse(cfg.URL)
	if err != nil {
		// The parser's own error repeats the URL, which may hold a password.
		return nil, &SettingError{nameURL, "is no URL: " + accepted}
	}
	if u.User != nil {
		return nil, &SettingError{nameURL, "has a user or password, which belongs into the AWS settings: " + accepted}
	}
	if u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		return nil, &SettingError{nameURL, fmt.Sprintf("%q is not understood: %s", cfg.URL, accepted)}
	}
	switch u.Scheme {
	case "file":
		return openFile(cfg, u)
	case "s3":
		return openS3(cfg, u)
	}
	return nil, &SettingError{nameURL, fmt.Sprintf("%q: %s", cfg.URL, accepted)}
}

func openFile(cfg Config, u *url.URL) (storage.Store, error) {
	for _, o := range []struct{ name, value string }{{nameEndpoint, cfg.Endpoint}, {nameRegion, cfg.Region}, {nameCAFile, cfg.CAFile},
		{namePathStyle, unlessAuto(cfg.PathStyle)}, {nameDriver, unlessAuto(cfg.Driver)}} {
		if o.value != "" {
			return nil, &SettingError{o.name, "is set, but " + nameURL + " is a file URL: it is for s3:// only"}
		}
	}
	if u.Host != "" && u.Host != "localhost" || u.Path == "" || u.Path == "/" {
		return nil, &SettingError{nameURL, fmt.Sprintf("%q: expected file:///directory, with three slashes and an absolute path", cfg.URL)}
	}
	s, err := file.New(file.Config{Dir: filepath.FromSlash(u.Path), Create: cfg.Create})
	if err != nil {
		return nil, &SettingError{nameURL, err.Error()}
	}
	return s, nil
}

// Directory is that of a file:// URL; empty for others.
func Directory(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != "file" {
		return ""
	}
	return filepath.FromSlash(u.Path)
}

func unlessAuto(s string) string {
	if s == "auto" {
		return ""
	}
	return s
}

func openS3(cfg Config, u *url.URL) (storage.Store, error) {
	if u.Host == "" {
		return nil, &SettingError{nameURL, fmt.Sprintf("%q has no bucket: expected s3://bucket/prefix", cfg.URL)}
	}
	sc := s3store.Config{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/"), Endpoint: cfg.Endpoint, Region: cfg.Region,
		CAFile: cfg.CAFile, Credentials: cfg.Credentials}
	switch cfg.PathStyle {
	case "", "auto":
	case "true":
		sc.PathStyle = s3store.PathOn
	case "false":
		sc.PathStyle = s3store.PathOff
	default:
		return nil, &SettingError{namePathStyle, fmt.Sprintf("%q: expected auto, true or false", cfg.PathStyle)}
	}
	driver := cfg.Driver
	if driver == "" || driver == "auto" {
		driver = "minio" // newer AWS SDKs have habits that compatible stores do not share
		if cfg.Endpoint == "" {
			driver = "aws"
		}
	}
	var s storage.Store
	var err error
	switch driver {
	case "aws":
		s, err = s3.New(sc)
	case "minio":
		s, err = minio.New(sc)
	default:
		return nil, &SettingError{nameDriver, fmt.Sprintf("%q: expected auto, aws or minio", cfg.Driver)}
	}
	if ce, ok := errors.AsType[*s3store.ConfigError](err); ok {
		name := map[string]string{"Endpoint": nameEndpoint, "CAFile": nameCAFile, "PathStyle": namePathStyle}[ce.Field]
		if name == "" {
			return nil, &SettingError{nameURL, fmt.Sprintf("%q: %s (%s)", cfg.URL, ce.Problem, accepted)}
		}
		return nil, &SettingError{name, ce.Problem}
	}
	if err != nil {
		return nil, &SettingError{nameURL, err.Error()}
	}
	return s, nil
}
