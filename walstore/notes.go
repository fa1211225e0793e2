package walstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

// putNotes stores what was found in the segment that is about to be stored. Where the archive has one of other content (a copy of
// the server archives, too), its error is same's, and nothing is stored: the note would be read as that segment's.
func (s *source) putNotes(ctx context.Context, to storage.Store, same func() error) error {
	if segment.Classify(s.name) != segment.Full {
		return nil
	}
	notes, err := noteObjects(s.sysid, s.name, s.noter.Notes())
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
func noteObjects(sysid uint64, name string, found segment.Notes) (map[string][]byte, error) {
	objects := map[string][]byte{}
	parameters, directories := found.ByKind()
	for kind, n := range map[string]segment.Notes{object.NoteOfParameters: parameters, object.NoteOfDirectories: directories} {
		if n.Empty() {
			continue
		}
		body, err := json.Marshal(n)
		if err != nil {
			return nil, err
		}
		objects[object.NoteKey(sysid, name, kind, body)] = body
	}
	return objects, nil
}

// VerifyNoted is Verify of a segment, and of what its notes have to be. A *DamagedError of a note has the note's key.
func VerifyNoted(ctx context.Context, s storage.Store, o object.Object) error {
	found, err := notesOf(ctx, s, o)
	if err != nil {
		return err
	}
	notes, err := noteObjects(o.SystemID, o.Name, found)
	if err != nil {
		return err
	}
	for key := range notes {
		_, err := readNote(ctx, s, o.SystemID, o.Name, key)
		how := fmt.Sprintf("Fetch the segment (pgobj wal-fetch %s DIR/%s) and push it again (pgobj wal-push DIR/%s)", o.Name, o.Name, o.Name)
		switch {
		case errors.Is(err, storage.ErrNotFound):
			return &object.DamagedError{Key: key, Store: s.String(), Err: fmt.Errorf("this note on segment %s is missing, and with it the changes of settings or databases that the segment has. %s", o.Name, how)}
		case errors.Is(err, object.ErrDamaged):
			return fmt.Errorf("%w. Delete this object. %s", err, how)
		case err != nil:
			return err
		}
	}
	return nil
}

// readNote reads a note, whose name tells its content.
func readNote(ctx context.Context, s storage.Store, sysid uint64, name, key string) (n segment.Notes, err error) {
	data, err := storage.ReadAll(ctx, s, key, object.NoteLimit)
	if err != nil {
		return n, err
	}
	if err = json.Unmarshal(data, &n); err == nil && object.NoteKey(sysid, name, key[strings.LastIndexByte(key, '.')+1:], data) != key {
		err = errors.New("its content is not that which its name tells")
	}
	if err != nil {
		return n, &object.DamagedError{Key: key, Store: s.String(), Err: err}
	}
	return n, nil
}

// ReadNotes reads notes of one kind, those of a timeline in its order, and completes each from the segment after it. One that was
// removed since it was listed is passed over, with its segment. Where one is damaged the segment itself is read; what is wrong with that is a
// *DamagedError.
func ReadNotes(ctx context.Context, s storage.Store, notes []object.Object, size segment.Size) (all segment.Notes, err error) {
	for _, o := range notes {
		n, err := readNote(ctx, s, o.SystemID, o.Name, o.Key)
		if errors.Is(err, object.ErrDamaged) {
			if n, err = notesOf(ctx, s, o); o.Note == object.NoteOfParameters {
				n, _ = n.ByKind()
			} else {
				_, n = n.ByKind()
			}
		}
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return all, err
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

// notesOf finds the notes of an archived segment, and checks all of it.
func notesOf(ctx context.Context, s storage.Store, o object.Object) (n segment.Notes, err error) {
	err = Source{SystemID: o.SystemID, Segment: o.Name}.Read(ctx, s, func(_ []byte, content io.Reader) (err error) {
		n, err = notesIn(content)
		return err
	})
	return n, err
}

// NotesOfFile finds the notes of a segment in a pg_wal. What follows the end of the WAL in it has none.
func NotesOfFile(path string) (segment.Notes, error) {
	f, err := os.Open(path)
	if err != nil {
		return segment.Notes{}, err
	}
	defer f.Close()
	return notesIn(f)
}

func notesIn(r io.Reader) (segment.Notes, error) {
	var n segment.Noter
	for pages := make([]byte, 64<<10); ; {
		got, err := io.ReadFull(r, pages)
		_, _ = n.Write(pages[:got]) // never fails
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return n.Notes(), nil
		}
		if err != nil {
			return segment.Notes{}, err
		}
	}
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
