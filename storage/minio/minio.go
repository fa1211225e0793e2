// Package minio is the storage driver for S3-compatible stores with minio-go. It owns how that SDK is
// called; settings, transport, credentials and the meaning of answers are s3store's.
package minio

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"iter"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/s3store"
)

// Config is one place in one bucket.
type Config = s3store.Config

// New returns the store that cfg names. It makes no request and looks for no credentials.
func New(cfg Config) (storage.Store, error) { return s3store.New(cfg, connect) }

func connect(w s3store.Wire) (s3store.Client, error) {
	host, secure := "s3."+w.Region+".amazonaws.com", true
	if w.Endpoint != nil {
		host, secure = w.Endpoint.Host, w.Endpoint.Scheme == "https"
	}
	opts := &minio.Options{
		Creds:        credentials.New(provider{w.Credentials}),
		Secure:       secure,
		Region:       w.Region, // set, so that the SDK does not ask for the bucket's location
		Transport:    w.Transport,
		BucketLookup: minio.BucketLookupDNS,
		MaxRetries:   1, // attempts
	}
	if w.PathStyle {
		opts.BucketLookup = minio.BucketLookupPath
	}
	api, err := minio.NewCore(host, opts)
	if err != nil {
		return nil, err
	}
	return &client{api: api, bucket: w.Bucket}, nil
}

// provider makes the AWS chain, which caches by itself, minio-go's source of credentials.
type provider struct{ chain aws.CredentialsProvider }

func (p provider) IsExpired() bool { return true }

func (p provider) Retrieve() (credentials.Value, error) { return p.RetrieveWithCredContext(nil) }

func (p provider) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	c, err := p.chain.Retrieve(context.Background()) // s3store has just asked with the caller's context
	return credentials.Value{AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey,
		SessionToken: c.SessionToken, SignerType: credentials.SignatureV4}, err
}

type client struct {
	api    *minio.Core
	bucket string
}

// Put signs the body's SHA-256, which the store verifies. Left alone, the SDK does not protect the body
// over TLS, and sends it in signed chunks, which not all stores know, without TLS.
func (c *client) Put(ctx context.Context, key string, body io.ReadSeeker, size int64) error {
	hash := sha256.New()
	if _, err := io.Copy(hash, body); err != nil {
		return err
	}
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return err
	}
	opts := minio.PutObjectOptions{DisableContentSha256: true}
	opts.SetMatchETagExcept("*")
	_, err := c.api.PutObject(ctx, c.bucket, key, body, size, "", hex.EncodeToString(hash.Sum(nil)), opts)
	return err
}

func (c *client) Get(ctx context.Context, key, byteRange string) (io.ReadCloser, int64, error) {
	var opts minio.GetObjectOptions
	if byteRange != "" {
		opts.Set("Range", byteRange)
	}
	body, info, _, err := c.api.GetObject(ctx, c.bucket, key, opts)
	return body, info.Size, err
}

func (c *client) Head(ctx context.Context, key string) (storage.Info, error) {
	o, err := c.api.StatObject(ctx, c.bucket, key, minio.StatObjectOptions{})
	info := storage.Info{Size: o.Size, Created: o.LastModified, Class: o.Metadata.Get("X-Amz-Storage-Class"), LegalHold: o.Metadata.Get("X-Amz-Object-Lock-Legal-Hold") == "ON"}
	if t, err := time.Parse(time.RFC3339, o.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date")); err == nil {
		info.LockedUntil = t
	}
	return info, err
}

func (c *client) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Info, error] {
	noOwner := false
	opts := minio.ListObjectsOptions{Prefix: prefix, StartAfter: startAfter, Recursive: true, FetchOwner: &noOwner}
	return func(yield func(storage.Info, error) bool) {
		for o := range c.api.ListObjectsIter(ctx, c.bucket, opts) {
			if !yield(storage.Info{Key: o.Key, Size: o.Size, Created: o.LastModified, Class: o.StorageClass}, o.Err) || o.Err != nil {
				return
			}
		}
	}
}

func (c *client) DeleteMany(ctx context.Context, keys []string) error {
	objects := make(chan minio.ObjectInfo, len(keys))
	for _, key := range keys {
		objects <- minio.ObjectInfo{Key: key}
	}
	close(objects)
	var err error
	for r := range c.api.RemoveObjectsWithResult(ctx, c.bucket, objects, minio.RemoveObjectsOptions{}) {
		err = cmp.Or(err, r.Err)
	}
	return err
}

func (c *client) Delete(ctx context.Context, key string) error {
	return c.api.RemoveObject(ctx, c.bucket, key, minio.RemoveObjectOptions{})
}
