package catalog

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/mem"
)

// counter counts listings.
type counter struct {
	storage.Store
	lists int
}

func (c *counter) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Info, error] {
	c.lists++
	return c.Store.List(ctx, prefix, after)
}

func TestServers(t *testing.T) {
	store := &counter{Store: mem.New()}
	put := func(key string) {
		t.Helper()
		if err := store.Put(t.Context(), key, strings.NewReader("x"), 1); err != nil {
			t.Fatal(err)
		}
	}
	// Names whose keys come before, within and after each other's; directories of others; and things that look alike.
	want := []string{"a", "a-b", "a.b", "a0", "main", "parts", "team", "wal"}
	for _, name := range append([]string{"a/b", "below/a", "below/b", "team/a", "team/z"}, want...) { // some are of other storages, which begin deeper
		put(name + "/backups/20261116T010000Z-0001/backup.json")
		put(name + "/catalog/log/0000000001.json")
		put(name + "/parts/20261116T010000Z-0001/00001.tar.zst")
		put(name + "/wal/7/00000001/000000010000000000000001.zst")
	}
	put("only-wal/wal/7/00000001/000000010000000000000001.zst")
	put("only-log/catalog/log/0000000001.json")
	want = append(want, "only-wal", "only-log")
	for _, foreign := range []string{"readme.txt", "x/readme.txt", "x/catalog/index.html", "x/wal/notes/y", "backups/x", "wal/7/x"} {
		put(foreign)
	}
	store.lists = 0
	var got []string
	for name, err := range Servers(t.Context(), store) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, name)
	}
	lists := store.lists
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("servers %q, want %q", got, want)
	}
	if lists > len(want)+6 {
		t.Errorf("%d listings for %d servers", lists, len(want))
	}
	u, err := Used(t.Context(), storage.Sub(store, "main"))
	if err != nil || u != (Usage{Parts: 1, WAL: 1, Catalog: 2, Total: 4, Objects: 4}) {
		t.Errorf("main uses %+v, %v", u, err)
	}
}

// However much a server has, one listing finds the next one.
func TestServersCost(t *testing.T) {
	store := &counter{Store: mem.New()}
	const servers, objects = 40, 1100
	for i := range servers {
		for j := range objects {
			if err := store.Put(t.Context(), fmt.Sprintf("prod-%03d/parts/20261116T010000Z-0001/%05d.tar.zst", i, j), strings.NewReader("x"), 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 2500 { // of somebody else, on the way
		if err := store.Put(t.Context(), fmt.Sprintf("prod-005-x/%d", i), strings.NewReader("x"), 1); err != nil {
			t.Fatal(err)
		}
	}
	store.lists = 0
	found := 0
	for _, err := range Servers(t.Context(), store) {
		if err != nil {
			t.Fatal(err)
		}
		found++
	}
	if found != servers || store.lists > servers+4 {
		t.Errorf("found %d servers of %d with %d listings", found, servers, store.lists)
	}
}

func TestCheckServer(t *testing.T) {
	for _, good := range []string{"main", "db1.example.com", "A_b-0", "-x", "wal", "..."} {
		if err := CheckServer(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", ".", "..", "a/b", "a/b/c", "/a", "a/", "/", "a//b", "../a", "a/..", "a b", "a\x1bb", "a\nb", "a\x00b", "ä", "\xff", ".tmp", "a\\b", strings.Repeat("x", 256)} {
		if err := CheckServer(bad); err == nil {
			t.Errorf("%q may be the name of a server", bad)
		}
	}
	if err := CheckServer("team/x/db"); !strings.Contains(err.Error(), "team-x-db\n") || !strings.Contains(err.Error(), "/team/x") {
		t.Error(err)
	}
}
