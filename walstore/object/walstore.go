package object

import (
	"fmt"
)

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s: %v: the file has SHA-256 %x, %s has %x", e.Name, ErrConflict, e.Source, e.Key, e.Stored)
}

func (e *ConflictError) Unwrap() error { return ErrConflict }

func (e *DamagedError) Error() string {
	return fmt.Sprintf("%s in %s: %v: %v", e.Key, e.Store, ErrDamaged, e.Err)
}

func (e *DamagedError) Unwrap() []error { return []error{ErrDamaged, e.Err} }
