package catalog

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgobj/pgobj/storage/mem"
)

func TestResolve(t *testing.T) {
	store := mem.New()
	if _, err := load(t, store).Resolve("LATEST"); !errors.Is(err, ErrNoBackup) {
		t.Errorf("an empty catalog: %v", err)
	}
	const first, second, third = "20261121T014500Z-7f3a", "20261121T014500Z-7f3b", "20261122T014500Z-0001"
	s := add(t, store, begin(third), begin(first), begin(second), begin("running"), begin("aborted"), begin("deleted"),
		commit(third), commit(first), commit(second), commit("deleted"), abort("aborted"),
		Record{Type: "delete", Delete: &Delete{Backups: []string{"deleted"}}})
	// The order is that of the commits: third began first and is the oldest, whatever its id says.
	if want := []string{third, first, second}; !slices.Equal(complete(s), want) {
		t.Errorf("complete backups: %q, want %q", complete(s), want)
	}
	for name, want := range map[string]string{
		"LATEST": second, "latest": second, "Last": second, "": second, "oldest": third, "FIRST": third, first: first, "20261122": third, "20261121T014500Z-7f3b": second,
		"20261121": "", "running": "", "aborted": "", "deleted": "", "2027": "", "zzz": "",
	} {
		e, err := s.Resolve(name)
		switch {
		case want == "" && !errors.Is(err, ErrNoBackup):
			t.Errorf("%q: %v, %v, want no backup", name, e, err)
		case want != "" && (err != nil || e.ID != want):
			t.Errorf("%q: %v, %v, want %s", name, e, err, want)
		}
	}
	if _, err := s.Resolve("20261121"); err == nil || !strings.Contains(err.Error(), first) || !strings.Contains(err.Error(), second) {
		t.Errorf("an ambiguous name: %v, want both ids", err)
	}
}

func TestCheckCommit(t *testing.T) {
	condemn := func(parts Ranges) Record {
		return Record{Type: "delete", Delete: &Delete{Backups: []string{"old"}, Parts: map[string]Ranges{"old": parts}}}
	}
	for _, c := range []struct {
		name    string
		records []Record
		parts   map[string][]int
		refuses string // "" when it may be committed
	}{
		{"nothing happened", nil, map[string][]int{"old": {1, 2}, "new": {1}}, ""},
		{"another's parts deleted", []Record{condemn(Ranges{{3, 9}})}, map[string][]int{"old": {1, 2, 10}, "new": {4}}, ""},
		{"a part deleted", []Record{condemn(Ranges{{3, 9}})}, map[string][]int{"old": {1, 9}}, "part 9 of backup old"},
		{"by the second deletion", []Record{condemn(Ranges{{3, 3}}), condemn(Ranges{{1, 1}, {5, 6}})}, map[string][]int{"old": {2, 5}}, "part 5 of backup old"},
		{"and purged", []Record{condemn(Ranges{{3, 3}}), {Type: "purged", Purged: &Purged{Of: 4}}}, map[string][]int{"old": {3}}, "part 3 of backup old"},
		{"aborted", []Record{abort("new")}, nil, "not running"},
		{"deleted itself", []Record{{Type: "delete", Delete: &Delete{Backups: []string{"new"}}}}, nil, "not running"},
		{"committed already", []Record{commit("new")}, nil, "not running"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := add(t, mem.New(), append([]Record{begin("old"), commit("old"), begin("new")}, c.records...)...)
			err := s.CheckCommit("new", c.parts)
			if (err == nil) != (c.refuses == "") || err != nil && !strings.Contains(err.Error(), c.refuses) {
				t.Errorf("got %v, want an error with %q", err, c.refuses)
			}
		})
	}
	if err := (&State{}).CheckCommit("unknown", nil); err == nil {
		t.Error("a backup that never began may be committed")
	}
}

// What a log says out of order, because its writer was a program with a fault, must not make a backup of nothing.
func TestStatesThatCannotFollow(t *testing.T) {
	s := add(t, mem.New(), begin("a"), abort("a"), commit("a"), begin("b"), commit("b"), abort("b"))
	if got := complete(s); !slices.Equal(got, []string{"b"}) || s.Entry("a").Status != Aborted || s.Entry("a").Abort == nil || s.Entry("a").Commit != nil {
		t.Errorf("complete %q, a is %+v", got, s.Entry("a"))
	}
	for name, r := range map[string]Record{
		"commit": commit("ghost"), "abort": abort("ghost"), "begin again": begin("b"), "pin": {Type: "pin", Pin: &Pin{Backup: "ghost"}},
		"delete": {Type: "delete", Delete: &Delete{Backups: []string{"ghost"}}},
	} {
		if s := add(t, mem.New(), begin("b"), r); len(s.Problems) != 1 {
			t.Errorf("%s: problems %q, want one", name, s.Problems)
		}
	}
}

// A deletion counts as a whole, also when the log does not tell of one of its backups any more.
func TestDeletionWithoutBegin(t *testing.T) {
	store := mem.New()
	add(t, store, begin("a"), commit("a"), begin("b"), commit("b"), Record{Type: "delete", Delete: &Delete{Backups: []string{"a", "b"}, Parts: map[string]Ranges{"a": {{1, 2}}}}})
	for _, n := range []int64{1, 2} {
		replace(t, store, recordKey(n), nil)
	}
	s := load(t, store)
	if got := complete(s); len(got) > 0 || s.Entry("a").Status != Deleted || s.Entry("b").Status != Deleted || len(s.Condemned["a"]) != 1 || len(s.Unpurged) != 1 {
		t.Errorf("complete are %q, the state is %s", got, encode(t, s))
	}
}

func TestPins(t *testing.T) {
	until := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	s := add(t, mem.New(), begin("a"), begin("b"), Record{Type: "pin", Pin: &Pin{Backup: "a", Until: until}},
		Record{Type: "pin", Pin: &Pin{Backup: "b"}}, Record{Type: "unpin", Unpin: &Pin{Backup: "b"}})
	if p := s.Entry("a").Pin; p == nil || !p.Until.Equal(until) || s.Entry("b").Pin != nil {
		t.Errorf("pins: %+v and %+v", p, s.Entry("b").Pin)
	}
}

func TestRanges(t *testing.T) {
	for text, want := range map[string]Ranges{"1-45,47": {{1, 45}, {47, 47}}, "7": {{7, 7}}, "0-0": {{0, 0}}, "": {}} {
		var got Ranges
		if err := got.UnmarshalText([]byte(text)); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q is %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"-", "1-", "-1", "5-4", "1,,2", "1-2-3", "a", "1 ", "99999999999999999999"} {
		if err := new(Ranges).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
	r := Ranges{{1, 45}, {47, 47}}
	for n, want := range map[int]bool{0: false, 1: true, 45: true, 46: false, 47: true, 48: false} {
		if r.Contains(n) != want {
			t.Errorf("%v contains %d: %v", r, n, !want)
		}
	}
}

func FuzzRanges(f *testing.F) {
	for _, text := range []string{"", "1-45,47", "7", "5-4", "+1-+2", "0"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var r, again Ranges
		if r.UnmarshalText([]byte(text)) != nil {
			return
		}
		out, err := r.MarshalText()
		if err == nil {
			err = again.UnmarshalText(out)
		}
		if err != nil || !slices.Equal(r, again) {
			t.Errorf("%q is %v, written %q, read %v (%v)", text, r, out, again, err)
		}
	})
}

// FuzzRecord feeds the log with anything: it may be refused, it must not confuse.
func FuzzRecord(f *testing.F) {
	for _, r := range []Record{begin("a"), commit("a"), abort("a"), {Type: "server", Server: &Server{SystemID: 1 << 63}},
		{Type: "pin", Pin: &Pin{Backup: "a"}}, {Type: "unpin", Unpin: &Pin{Backup: "a"}}, {Type: "purged", Purged: &Purged{Of: 1}}, {Type: "drill", Drill: &Drill{Backup: "a", Steps: []DrillStep{{Name: "recover"}}}},
		{Type: "delete", Delete: &Delete{Backups: []string{"a"}, Parts: map[string]Ranges{"a": {{1, 2}}, "b": {}}}}, {Type: "later"}} {
		r.Version, r.N = Version, 4
		data, err := seal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &State{}
		for i, r := range []Record{begin("a"), commit("a")} {
			r.Version, r.N, r.Prev = Version, int64(i+1), s.Head
			encoded, err := seal(r)
			if err != nil {
				t.Fatal(err)
			}
			s.apply(r.N, encoded)
		}
		s.apply(3, data)
		if len(data) > 0 {
			s.apply(4, resealed(data)) // else nearly nothing would get past the hash
			s.apply(5, resealed(data))
		}
		for _, e := range s.Complete() {
			if e.Commit == nil || e.Commit.Backup != e.ID {
				t.Errorf("backup %s is complete without a commit of its own", e.ID)
			}
		}
		// What a checkpoint keeps is all there is.
		out, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		again := &State{}
		if err := json.Unmarshal(out, again); err != nil {
			t.Fatalf("state %s cannot be read: %v", out, err)
		}
		out2, err := json.Marshal(again)
		if err != nil || !reflect.DeepEqual(out, out2) {
			t.Errorf("state %s is read as %s (%v)", out, out2, err)
		}
	})
}
