package catalog

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/storage/mem"
)

// There are no smaller steps for a catalog that is mended: one record holds it, however many backups there are.
func TestRebuildOfManyBackups(t *testing.T) {
	const many = 10_000
	store := mem.New()
	c := New(store, "host.example.com/12345/ABCDEFGH", clock())
	next := State{}
	for i := range many {
		id := fmt.Sprintf("20261121T%06dZ-%04x", i, i)
		r := commit(id)
		r.Commit.Summary.From = "primary"
		next.Entries = append(next.Entries, &Entry{ID: id, Status: Complete, By: "host.example.com/12345/ABCDEFGH", Begin: Begin{Backup: id, SystemID: 7, Reuses: []string{id}}, Commit: r.Commit})
		next.Committed = append(next.Committed, id)
	}
	if err := c.Rebuild(t.Context(), &State{}, next); err != nil {
		t.Fatal(err)
	}
	if size := len(read(t, store, recordKey(1))); size <= maxRecord {
		t.Fatalf("the record has %d bytes: no more than any other may have", size)
	}
	for _, key := range keys(t, store, "catalog/checkpoints/") {
		if err := store.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	s := add(t, store, begin("a"), commit("a"))
	if got := len(load(t, store).Complete()); got != many+1 || len(s.Problems) > 0 {
		t.Errorf("%d backups, problems %.300q", got, s.Problems)
	}
}

// Any other record is refused at that size, when it is written and when it is read.
func TestLargeRecords(t *testing.T) {
	store := mem.New()
	s := add(t, store, begin("a"))
	r := abort("a")
	r.Abort.Reason = strings.Repeat("x", maxRecord)
	c := New(store, "host/7/test", clock())
	if _, err := c.Append(t.Context(), s, func(*State) (Record, error) { return r, nil }); err == nil || !strings.Contains(err.Error(), "smaller steps") {
		t.Errorf("it is written: %v", err)
	}
	r.Version, r.N, r.Prev = Version, 2, s.Head
	data, err := seal(r)
	if err != nil {
		t.Fatal(err)
	}
	replace(t, store, recordKey(2), data)
	if s := load(t, store); len(s.Problems) != 1 || s.Entry("a").Status != Running {
		t.Errorf("it is read: backup %s, problems %q", s.Entry("a").Status, s.Problems)
	}
}
