package catalog

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/storage/mem"
)

func TestRecords(t *testing.T) {
	store := mem.New()
	var records []Record
	for i := range 9 {
		records = append(records, begin(fmt.Sprint("b", i)))
	}
	add(t, store, records...)
	c := New(store, "x", clock())
	problems := func(from, to int64) (numbers []int64) {
		t.Helper()
		got, err := c.block(t.Context(), from, to)
		if err != nil || len(got) != int(to-from+1) {
			t.Fatalf("%d records, %v", len(got), err)
		}
		for i, l := range got {
			if l.N != from+int64(i) || l.Problem == "" && (l.Record.Begin.Backup != fmt.Sprint("b", l.N-1) || !strings.Contains(string(l.Stored), `"begin"`)) {
				t.Errorf("record %d is %+v", from+int64(i), l)
			}
			if l.Problem != "" {
				numbers = append(numbers, l.N)
			}
		}
		return numbers
	}
	if got := problems(1, 9); got != nil {
		t.Errorf("problems with %v in a sound log", got)
	}
	// A bit of 3 is flipped, 5 is missing, 7 is another one that fits its number, so that 8 does not follow it.
	bad := bytes.Clone(read(t, store, recordKey(3)))
	bad[20] ^= 1
	replace(t, store, recordKey(3), bad)
	if err := store.Delete(t.Context(), recordKey(5)); err != nil {
		t.Fatal(err)
	}
	seven := Record{Version: Version, N: 7, Prev: sum(read(t, store, recordKey(6))), Type: "begin", By: "forger", Begin: &Begin{Backup: "b6"}}
	data, err := seal(seven)
	if err != nil {
		t.Fatal(err)
	}
	replace(t, store, recordKey(7), data)
	if got, want := problems(1, 9), []int64{3, 4, 5, 8}; !slices.Equal(got, want) {
		t.Errorf("problems with %v, want %v", got, want)
	}
	if got, want := problems(8, 9), []int64{8}; !slices.Equal(got, want) {
		t.Errorf("read from 8 on: problems with %v, want %v", got, want)
	}
}

// A gap of any size is told at once, and what is before and after it, as it is.
func TestRecordsAroundGaps(t *testing.T) {
	store := mem.New()
	add(t, store, begin("a"), commit("a"), begin("b"))
	for _, n := range []int64{5, 5000, 9999999999} {
		if err := store.Put(t.Context(), recordKey(n), strings.NewReader("{}"), 2); err != nil {
			t.Fatal(err)
		}
	}
	s := load(t, store)
	c := New(store, "x", clock())
	for _, test := range []struct {
		oldest int64
		want   []int64
	}{
		{1, []int64{1, 2, 3, 4, 5, 6, 5000, 5001, 9999999999}}, {3, []int64{3, 4, 5, 6, 5000, 5001, 9999999999}},
		{6000, []int64{6000, 9999999999}}, {9999999998, []int64{9999999998, 9999999999}},
	} {
		var got []int64
		for block, err := range c.Records(t.Context(), test.oldest, s.N) {
			if err != nil {
				t.Fatal(err)
			}
			for i, l := range block {
				if got = slices.Insert(got, i, l.N); (l.Problem == "") != (l.N <= 3) {
					t.Errorf("record %d: %q", l.N, l.Problem)
				}
			}
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("from %d on: %v, want %v", test.oldest, got, test.want)
		}
	}
}
