package walstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

// putNotes stores what was found in the segment that is about to be stored. Where the archive has one of other content (a copy of
// the server archives, too), its error is same's, and nothing is stored: the note would be read as that segment's.
func (s *source) putNotes(ctx context.Context, to storage.Store, same func() error) error {
	notes, err := s.noteObjects()
	if err != nil || len(notes) == 0 {
		return err
	}
	if err := same(); err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	for key, body := range notes {
		err = to.Put(ctx, key, bytes.NewReader(body), int64(len(body)))
		if err != nil && !errors.Is(err, storage.ErrExists) { // the name tells the content
			return fmt.Errorf("store its notes about settings and databases: %w", err)
		}
	}
	return nil
}

// noteObjects are the notes of a segment, by their keys.
func (s *source) noteObjects() (map[string][]byte, error) {
	objects := map[string][]byte{}
	if segment.Classify(s.name) != segment.Full {
		return nil, nil
	}
	parameters, directories := s.noter.Notes().ByKind()
	for kind, n := range map[string]segment.Notes{object.NoteOfParameters: parameters, object.NoteOfDirectories: directories} {
		if n.Empty() {
			continue
		}
		body, err := json.Marshal(n)
		if err != nil {
			return nil, err
		}
		objects[object.NoteKey(s.sysid, s.name, kind, body)] = body
	}
	return objects, nil
}

// ReadNotes reads notes of one kind, those of a timeline in its order, and completes each from the segment after it. One that was
// removed since it was listed is passed over, with its segment. What is wrong with one is a *DamagedError.
func ReadNotes(ctx context.Context, s storage.Store, notes []object.Object, size segment.Size) (all segment.Notes, err error) {
	for _, o := range notes {
		data, err := storage.ReadAll(ctx, s, o.Key, object.NoteLimit)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return all, err
		}
		var n segment.Notes
		if err := json.Unmarshal(data, &n); err != nil {
			return all, &object.DamagedError{Key: o.Key, Store: s.String(), Err: err}
		}
		if err := completeNotes(ctx, s, o, &n, size); err != nil {
			return all, err
		}
		all.Parameters = append(all.Parameters, n.Parameters...)
		all.Directories = append(all.Directories, n.Directories...)
	}
	return all, nil
}

// completeNotes adds the record that ends in the next segment. Where that is not there, recovery does not get to its end.
func completeNotes(ctx context.Context, s storage.Store, o object.Object, n *segment.Notes, size segment.Size) error {
	seg, err := segment.ParseName(o.Name, size)
	if n.Cut == nil || err != nil {
		return nil
	}
	next, err := object.First(Beginning, func(w io.Writer) error { // it is not checked, but by what is read in it
		_, err := Read(ctx, s, seg.Next().Name(size), o.SystemID, w)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) || errors.Is(err, object.ErrDamaged) {
		return nil
	}
	n.Complete(next)
	return err
}

// LastChanges is, for each database (by its OID), the last record between two places on a timeline that changes its files; see
// segment.Changes, for its error too. It reads all segments there, the last one first, each once.
func LastChanges(ctx context.Context, s storage.Store, sysid uint64, tli segment.Timeline, size segment.Size, from, until segment.LSN) (map[uint32]segment.LSN, error) {
	last := map[uint32]segment.LSN{}
	var after []byte
	for no := segment.Before(tli, until, size).No; no >= segment.At(tli, from, size).No; no-- {
		x := Source{SystemID: sysid, Segment: segment.Segment{Timeline: tli, No: no}.Name(size)}
		err := x.Read(ctx, s, func(begin []byte, in io.Reader) error {
			err := segment.Changes(in, bytes.NewReader(after), until, func(db uint32, at segment.LSN) { last[db] = max(last[db], at) })
			after = begin
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("look for changes of databases: %w", err)
		}
	}
	return last, nil
}
