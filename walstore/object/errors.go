package object

import (
	"errors"
	"fmt"
)

var (
	// ErrName: PostgreSQL never archives a file of this name.
	ErrName = errors.New("not a name of a WAL file")
	// ErrSource: the file to push is not what its name promises, or changed while it was read.
	ErrSource = errors.New("not a valid WAL file")
	// ErrConflict: the archive holds different content under this name. See ConflictError.
	ErrConflict = errors.New("the archive holds different content under this name")
	// ErrDamaged: the stored object is not what was pushed. See DamagedError.
	ErrDamaged = errors.New("the stored object is damaged")
	// ErrDest: the fetched file could not be written to its destination.
	ErrDest = errors.New("cannot write the fetched file")
)

// ConflictError says that a file and the archive's object of the same name differ. Nothing was changed.
type ConflictError struct {
	Name, Key      string
	Source, Stored [32]byte // SHA-256 of the contents
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s: %v: the file has SHA-256 %x, %s has %x", e.Name, ErrConflict, e.Source, e.Key, e.Stored)
}

func (e *ConflictError) Unwrap() error { return ErrConflict }

// DamagedError names an object whose bytes are not what Push stored, and why that is known.
type DamagedError struct {
	Key, Store string
	Err        error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("%s in %s: %v: %v", e.Key, e.Store, ErrDamaged, e.Err)
}

func (e *DamagedError) Unwrap() []error { return []error{ErrDamaged, e.Err} }
