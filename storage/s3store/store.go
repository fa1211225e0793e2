package s3store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/pgobj/pgobj/storage"
)

// Client makes the requests through an SDK, with full keys. Each call is one HTTP request (List: one
// a page) without retries, through Wire.Transport, which has judged the answer already.
type Client interface {
	// Put sends one PutObject with If-None-Match: *, and a hash of the body that the store verifies.
	Put(ctx context.Context, key string, body io.ReadSeeker, size int64) error
	// Get sends one GetObject with the header Range as given ("": none), and returns the body's length.
	Get(ctx context.Context, key, byteRange string) (io.ReadCloser, int64, error)
	Head(ctx context.Context, key string) (storage.Info, error) // without the key
	List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Info, error]
	Delete(ctx context.Context, key string) error
	// DeleteMany sends one DeleteObjects of at most 1,000 keys. What became of each is read from the answer by Wire.Transport.
	DeleteMany(ctx context.Context, keys []string) error
}

// Wire is what a Client is made of.
type Wire struct {
	Bucket      string
	Endpoint    *url.URL // nil: AWS
	Region      string
	PathStyle   bool
	Credentials aws.CredentialsProvider
	Transport   http.RoundTripper
}

// New checks cfg and returns the store. The client is made before the first request: until then there is
// no network traffic and no search for credentials.
func New(cfg Config, connect func(Wire) (Client, error)) (storage.Store, error) {
	endpoint, certs, err := cfg.check()
	if err != nil {
		return nil, err
	}
	s := &store{cfg: cfg, endpoint: endpoint, connect: connect, chain: &chain{given: cfg.Credentials}}
	s.wire = newWire(s.chain, certs)
	if cfg.Prefix != "" {
		s.prefix = cfg.Prefix + "/"
	}
	return s, nil
}

type store struct {
	cfg      Config
	prefix   string // "" or ending at a slash
	endpoint *url.URL
	chain    *chain
	wire     *wire
	connect  func(Wire) (Client, error)

	mu     sync.Mutex
	client Client

	oneByOne atomic.Bool // the server does not know DeleteObjects
}

func (s *store) String() string {
	return strings.TrimSuffix("s3://"+s.cfg.Bucket+"/"+s.prefix, "/")
}

// ready returns the client, with credentials known to be at hand.
func (s *store) ready(ctx context.Context) (Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == nil {
		region := s.cfg.Region
		if region == "" {
			cfg, err := s.chain.load(ctx)
			if err != nil {
				return nil, err
			}
			if region = cfg.Region; region == "" && s.endpoint == nil {
				return nil, &Failure{Kind: storage.KindNoStore, Cause: storage.ErrNoRegion, Err: errors.New("no region is configured, which AWS needs")}
			} else if region == "" {
				region = "us-east-1"
			}
		}
		client, err := s.connect(Wire{Bucket: s.cfg.Bucket, Endpoint: s.endpoint, Region: region,
			PathStyle: s.cfg.pathStyle(), Credentials: s.chain, Transport: s.wire})
		if err != nil {
			return nil, err
		}
		s.client = client
	}
	return s.client, nil
}

func (s *store) Put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	c, err := s.begin(ctx, "put", key)
	if err != nil {
		return err
	}
	defer c.end()
	src := &source{in: io.NewSectionReader(body, 0, size)}
	err = c.client.Put(c.ctx, s.prefix+key, src, size)
	if broken := src.stop(); broken != nil {
		return &storage.Error{Op: "put", Key: key, Store: s.String(), Err: fmt.Errorf("read the data to store: %w", broken)}
	}
	if err != nil {
		return c.fail(err)
	}
	return nil
}

func (s *store) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, error) {
	c, err := s.begin(ctx, "get", key)
	if err != nil {
		return nil, err
	}
	if r.Offset < 0 || r.Length < 0 {
		c.end()
		return nil, c.fail(fmt.Errorf("range %+v is negative", r))
	}
	byteRange := ""
	if r.Length > 0 && r.Offset <= math.MaxInt64-r.Length {
		byteRange = fmt.Sprintf("bytes=%d-%d", r.Offset, r.Offset+r.Length-1)
	} else if r.Offset > 0 {
		byteRange = fmt.Sprintf("bytes=%d-", r.Offset)
	}
	rc, size, err := c.client.Get(c.ctx, s.prefix+key, byteRange)
	if err != nil {
		c.end()
		if f := c.failure.Load(); f != nil && f.Status == http.StatusRequestedRangeNotSatisfiable && f.Code == "InvalidRange" {
			return io.NopCloser(strings.NewReader("")), nil
		}
		return nil, c.fail(err)
	}
	return &object{c: c, rc: rc, left: size}, nil
}

// Stat sends HEAD. An answer to HEAD has no body, so a 404 of the object, of the bucket and of a foreign
// web server look the same: any failure that HEAD is answered with is asked for again as a GET of one byte,
// whose answer says what is wrong.
func (s *store) Stat(ctx context.Context, key string) (storage.Info, error) {
	c, err := s.begin(ctx, "stat", key)
	if err != nil {
		return storage.Info{}, err
	}
	defer c.end()
	info, err := c.client.Head(c.ctx, s.prefix+key)
	if err == nil {
		info.Key = key
		return info, nil
	}
	head := c.failure.Load()
	if head == nil || head.Status == 0 {
		return storage.Info{}, c.fail(err)
	}
	body, err := s.Get(ctx, key, storage.Range{Length: 1})
	if err == nil {
		body.Close()
		return storage.Info{}, &storage.Error{Op: "stat", Key: key, Store: s.String(), Kind: storage.KindTransient,
			Err: fmt.Errorf("HEAD is refused (%w), but GET is allowed", head)}
	}
	if e, ok := errors.AsType[*storage.Error](err); ok {
		e.Op = "stat"
	}
	return storage.Info{}, err
}

func (s *store) remove(ctx context.Context, key string) error {
	c, err := s.begin(ctx, "delete", key)
	if err != nil {
		return err
	}
	defer c.end()
	if err := c.client.Delete(c.ctx, s.prefix+key); err != nil {
		if err = c.fail(err); storage.KindOf(err) != storage.KindNotFound {
			return err
		}
	}
	return nil
}

// List passes on only what comes in strictly rising order: pages that repeat or go back would loop for
// ever or hide objects. Names that no Put can have made (directory markers, say) are left out.
func (s *store) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		c, err := s.begin(ctx, "list", prefix)
		if err != nil {
			yield(storage.Info{}, err)
			return
		}
		defer c.end()
		last := ""
		if startAfter != "" {
			last = s.prefix + startAfter
		}
		for info, err := range c.client.List(c.ctx, s.prefix+prefix, last) {
			if err == nil && (info.Key <= last || !strings.HasPrefix(info.Key, s.prefix+prefix)) {
				err = fmt.Errorf("store lists %q after %q: not in byte order", info.Key, last)
			}
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(storage.Info{}, c.fail(err))
				return
			}
			last = info.Key
			info.Key = strings.TrimPrefix(info.Key, s.prefix)
			if storage.CheckKey(info.Key) != nil {
				continue
			}
			if !yield(info, nil) {
				return
			}
		}
		// One SDK ends the listing without a word when it is cancelled between pages.
		if err := c.ctx.Err(); err != nil {
			yield(storage.Info{}, c.fail(err))
		}
	}
}

// object is the body of a Get: exactly left more bytes, or an error.
type object struct {
	c    *call
	rc   io.ReadCloser
	left int64
}

func (o *object) Read(p []byte) (int, error) {
	if o.left == 0 {
		return 0, io.EOF
	}
	var n int
	err := o.c.outer.Err() // the connection learns of it a little later
	if err == nil {
		n, err = o.rc.Read(p[:min(int64(len(p)), o.left)])
		o.left -= int64(n)
	}
	switch {
	case o.left == 0, err == nil:
		return n, nil
	case o.c.outer.Err() != nil:
		err = context.Cause(o.c.outer)
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return n, &storage.Error{Op: "get", Key: o.c.key, Store: o.c.s.String(), Kind: storage.KindTransient,
		Err: fmt.Errorf("%d bytes before the end: %w", o.left, err)}
}

func (o *object) Close() error {
	o.rc.Close()
	o.c.end()
	return nil
}

// source is the body of a Put as an SDK wants it. It keeps the first error of reading, so that a broken
// disk is not taken for a broken network; and after stop nothing reads from the caller's buffer
// any more, which the HTTP transport may go on doing after an early answer.
type source struct {
	mu      sync.Mutex
	in      *io.SectionReader
	err     error
	stopped bool
}

func (s *source) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return 0, errors.New("request is over")
	}
	if s.err != nil {
		return 0, s.err
	}
	at, _ := s.in.Seek(0, io.SeekCurrent) // never fails
	want := min(int64(len(p)), s.in.Size()-at)
	n, err := s.in.Read(p)
	switch {
	case want <= 0:
		return n, err
	case int64(n) == want:
		return n, nil
	case err == nil || err == io.EOF:
		err = fmt.Errorf("%d of %d bytes: %w", at+int64(n), s.in.Size(), io.ErrUnexpectedEOF)
	}
	s.err = err
	return n, err
}

func (s *source) Seek(offset int64, whence int) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.in.Seek(offset, whence)
}

func (s *source) stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	return s.err
}
