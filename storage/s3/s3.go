// Package s3 is the storage driver for AWS S3 with aws-sdk-go-v2. It owns how that SDK is called;
// settings, transport, credentials and the meaning of answers are s3store's.
package s3

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/url"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/s3store"
)

// Config is one place in one bucket.
type Config = s3store.Config

// New returns the store that cfg names. It makes no request and looks for no credentials.
func New(cfg Config) (storage.Store, error) { return s3store.New(cfg, connect) }

func connect(w s3store.Wire) (s3store.Client, error) {
	opts := s3.Options{
		Region:       w.Region,
		Credentials:  w.Credentials,
		HTTPClient:   &http.Client{Transport: w.Transport},
		Retryer:      aws.NopRetryer{},
		UsePathStyle: w.PathStyle,
		// The SDK's own default adds checksum trailers in aws-chunked encoding, which compatible stores
		// refuse; a body whose SHA-256 is part of the signature is verified by all of them.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
		APIOptions:                 []func(*middleware.Stack) error{signBody},
		// "Expect: 100-continue" costs a round trip for every part, and hangs behind some proxies.
		ContinueHeaderThresholdBytes: -1,
	}
	if w.Endpoint != nil {
		opts.BaseEndpoint = aws.String(w.Endpoint.String())
	}
	return &client{api: s3.New(opts), bucket: aws.String(w.Bucket)}, nil
}

// signBody has the body's SHA-256 signed over TLS too, where the SDK would leave the body unprotected: TLS
// ends at the first load balancer.
func signBody(stack *middleware.Stack) error {
	sha := &v4.ComputePayloadSHA256{}
	_, err := stack.Finalize.Swap(sha.ID(), sha)
	return err
}

type client struct {
	api    *s3.Client
	bucket *string
}

func (c *client) Put(ctx context.Context, key string, body io.ReadSeeker, size int64) error {
	_, err := c.api.PutObject(ctx, &s3.PutObjectInput{
		Bucket: c.bucket, Key: &key, Body: body, ContentLength: &size, IfNoneMatch: aws.String("*"),
	})
	return err
}

func (c *client) Get(ctx context.Context, key, byteRange string) (io.ReadCloser, int64, error) {
	in := &s3.GetObjectInput{Bucket: c.bucket, Key: &key}
	if byteRange != "" {
		in.Range = &byteRange
	}
	out, err := c.api.GetObject(ctx, in)
	if err != nil {
		return nil, 0, err
	}
	if out.ContentLength == nil {
		out.Body.Close()
		return nil, 0, errors.New("answer has no length")
	}
	return out.Body, *out.ContentLength, nil
}

func (c *client) Head(ctx context.Context, key string) (storage.Info, error) {
	out, err := c.api.HeadObject(ctx, &s3.HeadObjectInput{Bucket: c.bucket, Key: &key})
	if err != nil {
		return storage.Info{}, err
	}
	return storage.Info{Size: aws.ToInt64(out.ContentLength), Created: aws.ToTime(out.LastModified), Class: string(out.StorageClass), LockedUntil: aws.ToTime(out.ObjectLockRetainUntilDate),
		LegalHold: out.ObjectLockLegalHoldStatus == types.ObjectLockLegalHoldStatusOn}, nil
}

func (c *client) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		in := &s3.ListObjectsV2Input{Bucket: c.bucket, Prefix: &prefix, EncodingType: types.EncodingTypeUrl}
		if startAfter != "" {
			in.StartAfter = &startAfter
		}
		for pages := s3.NewListObjectsV2Paginator(c.api, in); pages.HasMorePages(); {
			out, err := pages.NextPage(ctx)
			if err != nil {
				yield(storage.Info{}, err)
				return
			}
			for _, o := range out.Contents {
				key := aws.ToString(o.Key)
				if out.EncodingType == types.EncodingTypeUrl {
					if key, err = url.QueryUnescape(key); err != nil {
						yield(storage.Info{}, err)
						return
					}
				}
				if !yield(storage.Info{Key: key, Size: aws.ToInt64(o.Size), Created: aws.ToTime(o.LastModified), Class: string(o.StorageClass)}, nil) {
					return
				}
			}
		}
	}
}

func (c *client) DeleteMany(ctx context.Context, keys []string) error {
	var objects []types.ObjectIdentifier
	for _, key := range keys {
		objects = append(objects, types.ObjectIdentifier{Key: aws.String(key)})
	}
	_, err := c.api.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: c.bucket, Delete: &types.Delete{Objects: objects}})
	return err
}

func (c *client) Delete(ctx context.Context, key string) error {
	_, err := c.api.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: c.bucket, Key: &key})
	return err
}
