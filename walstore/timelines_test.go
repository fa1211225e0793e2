package walstore_test

import (
	"bytes"
	"context"
	"iter"
	"slices"
	"testing"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/mem"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

// counted counts listings.
type counted struct {
	storage.Store
	lists int
}

func (c *counted) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Info, error] {
	c.lists++
	return c.Store.List(ctx, prefix, after)
}

func TestTimelines(t *testing.T) {
	s := &counted{Store: mem.New()}
	for _, key := range []string{
		object.Key(sysid, "000000010000000000000001"), object.Key(sysid, "000000010000000000000002"), object.Key(sysid, "000000020000000000000003"),
		object.Key(sysid, "00000003.history"), object.Key(sysid, "0000000A00000000000000FF.partial"), object.Key(sysid, "FFFFFFFF.history"),
		object.Key(sysid+1, "000000070000000000000001"), "wal/7710474189093401805/00000004/nonsense", "wal/7710474189093401805x",
	} {
		if err := s.Put(t.Context(), key, bytes.NewReader(nil), 0); err != nil {
			t.Fatal(err)
		}
	}
	got, err := walstore.Timelines(t.Context(), s, sysid)
	if want := []segment.Timeline{1, 2, 3, 10, 0xFFFFFFFF}; err != nil || !slices.Equal(got, want) {
		t.Errorf("timelines %v (%v), want %v", got, err, want)
	}
	if s.lists != len(got)+1 {
		t.Errorf("%d listings for %d timelines", s.lists, len(got))
	}
	if got, err := walstore.Timelines(t.Context(), s, 1); err != nil || got != nil {
		t.Errorf("of a cluster that is not there: %v, %v", got, err)
	}
}
