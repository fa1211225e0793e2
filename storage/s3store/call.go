package s3store

import (
	"cmp"
	"context"
	"errors"
	"sync/atomic"

	"github.com/pgobj/pgobj/storage"
)

// call is one operation on its way through an SDK.
type call struct {
	s       *store
	op, key string
	outer   context.Context // the caller's
	ctx     context.Context // ends with the first failure
	end     context.CancelFunc
	client  Client
	failure atomic.Pointer[Failure]
	deleted atomic.Pointer[deleteResult] // what DeleteMany was answered
}

type callKey struct{}

// begin checks the key (of an operation on one object) and gets everything ready that a request needs.
// The caller calls end.
func (s *store) begin(ctx context.Context, op, key string) (*call, error) {
	c := &call{s: s, op: op, key: key, outer: ctx}
	c.ctx, c.end = context.WithCancel(context.WithValue(ctx, callKey{}, c))
	var err error
	if op != "list" {
		err = cmp.Or(storage.CheckKey(key), storage.CheckKey(s.prefix+key))
	}
	if err == nil {
		c.client, err = s.ready(ctx)
	}
	if err == nil {
		// Here, and not within the SDK, so that the error arrives as it is.
		_, err = s.chain.Retrieve(ctx)
	}
	if err != nil {
		c.end()
		return nil, c.fail(err)
	}
	return c, nil
}

// failed carries a Failure past the SDK, one of which replaces errors by texts of its own; and
// keeps the SDK from doing more, as one of them pauses after the last attempt too.
func (c *call) failed(f *Failure) {
	c.failure.CompareAndSwap(nil, f)
	c.end()
}

// fail wraps err, the outcome of the call.
func (c *call) fail(err error) error {
	e := &storage.Error{Op: c.op, Key: c.key, Store: c.s.String(), Err: err}
	if f := c.failure.Load(); f != nil {
		e.Kind, e.Err = f.Kind, f
	} else if f, ok := errors.AsType[*Failure](err); ok {
		e.Kind, e.Err = f.Kind, f
	} else if c.outer.Err() != nil {
		e.Kind, e.Err = storage.KindTransient, context.Cause(c.outer)
	}
	return e
}
