package walstore

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/segment"
)

// A note holds what a segment says about settings of the server or about directories of databases, so that nobody has to read
// all WAL to know it. It is an object of its own beside the segment, NAME.HASH.parameters or NAME.HASH.directories (of segment.Notes as JSON; HASH is
// the beginning of its SHA-256), and is there before the segment is.
const (
	NoteOfParameters  = "parameters"
	NoteOfDirectories = "directories"
)

func noteKey(sysid uint64, name, kind string, body []byte) string {
	sum := sha256.Sum256(body)
	return fmt.Sprintf("%s%s.%X.%s", timelineDir(sysid, name[:8]), name, sum[:8], kind)
}

// parseNote is the object of a note's key.
func parseNote(sysid uint64, key string) (Object, bool) {
	dir, base := path.Split(key)
	p := strings.Split(base, ".")
	if len(p) != 3 || p[2] != NoteOfParameters && p[2] != NoteOfDirectories || len(p[1]) != 16 ||
		segment.Classify(p[0]) != segment.Full || timelineDir(sysid, p[0][:8]) != dir {
		return Object{}, false
	}
	return Object{Key: key, SystemID: sysid, Name: p[0], Type: segment.Noted, Note: p[2]}, true
}

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
			return fmt.Errorf("store what it says of settings or databases: %w", err)
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
	for kind, n := range map[string]segment.Notes{NoteOfParameters: parameters, NoteOfDirectories: directories} {
		if n.Empty() {
			continue
		}
		body, err := json.Marshal(n)
		if err != nil {
			return nil, err
		}
		objects[noteKey(s.sysid, s.name, kind, body)] = body
	}
	return objects, nil
}

// ReadNotes reads notes of one kind, those of a timeline in its order, and completes each from the segment after it. One that was
// removed since it was listed is passed over, with its segment. What is wrong with one is a *DamagedError.
func ReadNotes(ctx context.Context, s storage.Store, notes []Object, size segment.Size) (all segment.Notes, err error) {
	for _, o := range notes {
		data, err := storage.ReadAll(ctx, s, o.Key, noteLimit)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return all, err
		}
		var n segment.Notes
		if err := json.Unmarshal(data, &n); err != nil {
			return all, &DamagedError{Key: o.Key, Store: s.String(), Err: err}
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
func completeNotes(ctx context.Context, s storage.Store, o Object, n *segment.Notes, size segment.Size) error {
	seg, err := segment.ParseName(o.Name, size)
	if n.Cut == nil || err != nil {
		return nil
	}
	next, err := beginning(ctx, s, o.SystemID, seg.Next().Name(size))
	if errors.Is(err, storage.ErrNotFound) || errors.Is(err, ErrDamaged) {
		return nil
	}
	n.Complete(next)
	return err
}

// beginning is how an archived segment begins; it is not checked, but by what is read in it.
func beginning(ctx context.Context, s storage.Store, sysid uint64, name string) ([]byte, error) {
	first := make([]byte, 0, Beginning)
	_, err := read(ctx, s, name, sysid, writerFunc(func(p []byte) (int, error) {
		if first = append(first, p[:min(len(p), Beginning-len(first))]...); len(first) == Beginning {
			return 0, errEnough
		}
		return len(p), nil
	}))
	if len(first) == Beginning {
		return first, nil
	}
	return first, err
}

// ParametersIn are the changes of settings in what was received of a segment; see Chain.
func ParametersIn(ctx context.Context, s storage.Store, sysid uint64, chain []Piece) ([]segment.Parameters, error) {
	var n segment.Noter
	err := through(func(w io.Writer) error { return ReadChain(ctx, s, sysid, chain, w) }, func(r io.Reader) error {
		pages := bufio.NewReaderSize(r, 1<<20)
		for page := make([]byte, 64<<10); ; {
			got, err := io.ReadFull(pages, page)
			_, _ = n.Write(page[:got]) // never fails
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("look through what was received of %s: %w", chain[0].Segment, err)
	}
	return n.Notes().Parameters, nil
}

// LastChanges is, for each database (by its OID), the last record between two places on a timeline that changes its files; see
// segment.Changes, for its error too. It reads all segments there, the last one first, each once.
func LastChanges(ctx context.Context, s storage.Store, sysid uint64, tli segment.Timeline, size segment.Size, from, until segment.LSN) (map[uint32]segment.LSN, error) {
	last := map[uint32]segment.LSN{}
	var after []byte
	for no := segment.Before(tli, until, size).No; no >= segment.At(tli, from, size).No; no-- {
		name := segment.Segment{Timeline: tli, No: no}.Name(size)
		fill := func(w io.Writer) error {
			_, err := read(ctx, s, name, sysid, w)
			return err
		}
		err := through(fill, func(r io.Reader) error {
			whole := bufio.NewReaderSize(r, Beginning)
			first, _ := whole.Peek(Beginning) // an error comes again
			before := bytes.Clone(first)
			err := segment.Changes(whole, bytes.NewReader(after), until, func(db uint32, at segment.LSN) { last[db] = max(last[db], at) })
			after = before
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("look for changes of databases in %s: %w", name, err)
		}
	}
	return last, nil
}

// Minimal are the places on the way to the end of a timeline from which on the WAL was written with wal_level = minimal; the
// segments of damaged notes count. all are the surveys of Examine.
func (v *Survey) Minimal(ctx context.Context, s storage.Store, sysid uint64, all []*Survey) (places []segment.LSN, err error) {
	ends := map[segment.Timeline]segment.LSN{v.Timeline: ^segment.LSN(0)}
	for _, a := range v.Lineage {
		ends[a.Timeline] = a.Switch
	}
	var changes []segment.Parameters
	for _, x := range all {
		for _, o := range x.Notes {
			n, err := ReadNotes(ctx, s, []Object{o}, x.SegmentSize)
			if seg, e := segment.ParseName(o.Name, x.SegmentSize); e == nil && errors.Is(err, ErrDamaged) { // nobody knows what it said
				n.Parameters, err = []segment.Parameters{{At: seg.Start(x.SegmentSize), WALLevel: segment.WALLevel(0)}}, nil
			}
			if err != nil {
				return nil, err
			}
			for _, c := range n.Parameters {
				if c.At < ends[x.Timeline] {
					changes = append(changes, c)
				}
			}
		}
	}
	if seg, reach := v.Received(); reach > 0 {
		chain, _ := Chain(v.PiecesOf(seg.Name(v.SegmentSize)))
		received, err := ParametersIn(ctx, s, sysid, chain)
		if err != nil && !errors.Is(err, storage.ErrNotFound) && !errors.Is(err, ErrDamaged) { // completed meanwhile, or said elsewhere
			return nil, err
		}
		changes = append(changes, received...)
	}
	for _, c := range segment.SortParameters(changes) {
		if c.Minimal() {
			places = append(places, c.At)
		}
	}
	return places, nil
}
