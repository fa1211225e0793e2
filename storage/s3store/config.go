// Package s3store is everything about an S3 store that does not depend on the SDK in use: the
// settings, the HTTP transport, the credentials, the judgement of every answer, and the
// storage.Store made of these and a Client. It exists so that the drivers s3 and minio
// cannot disagree about what an answer means.
//
// It refuses to retry, to log, to follow redirects and to believe an answer that is not S3's own
// protocol. The only environment it reads is that of the AWS credential chain and HTTPS_PROXY.
package s3store

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/pgobj/pgobj/storage"
)

// PathStyle says where the bucket's name goes: into the path or in front of the host name.
type PathStyle uint8

const (
	// PathAuto is PathOn for a configured endpoint, as few compatible stores have the DNS names that
	// the other style needs, and PathOff for AWS, which retires the path style.
	PathAuto PathStyle = iota
	PathOn
	PathOff
)

// Config is one place in one bucket. Only Bucket is required.
type Config struct {
	Bucket string
	Prefix string // directory in the bucket, without slashes around it; "" is the bucket's root

	Endpoint  string // http(s)://host[:port]; "" is AWS
	Region    string // "" is the AWS chain's (AWS_REGION, profile), else us-east-1 for an Endpoint
	PathStyle PathStyle
	CAFile    string // PEM certificates trusted in addition to the system's

	// Credentials replaces the AWS chain (environment, shared files, web identity, container and
	// instance roles), which is used when it is nil.
	Credentials aws.CredentialsProvider
}

// ConfigError says which field of a Config cannot be used and what it accepts.
type ConfigError struct{ Field, Problem string }

func (e *ConfigError) Error() string { return e.Field + ": " + e.Problem }

// check returns the parsed endpoint (nil: AWS) and the added certificates (nil: none).
func (c *Config) check() (*url.URL, []*x509.Certificate, error) {
	if c.Bucket == "" || strings.ContainsAny(c.Bucket, "/ ?#@:") {
		return nil, nil, &ConfigError{"Bucket", fmt.Sprintf("%q is not a bucket name", c.Bucket)}
	}
	if c.Prefix != "" {
		if err := storage.CheckKey(c.Prefix); err != nil {
			return nil, nil, &ConfigError{"Prefix", err.Error()}
		}
	}
	var endpoint *url.URL
	if c.Endpoint != "" {
		u, err := url.Parse(c.Endpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil ||
			strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			// The value is not repeated: it may hold a password.
			return nil, nil, &ConfigError{"Endpoint", "must be http://host[:port] or https://host[:port], with nothing after it and no user in it"}
		}
		endpoint = &url.URL{Scheme: u.Scheme, Host: u.Host}
	}
	if c.PathStyle > PathOff {
		return nil, nil, &ConfigError{"PathStyle", "unknown value"}
	}
	if c.CAFile == "" {
		return endpoint, nil, nil
	}
	if endpoint != nil && endpoint.Scheme == "http" {
		return nil, nil, &ConfigError{"CAFile", "an http:// endpoint has no certificate to check"}
	}
	certs, err := readCA(c.CAFile)
	if err != nil {
		return nil, nil, &ConfigError{"CAFile", err.Error()}
	}
	return endpoint, certs, nil
}

func (c *Config) pathStyle() bool {
	return c.PathStyle == PathOn || c.PathStyle == PathAuto && c.Endpoint != ""
}

func readCA(file string) ([]*x509.Certificate, error) {
	pemData, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	certs, err := parsePEM(pemData)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(certs) == 0 {
		return nil, errors.New(file + " holds no certificate in PEM format")
	}
	return certs, nil
}
