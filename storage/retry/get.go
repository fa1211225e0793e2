package retry

import (
	"context"
	"errors"
	"io"

	"github.com/pgobj/pgobj/storage"
)

// Get opens the object, and again at the offset reached whenever its body breaks.
func (s *store) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, error) {
	b := &body{ctx: ctx, s: s, key: key, rest: r, e: effort{s: s, op: "get", key: key}}
	if err := b.open(); err != nil {
		return nil, err
	}
	return b, nil
}

type body struct {
	ctx  context.Context
	s    *store
	key  string
	rest storage.Range // what has not been read yet
	e    effort
	got  int // bytes since the last failure

	w   *watch
	rc  io.ReadCloser // nil: not open
	err error         // final
}

// open makes attempts until one gives a body.
func (b *body) open() error {
	for {
		b.w = newWatch(b.ctx, b.s.p)
		b.w.begin()
		rc, err := b.s.s.Get(b.w.ctx, b.key, b.rest)
		b.w.end(0)
		if err == nil {
			b.rc = rc
			return nil
		}
		err = b.w.explain(err, "get", b.key, b.s)
		b.w.close()
		if err = b.e.again(b.ctx, err); err != nil {
			return err
		}
	}
}

func (b *body) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for b.err == nil {
		if b.rc == nil {
			if b.err = b.open(); b.err != nil {
				break
			}
		}
		b.w.begin()
		n, err := b.rc.Read(p)
		b.w.end(n)
		done := b.advance(n)
		switch {
		case err == nil:
		case err == io.EOF || done:
			b.err = io.EOF
		default:
			err = b.w.explain(err, "get", b.key, b.s)
			b.release()
			b.got = 0
			b.err = b.e.again(b.ctx, err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, b.err
}

// advance accounts for n bytes, and reports whether a range of known length is complete: what would be
// left, a Length of 0, means "to the end".
func (b *body) advance(n int) bool {
	if b.got += n; b.got >= enoughToGoFurther {
		b.e.progress()
	}
	b.rest.Offset += int64(n)
	if b.rest.Length == 0 {
		return false
	}
	b.rest.Length -= int64(n)
	if b.rest.Length > 0 {
		return false
	}
	b.rest.Length = 0
	b.err = io.EOF
	return true
}

func (b *body) Close() error {
	b.release()
	if b.err == nil {
		b.err = errClosed
	}
	return nil
}

var errClosed = errors.New("read after close")

func (b *body) release() {
	if b.rc != nil {
		b.rc.Close()
		b.rc = nil
		b.w.close()
	}
}
