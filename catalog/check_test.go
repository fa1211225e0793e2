package catalog

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/mem"
)

// forged is a record with values that no pgobj writes, whose hashes hold.
type forged struct {
	name   string
	record Record
}

func forgedRecords() []forged {
	needs := func(first, last string) Record {
		r := commit("b")
		r.Commit.Summary.FirstWAL, r.Commit.Summary.LastWAL = first, last
		return r
	}
	takes := func(first, last string) Record {
		return Record{Type: "delete", Delete: &Delete{WAL: []WALRange{{SystemID: 7, First: first, Last: last}}}}
	}
	const evil = "b\x1b[2J"
	const one, two, other = "000000010000000000000001", "000000010000000000000002", "000000020000000000000003"
	server := Record{Type: "server", Server: &Server{SystemID: 7, PGVersion: 150004}}
	all := []forged{
		{"a server of no segment size", server},
		{"a backup that needs no WAL", needs("", "")}, {"a backup whose WAL has no end", needs(one, "")}, {"a backup whose WAL ends before it begins", needs(two, one)},
		{"a backup with WAL of two timelines", needs(one, other)}, {"a backup that needs history", needs("00000002.history", "00000002.history")},
		{"a deletion from nowhere", takes("0", "Z")}, {"a deletion backwards", takes(two, one)}, {"a deletion of two timelines", takes(one, other)},
		{"a deletion of two histories", takes("00000002.history", "00000003.history")}, {"a deletion of a part of a segment", takes(one+".partial", one+".partial")},
		{"a deletion of a path", Record{Type: "delete", Delete: &Delete{Backups: []string{"../a"}}}},
		{"a deletion of a path's parts", Record{Type: "delete", Delete: &Delete{Parts: map[string]Ranges{"../a": {{1, 1}}}}}},
		{"a begin that reuses a path", Record{Type: "begin", Begin: &Begin{Backup: "c", Reuses: []string{"a", "../a"}}}},
		{"begin", begin(evil)}, {"commit", commit(evil)}, {"abort", abort(evil)}, {"pin", Record{Type: "pin", Pin: &Pin{Backup: evil}}},
		{"unpin", Record{Type: "unpin", Unpin: &Pin{Backup: evil}}}, {"drill", Record{Type: "drill", Drill: &Drill{Backup: evil}}},
	}
	for name, s := range map[string]State{
		"a null backup":          {Entries: []*Entry{nil}},
		"an id that is a path":   {Entries: []*Entry{{ID: "../a", Status: Running}}},
		"complete, no commit":    {Entries: []*Entry{{ID: "a", Status: Complete}}},
		"another's commit":       {Entries: []*Entry{{ID: "a", Status: Complete, Commit: commit("b").Commit}}},
		"a commit without WAL":   {Entries: []*Entry{{ID: "b", Status: Complete, Commit: needs("", "").Commit}}},
		"committed what is not":  {Committed: []string{"a"}},
		"committed what runs":    {Entries: []*Entry{{ID: "a", Status: Running}}, Committed: []string{"a"}},
		"no segment size":        {Servers: []Server{*server.Server}},
		"condemned from nowhere": {WAL: takes("0", "Z").Delete.WAL},
		"unpurged from nowhere":  {Unpurged: []Unpurged{{N: 1, Delete: *takes("0", "Z").Delete}}},
	} {
		all = append(all, forged{"a state with " + name, Record{Type: "rebuilt", Rebuilt: &Rebuilt{s}}})
	}
	return all
}

// One record with values that nobody can compute with is told as damaged, and hides no other; nor is it written.
func TestImpossibleRecords(t *testing.T) {
	for _, c := range forgedRecords() {
		t.Run(c.name, func(t *testing.T) {
			store := mem.New()
			s := add(t, store, begin("a"), commit("a"), begin("b"))
			r := c.record
			_, err := New(store, "host/8/test", clock()).Append(t.Context(), s, func(*State) (Record, error) { return r, nil })
			if err == nil || !strings.Contains(err.Error(), "not written") {
				t.Errorf("it is written: %v", err)
			}
			r.Version, r.N, r.Prev = Version, 4, s.Head
			data, err := seal(r)
			if err != nil {
				t.Fatal(err)
			}
			replace(t, store, recordKey(4), data)
			got := load(t, store)
			if !slices.Equal(complete(got), []string{"a"}) || len(got.Entries) != 2 || len(got.WAL) > 0 || len(got.Unpurged) > 0 || len(got.Servers) > 0 {
				t.Errorf("a reader sees %s", encode(t, got))
			}
			if len(got.Problems) != 1 || !strings.HasPrefix(got.Problems[0], recordKey(4)) || strings.Contains(got.Problems[0], "\x1b") {
				t.Errorf("problems: %q", got.Problems)
			}
			refused(t, store, ErrDamaged, recordKey(4))
			all, err := New(store, "host/9/test", clock()).block(t.Context(), 1, 4)
			if err != nil || all[3].Problem == "" || all[2].Problem != "" {
				t.Errorf("it is told as %+v (%v)", all[3], err)
			}
		})
	}
}

// A checkpoint of an impossible state is passed over.
func TestImpossibleCheckpoints(t *testing.T) {
	for _, c := range forgedRecords() {
		if c.record.Rebuilt == nil {
			continue
		}
		store := mem.New()
		s := add(t, store, begin("a"), commit("a"))
		c.record.Rebuilt.State.N, c.record.Rebuilt.State.Head = s.N, s.Head
		data, err := seal(checkpoint{Version: Version, State: &c.record.Rebuilt.State})
		if err == nil {
			err = store.Put(t.Context(), checkpointKey(s.N), bytes.NewReader(data), int64(len(data)))
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := load(t, store); encode(t, got) != encode(t, s) {
			t.Errorf("%s: a reader sees %s", c.name, encode(t, got))
		}
	}
}

// A record that nobody could read would end the log for all: it is not written.
func TestUnreadableRecordIsNotWritten(t *testing.T) {
	store := mem.New()
	s := add(t, store, begin("a"))
	r := Record{Type: "delete", Delete: &Delete{Parts: map[string]Ranges{"a": {{-1, -1}}}}}
	_, err := New(store, "host/8/test", clock()).Append(t.Context(), s, func(*State) (Record, error) { return r, nil })
	if err == nil || !strings.Contains(err.Error(), "not written") {
		t.Errorf("it is written: %v", err)
	}
	if s := load(t, store); s.N != 1 || len(s.Problems) > 0 {
		t.Errorf("the log has %d records and problems %q", s.N, s.Problems)
	}
}

// What no record can say of a backup does not come into a rebuilt catalog.
func TestImpossibleDescription(t *testing.T) {
	for name, spoil := range map[string]func(*Backup){
		"no WAL": func(b *Backup) { b.LastWAL = "" }, "no segment size": func(b *Backup) { b.SegmentSize = 0 },
	} {
		var store storage.Store = mem.New()
		b := &Backup{ID: "a", SegmentSize: 16 << 20, Summary: commit("a").Commit.Summary}
		c := New(store, "host/8/test", clock())
		for _, want := range []bool{true, false} {
			if _, err := c.ReplaceBackup(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			if _, _, err := c.ReadBackup(t.Context(), "a"); (err == nil) != want {
				t.Errorf("%s: it is sound: %v: %v", name, want, err)
			}
			spoil(b)
		}
	}
}
