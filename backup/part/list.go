package part

import (
	"context"
	"fmt"
	"iter"

	"github.com/pgobj/pgobj/storage"
)

// Stored is a part that a listing has found.
type Stored struct {
	Name   string
	Backup string // that stored it
	Number int
	Size   int64
}

// List yields the parts that a backup has stored, or all there are when backup is empty; foreign keys are
// passed over.
func List(ctx context.Context, s storage.Store, backup string) iter.Seq2[Stored, error] {
	prefix := Key("")
	if backup != "" {
		prefix += backup + "/"
	}
	return func(yield func(Stored, error) bool) {
		for info, err := range s.List(ctx, prefix, "") {
			if err != nil {
				yield(Stored{}, fmt.Errorf("list parts: %w", err))
				return
			}
			p := Stored{Name: info.Key[len(Key("")):], Size: info.Size}
			if p.Backup, p.Number, err = ParseName(p.Name); err == nil && !yield(p, nil) {
				return
			}
		}
	}
}
