package walstore_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pgobj/pgobj/storage/mem"
	"github.com/pgobj/pgobj/test/waltest"
	"github.com/pgobj/pgobj/walstore"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

// A copy of the server (a snapshot) archives to the same place: what its segments say is not what the archive's say.
func TestRefusedContentLeavesNoNotes(t *testing.T) {
	s := mem.New()
	theirs, ours := wal(seg1, sysid, segSize, 1), waltest.Minimal(wal(seg1, sysid, segSize, 2))
	if _, err := push(t, s, seg1, theirs); err != nil {
		t.Fatal(err)
	}
	before := keys(t, s)
	if _, err := push(t, s, seg1, ours); !errors.Is(err, object.ErrConflict) {
		t.Errorf("other content: %v", err)
	}
	if after := keys(t, s); !slices.Equal(before, after) {
		t.Errorf("it has left %q", after)
	}
	s = mem.New()
	for _, there := range []bool{false, true} {
		if res, err := push(t, s, seg1, ours); err != nil || res.AlreadyThere != there {
			t.Errorf("%+v, %v", res, err)
		}
		if all := keys(t, s); len(all) != 2 || !strings.HasSuffix(all[0], "."+object.NoteOfParameters) {
			t.Errorf("stored: %q", all)
		}
	}
}

// A note that is lost or damaged is found where the whole segment is read, and pushing the segment again mends it.
func TestLostNotesAreFound(t *testing.T) {
	s := mem.New()
	ours := waltest.Minimal(wal(seg1, sysid, segSize, 2))
	if _, err := push(t, s, seg1, ours); err != nil {
		t.Fatal(err)
	}
	all := keys(t, s)
	segmentOf := object.Object{Key: all[1], SystemID: sysid, Name: seg1, Type: segment.Full}
	note, ok := object.ParseNote(sysid, all[0])
	if !ok {
		t.Fatalf("stored: %q", all)
	}
	if err := walstore.VerifyNoted(t.Context(), s, segmentOf); err != nil {
		t.Error(err)
	}
	if n, err := walstore.ReadNotes(t.Context(), s, []object.Object{note}, segSize); err != nil || len(n.Parameters) != 1 {
		t.Errorf("%+v, %v", n, err)
	}
	if err := s.Delete(t.Context(), note.Key); err != nil {
		t.Fatal(err)
	}
	if err := walstore.VerifyNoted(t.Context(), s, segmentOf); !errors.Is(err, object.ErrDamaged) || !strings.Contains(err.Error(), note.Key) {
		t.Errorf("without its note: %v", err)
	}
	if err := s.Put(t.Context(), note.Key, strings.NewReader("{}"), 2); err != nil {
		t.Fatal(err)
	}
	if n, err := walstore.ReadNotes(t.Context(), s, []object.Object{note}, segSize); err != nil || len(n.Parameters) != 1 {
		t.Errorf("where its note says nothing any more the segment does not tell: %+v, %v", n, err)
	}
	if err := walstore.VerifyNoted(t.Context(), s, segmentOf); !errors.Is(err, object.ErrDamaged) {
		t.Errorf("with a damaged note: %v", err)
	}
	if err := s.Delete(t.Context(), note.Key); err != nil {
		t.Fatal(err)
	}
	if res, err := push(t, s, seg1, ours); err != nil || !res.AlreadyThere {
		t.Errorf("pushed again: %+v, %v", res, err)
	}
	if err := walstore.VerifyNoted(t.Context(), s, segmentOf); err != nil {
		t.Error(err)
	}
}
