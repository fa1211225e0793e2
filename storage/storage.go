// Package storage says what pgobj needs of an object store: a Store of six methods, the rules for
// keys, and one typed Error that classifies every failure. It refuses to know any driver,
// PostgreSQL or compression.
package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"time"
)

// Store is a flat collection of immutable objects under string keys.
//
// Obligations of every implementation:
//
//   - All methods are safe for concurrent use, and return soon after ctx is done.
//   - Every error is an *Error whose Kind says what a caller may conclude from it. A driver that cannot
//     tell uses KindTransient (try again) for trouble on the way and KindOther for a definite refusal;
//     it never uses KindNotFound or KindExists unless the store itself said so in its own protocol.
//   - Drivers neither retry nor log. Both belong to decorators.
type Store interface {
	// Put creates the object key with the size bytes that body holds. There is no way to replace
	// an object: when the key is taken already, nothing changes and the error is KindExists.
	//
	// Put is atomic and durable: when it returns nil the whole object is stored for good and the
	// next Get, Stat or List by anyone sees it; when it fails, a reader sees the whole object (the
	// answer was lost) or none, never a part of one. body is read from offset 0, possibly more than
	// once; a read error from it (or a body shorter than size) fails the Put and leaves no object.
	Put(ctx context.Context, key string, body io.ReaderAt, size int64) error

	// Get opens the object, or the given Range of it, for reading. The reader ends with io.EOF
	// exactly at the end of what was asked for: a body that ends early is an error of
	// KindTransient from Read, never a clean EOF. An absent object is an error from Get (not from
	// Read). A range that starts at or past the end of the object yields no bytes.
	// The caller closes the reader; closing early is cheap and gives no error.
	Get(ctx context.Context, key string, r Range) (io.ReadCloser, error)

	// Stat tells an object's size and time of creation.
	Stat(ctx context.Context, key string) (Info, error)

	// List yields every object whose key begins with prefix and is greater than startAfter (both
	// may be empty), in byte order of the keys. After an error the iteration ends. An object that
	// was put before List was called is in it, unless it was deleted. Neither prefix nor startAfter
	// needs to end at a slash.
	List(ctx context.Context, prefix, startAfter string) iter.Seq2[Info, error]

	// Delete removes objects for good, with as few requests as the store allows. Deleting an absent object is no
	// error. An object that cannot be removed holds up no other: when there are such, the error is a *Error for
	// one key, and a *NotDeleted with a *Error for each that is still there for several.
	Delete(ctx context.Context, keys ...string) error

	// String names the store for people, as a URL without secrets.
	String() string
}

// Info describes a stored object.
type Info struct {
	Key     string
	Size    int64
	Created time.Time // by the store's own clock; informative only, nothing may be decided from it
	Class   string    // the storage class, in S3's words; empty where there is none

	// LockedUntil is how long an object lock forbids to delete this object, as Stat (not List) finds it; zero
	// without one. A bucket that keeps versions hides such an object when it is told to delete it, and keeps
	// its bytes.
	LockedUntil time.Time
	// LegalHold is a lock without an end, as Stat finds it.
	LegalHold bool
}

// Archived says whether the object's class is one of those that Get cannot read before somebody has brought the object back.
// A copy that was brought back is there for some days only, so it does not count.
func (i Info) Archived() bool { return i.Class == "GLACIER" || i.Class == "DEEP_ARCHIVE" }

// Range selects Length bytes from Offset. A Length of 0 means to the end, so the zero Range is the
// whole object. Offset and Length are never negative.
type Range struct{ Offset, Length int64 }

// All is the whole object.
var All = Range{}

// Kind classifies an error by what a caller may conclude from it.
type Kind uint8

const (
	// KindOther is a definite failure that a retry does not mend (a broken request, a full disk).
	KindOther Kind = iota
	// KindNotFound: the store said, in its own protocol, that this object does not exist in a bucket
	// or directory that does.
	KindNotFound
	// KindExists: the key is taken; Put changed nothing.
	KindExists
	// KindDenied: the credentials are refused, expired or lack a right.
	KindDenied
	// KindNoStore: the bucket, directory or endpoint as configured is not there or is not an object
	// store. It says nothing about any object.
	KindNoStore
	// KindTransient: trouble on the way; the same call may succeed later.
	KindTransient
	// KindUnreadable: the object is there and whole, and nobody can read (or, of a key, write) it before somebody has brought
	// it back from an archive or enabled the key that it is encrypted with.
	KindUnreadable
)

// Sentinels for errors.Is, one for each Kind but KindOther.
var (
	ErrNotFound  = errors.New("object does not exist")
	ErrExists    = errors.New("object exists already")
	ErrDenied    = errors.New("access denied")
	ErrNoStore   = errors.New("storage not found")
	ErrTransient = errors.New("temporary storage error")
	// ErrUnreadable is of KindUnreadable.
	ErrUnreadable = errors.New("object is archived, or its encryption key cannot be used")
)

// ErrTooLarge is ReadAll's: an object is larger than any object of its kind.
var ErrTooLarge = errors.New("object is larger than any object of its kind")

func (k Kind) sentinel() error {
	switch k {
	case KindNotFound:
		return ErrNotFound
	case KindExists:
		return ErrExists
	case KindDenied:
		return ErrDenied
	case KindNoStore:
		return ErrNoStore
	case KindTransient:
		return ErrTransient
	case KindUnreadable:
		return ErrUnreadable
	}
	return nil
}

// Error is what every Store returns: the operation ("put", "get", "stat", "list", "delete"), the key
// (or prefix), the store, and the cause. errors.Is finds the Kind's sentinel as well as the cause.
type Error struct {
	Op    string
	Key   string
	Store string
	Kind  Kind
	Err   error
}

func (e *Error) Error() string {
	msg := fmt.Sprintf("%s %s in %s", e.Op, e.Key, e.Store)
	if s := e.Kind.sentinel(); s != nil {
		msg += ": " + s.Error()
	}
	if e.Err != nil {
		msg += ": " + e.Err.Error()
	}
	return msg
}

func (e *Error) Unwrap() []error {
	var errs []error
	if s := e.Kind.sentinel(); s != nil {
		errs = append(errs, s)
	}
	if e.Err != nil {
		errs = append(errs, e.Err)
	}
	return errs
}

// NotDeleted says which of several objects could not be removed.
type NotDeleted struct{ Errors []*Error }

func (e *NotDeleted) Error() string {
	if len(e.Errors) == 1 {
		return e.Errors[0].Error()
	}
	return fmt.Sprintf("%v (and %d more)", e.Errors[0], len(e.Errors)-1)
}

// OrNil is the error, or nil where it names no object.
func (e *NotDeleted) OrNil() error {
	if len(e.Errors) == 0 {
		return nil
	}
	return e
}

func (e *NotDeleted) Unwrap() []error {
	var errs []error
	for _, x := range e.Errors {
		errs = append(errs, x)
	}
	return errs
}

// DeleteEach is Delete by means of a function that removes one object.
func DeleteEach(keys []string, remove func(key string) error) error {
	failed := &NotDeleted{}
	for _, key := range keys {
		err := remove(key)
		if e, ok := errors.AsType[*Error](err); ok && len(keys) > 1 {
			failed.Errors = append(failed.Errors, e)
		} else if err != nil {
			return err
		}
	}
	return failed.OrNil()
}

// KindOf returns the Kind of the storage error in err's chain, and KindOther when there is none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return KindOther
}

// MaxKey is the longest key in bytes, prefix of the store included: S3's limit.
const MaxKey = 1024

// CheckKey reports whether key may name an object: slash-separated segments of 1 to 255 characters
// out of A-Z a-z 0-9 . _ - none of which is "." or ".." or starts with ".tmp" (the file driver's own).
// Such keys need no escaping in any store, file system or shell.
func CheckKey(key string) error {
	if key == "" || len(key) > MaxKey {
		return fmt.Errorf("key of %d bytes: must have 1 to %d", len(key), MaxKey)
	}
	for seg := range strings.SplitSeq(key, "/") {
		if seg == "" || seg == "." || seg == ".." || len(seg) > 255 || strings.HasPrefix(seg, ".tmp") {
			return fmt.Errorf("key %q has a segment %q, which is not allowed", key, seg)
		}
		for i := range len(seg) {
			c := seg[i]
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-') {
				return fmt.Errorf("key %q has a character %q, which is not allowed", key, c)
			}
		}
	}
	return nil
}

// ReadAll fetches a whole object into memory, and fails when it is larger than limit bytes: no
// object's size is trusted.
func ReadAll(ctx context.Context, s Store, key string, limit int64) ([]byte, error) {
	body, err := s.Get(ctx, key, All)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	// In pieces, which are put together only when all is there: what is too large then costs no more than the limit.
	var pieces [][]byte
	for left := limit + 1; left > 0; {
		piece := make([]byte, min(left, max(512, (limit+1-left)/2)))
		n, err := io.ReadFull(body, piece)
		pieces, left = append(pieces, piece[:n]), left-int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			if len(pieces) == 1 {
				return piece[:n], nil
			}
			return slices.Concat(pieces...), nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, &Error{Op: "get", Key: key, Store: s.String(), Err: fmt.Errorf("%w (limit %d bytes)", ErrTooLarge, limit)}
}

// PutOwn is Put of an object that nobody else would make with these bytes. That one with the same bytes exists means then
// that this very request has come twice, as when a load balancer sends it again to another of the servers behind it
// because the first one's answer was lost: it is a success.
func PutOwn(ctx context.Context, s Store, key string, body io.ReaderAt, size int64) error {
	err := s.Put(ctx, key, body, size)
	if !errors.Is(err, ErrExists) {
		return err
	}
	switch same, e := Holds(ctx, s, key, body, size); {
	case e != nil:
		return fmt.Errorf("%v, and it cannot be compared: %w", err, e) // whose it is, nobody knows
	case same:
		return nil
	}
	return err
}

// Holds says whether an object has the bytes of body.
func Holds(ctx context.Context, s Store, key string, body io.ReaderAt, size int64) (bool, error) {
	stored, err := s.Get(ctx, key, All)
	if err != nil {
		return false, err
	}
	defer stored.Close()
	theirs, ours := make([]byte, 256<<10), make([]byte, 256<<10)
	for off := int64(0); ; {
		n, err := io.ReadFull(stored, theirs)
		ended := err == io.EOF || err == io.ErrUnexpectedEOF
		if err != nil && !ended {
			return false, err
		}
		if off+int64(n) > size {
			return false, nil
		}
		if m, err := body.ReadAt(ours[:n], off); m < n {
			return false, &Error{Op: "put", Key: key, Store: s.String(), Err: fmt.Errorf("read the data to store: %w", err)}
		}
		if !bytes.Equal(theirs[:n], ours[:n]) {
			return false, nil
		}
		if off += int64(n); ended {
			return off == size, nil
		}
	}
}

// Sub is the part of a store below a directory: every key of the result is a key of s with "dir/" in front.
func Sub(s Store, dir string) Store { return &sub{s, dir + "/"} }

type sub struct {
	s      Store
	prefix string
}

func (s *sub) Put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	return s.s.Put(ctx, s.prefix+key, body, size)
}

func (s *sub) Get(ctx context.Context, key string, r Range) (io.ReadCloser, error) {
	return s.s.Get(ctx, s.prefix+key, r)
}

func (s *sub) Stat(ctx context.Context, key string) (Info, error) {
	info, err := s.s.Stat(ctx, s.prefix+key)
	info.Key = strings.TrimPrefix(info.Key, s.prefix)
	return info, err
}

func (s *sub) List(ctx context.Context, prefix, startAfter string) iter.Seq2[Info, error] {
	if startAfter != "" {
		startAfter = s.prefix + startAfter
	}
	return func(yield func(Info, error) bool) {
		for info, err := range s.s.List(ctx, s.prefix+prefix, startAfter) {
			info.Key = strings.TrimPrefix(info.Key, s.prefix)
			if !yield(info, err) {
				return
			}
		}
	}
}

func (s *sub) Delete(ctx context.Context, keys ...string) error {
	full := make([]string, len(keys))
	for i, key := range keys {
		full[i] = s.prefix + key
	}
	return s.s.Delete(ctx, full...)
}

func (s *sub) String() string {
	return strings.TrimSuffix(s.s.String(), "/") + "/" + strings.TrimSuffix(s.prefix, "/")
}
