package storagetest

import (
	"context"
	"errors"
	"io"
	"iter"
	"slices"
	"sync"

	"github.com/pgobj/pgobj/storage"
)

// ErrFault is the cause of every error that a Faulty makes.
var ErrFault = errors.New("scripted fault")

// Op is one call of a Store's method.
type Op struct {
	N    int      // 1 for the first since NewFaulty
	Name string   // "put", "get", "stat", "list", "delete"
	Key  string   // or prefix
	From string   // of list: startAfter
	Keys []string // of delete
	Range
}

// Range is what a get asks for.
type Range = storage.Range

// Mode is what goes wrong.
type Mode int

const (
	Before Mode = iota // the call fails without effect
	After              // the call takes effect, then fails as if its answer was lost
	Cut                // the body of a get, a listing, or a delete fails after At bytes, or keys
	Hang               // the call (with At > 0: the body after At bytes) waits for the end of its context
	Pass               // nothing: for the Hook alone
)

// Fault says what goes wrong with which calls.
type Fault struct {
	When  func(Op) bool // nil: always
	Times int           // how often; 0: for ever
	Mode  Mode
	At    int64
	Kind  storage.Kind // of the error; the zero value means KindTransient
	Hook  func(Op)     // called first, without locks held
}

// Nth selects calls by number, from 1.
func Nth(numbers ...int) func(Op) bool {
	return func(op Op) bool { return slices.Contains(numbers, op.N) }
}

// Named selects calls by operation.
func Named(names ...string) func(Op) bool {
	return func(op Op) bool { return slices.Contains(names, op.Name) }
}

// Faulty is a Store that fails as scripted, counts and remembers.
type Faulty struct {
	s storage.Store

	mu     sync.Mutex
	faults []*Fault
	ops    []Op
}

// NewFaulty wraps s. Faults are tried in order; the first that selects a call decides.
func NewFaulty(s storage.Store, faults ...Fault) *Faulty {
	f := &Faulty{s: s}
	f.Script(faults...)
	return f
}

// Script replaces the faults.
func (f *Faulty) Script(faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = nil
	for _, fault := range faults {
		if fault.Times == 0 {
			fault.Times = -1
		}
		f.faults = append(f.faults, &fault)
	}
}

// Ops returns the calls so far.
func (f *Faulty) Ops() []Op {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.ops)
}

// next records a call and returns what goes wrong with it.
func (f *Faulty) next(op Op) (Fault, error) {
	f.mu.Lock()
	op.N = len(f.ops) + 1
	f.ops = append(f.ops, op)
	found := Fault{Mode: Pass}
	for _, fault := range f.faults {
		if fault.Times != 0 && (fault.When == nil || fault.When(op)) {
			fault.Times--
			found = *fault
			break
		}
	}
	f.mu.Unlock()
	if found.Hook != nil {
		found.Hook(op)
	}
	kind := found.Kind
	if kind == storage.KindOther {
		kind = storage.KindTransient
	}
	return found, &storage.Error{Op: op.Name, Key: op.Key, Store: f.s.String(), Kind: kind, Err: ErrFault}
}

// call runs a single question under a fault.
func (f *Faulty) call(ctx context.Context, op Op, do func() error) error {
	fault, err := f.next(op)
	switch fault.Mode {
	case Before:
		return err
	case Hang:
		<-ctx.Done()
		return f.hung(ctx, op)
	case Cut:
		if some := op.Keys[:min(int(fault.At), len(op.Keys))]; len(some) > 0 {
			if real := f.s.Delete(ctx, some...); real != nil {
				return real
			}
		}
		return err
	case After:
		if real := do(); real != nil {
			return real
		}
		return err
	}
	return do()
}

func (f *Faulty) hung(ctx context.Context, op Op) error {
	return &storage.Error{Op: op.Name, Key: op.Key, Store: f.s.String(), Kind: storage.KindTransient, Err: ctx.Err()}
}

func (f *Faulty) String() string { return f.s.String() }

func (f *Faulty) Put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	return f.call(ctx, Op{Name: "put", Key: key}, func() error { return f.s.Put(ctx, key, body, size) })
}

func (f *Faulty) Stat(ctx context.Context, key string) (info storage.Info, err error) {
	err = f.call(ctx, Op{Name: "stat", Key: key}, func() (err error) {
		info, err = f.s.Stat(ctx, key)
		return err
	})
	return info, err
}

// Delete is one call, whose Op has the first key. Cut removes the first At objects, and fails.
func (f *Faulty) Delete(ctx context.Context, keys ...string) error {
	op := Op{Name: "delete", Key: keys[0], Keys: keys}
	return f.call(ctx, op, func() error { return f.s.Delete(ctx, keys...) })
}

func (f *Faulty) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, error) {
	op := Op{Name: "get", Key: key, Range: r}
	fault, err := f.next(op)
	switch {
	case fault.Mode == Before || fault.Mode == After:
		return nil, err
	case fault.Mode == Hang && fault.At == 0:
		<-ctx.Done()
		return nil, f.hung(ctx, op)
	}
	rc, getErr := f.s.Get(ctx, key, r)
	if getErr != nil || fault.Mode == Pass {
		return rc, getErr
	}
	return &cutBody{ReadCloser: rc, left: fault.At, end: func() error {
		if fault.Mode == Hang {
			<-ctx.Done()
			return f.hung(ctx, op)
		}
		return err
	}}, nil
}

type cutBody struct {
	io.ReadCloser
	left int64
	end  func() error
}

func (c *cutBody) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, c.end()
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

func (f *Faulty) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		op := Op{Name: "list", Key: prefix, From: startAfter}
		fault, err := f.next(op)
		left := int64(-1)
		switch fault.Mode {
		case Before, After:
			left = 0
		case Cut, Hang:
			left = fault.At
		}
		for info, realErr := range f.s.List(ctx, prefix, startAfter) {
			if left == 0 {
				break
			}
			left--
			if !yield(info, realErr) || realErr != nil {
				return
			}
		}
		if left < 0 {
			return
		}
		if fault.Mode == Hang {
			<-ctx.Done()
			err = f.hung(ctx, op)
		}
		yield(storage.Info{}, err)
	}
}
