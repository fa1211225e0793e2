package part

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/storage"
)

// Stored is a part that a listing has found.
type Stored struct {
	Name   string
	Backup string // that stored it
	Number int
	Size   int64
	Class  string // of an archive, from which it has to be brought back before it can be read; empty: it can be read
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
			if info.Archived() {
				p.Class = info.Class
			}
			if p.Backup, p.Number, err = ParseName(p.Name); err == nil && !yield(p, nil) {
				return
			}
		}
	}
}

// page is how many keys a store returns at once: those after the first cost nothing.
const page = 1000

// ListOf yields the parts that some backups have stored. It costs about one listing for every thousand of them, not one
// for each backup: nightly backups have few parts, side by side.
func ListOf(ctx context.Context, s storage.Store, backups []string) iter.Seq2[Stored, error] {
	wanted := map[string]bool{}
	for _, b := range backups {
		wanted[Key(b+"/")] = true
	}
	return func(yield func(Stored, error) bool) {
		last := "" // the key up to which all is known
		for _, directory := range slices.Sorted(maps.Keys(wanted)) {
			if last > directory { // or there is nothing in it
				continue
			}
			n, ended := 0, true
			for info, err := range s.List(ctx, Key(""), directory) {
				if err != nil {
					yield(Stored{}, fmt.Errorf("list parts: %w", err))
					return
				}
				p := Stored{Name: info.Key[len(Key("")):], Size: info.Size}
				in := wanted[info.Key[:strings.LastIndex(info.Key, "/")+1]]
				if p.Backup, p.Number, err = ParseName(p.Name); err == nil && in && !yield(p, nil) {
					return
				}
				last = info.Key
				// The rest of a page is looked at; the next one would rather be of backups that nobody asked for.
				if n++; n%page == 0 && !in {
					ended = false
					break
				}
			}
			if ended {
				return
			}
		}
	}
}
