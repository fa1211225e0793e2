package s3store

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/pgobj/pgobj/storage"
)

// chain is the AWS credential chain, loaded at its first use: a command that ends before its first
// request must not pay for it, and an instance role costs network round trips.
type chain struct {
	given aws.CredentialsProvider // replaces the chain's credentials when not nil

	mu  sync.Mutex
	cfg *aws.Config
}

func (c *chain) load(ctx context.Context) (*aws.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cfg == nil {
		cfg, err := config.LoadDefaultConfig(ctx)
		if err != nil {
			return nil, &Failure{Kind: storage.KindDenied, Cause: storage.ErrNoCredentials, Err: fmt.Errorf("load AWS configuration: %w", err)}
		}
		if c.given != nil {
			cfg.Credentials = c.given
		}
		c.cfg = &cfg
	}
	return c.cfg, nil
}

// Retrieve implements aws.CredentialsProvider. Its errors are Failures.
func (c *chain) Retrieve(ctx context.Context) (aws.Credentials, error) {
	cfg, err := c.load(ctx)
	if err != nil {
		return aws.Credentials{}, err
	}
	creds, err := cfg.Credentials.Retrieve(ctx)
	if err != nil {
		kind := storage.KindDenied
		if onTheWay(ctx, err) {
			kind = storage.KindTransient
		}
		return aws.Credentials{}, &Failure{Kind: kind, Cause: storage.ErrNoCredentials, Err: fmt.Errorf("no credentials found: %w", err)}
	}
	return creds, nil
}

// onTheWay reports whether credentials could not be had for trouble that may pass: the caller's own
// end, or a token service that is asked for by configuration and did not answer. An instance
// metadata service that does not answer is the usual sign of a host that has none.
func onTheWay(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return true
	}
	op, ok := errors.AsType[*smithy.OperationError](err)
	if !ok || op.ServiceID == "ec2imds" {
		return false
	}
	if re, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		return re.HTTPStatusCode() >= 500 || re.HTTPStatusCode() == http.StatusTooManyRequests
	}
	_, refused := errors.AsType[smithy.APIError](err)
	return !refused
}

// renew is called when the store refused the credentials used. It reads the chain again, as
// an agent may have put fresh ones into the shared file, and reports whether they differ: then the
// request deserves another attempt.
func (c *chain) renew(ctx context.Context, accessKey, token string) bool {
	differ := func() bool {
		creds, err := c.Retrieve(ctx)
		return err == nil && (creds.AccessKeyID != accessKey || creds.SessionToken != token)
	}
	if differ() { // another worker has renewed them already
		return true
	}
	if inv, ok := c.given.(interface{ Invalidate() }); ok {
		inv.Invalidate()
	}
	c.mu.Lock()
	c.cfg = nil
	c.mu.Unlock()
	return differ()
}
