package part

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"
	"testing"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/codec"
	"github.com/pgobj/pgobj/storage/mem"
)

// paged counts the pages that are listed.
type paged struct {
	storage.Store
	pages int
}

func (p *paged) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		n := 0
		for info, err := range p.Store.List(ctx, prefix, startAfter) {
			if n++; n%page == 1 {
				p.pages++
			}
			if !yield(info, err) {
				return
			}
		}
	}
}

// ListOf finds all parts of whom it is asked for, those of no other, and makes no request that would find nothing of them.
func TestListOf(t *testing.T) {
	s := &paged{Store: mem.New()}
	stored := map[string]int{"a": 3, "b": 2*page + 700, "b-1": 2, "c": 1, "d": 3 * page, "e": 1, "f": 2}
	for backup, n := range stored {
		for no := range n {
			if err := s.Put(t.Context(), Key(Name(backup, no+1, codec.Default)), bytes.NewReader(nil), 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Put(t.Context(), Key(backup+"/foreign"), bytes.NewReader(nil), 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		backups []string
		pages   int
	}{
		{nil, 0}, {[]string{"a", "c"}, 2}, {[]string{"b"}, 3}, {[]string{"b-1", "b"}, 3}, {[]string{"c", "e", "a"}, 3}, {[]string{"f", "e", "f"}, 1}, {[]string{"none", "f"}, 1},
		{[]string{"a", "b", "b-1", "c", "d", "e", "f"}, 6},
	} {
		s.pages = 0
		var want, got []string
		for _, backup := range slices.Compact(slices.Sorted(slices.Values(c.backups))) {
			for no := range stored[backup] {
				want = append(want, Name(backup, no+1, codec.Default))
			}
		}
		for p, err := range ListOf(t.Context(), s, c.backups) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, p.Name)
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%q: %d parts, want %d: %s", c.backups, len(got), len(want), fmt.Sprint(got)[:min(200, len(fmt.Sprint(got)))])
		}
		if s.pages > c.pages {
			t.Errorf("%q: %d pages, want %d", c.backups, s.pages, c.pages)
		}
	}
}
