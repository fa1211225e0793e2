package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/segment"
)

// Rebuilt takes the place of all records before it: readers go on from its state. It is how a log that has lost
// records is mended, as nothing is ever rewritten.
type Rebuilt struct {
	State State `json:"state"`
}

// ErrMoved says that the log has gone on since what is to be written was made from it.
var ErrMoved = errors.New("another process has written to the catalog")

// Rebuild writes a state that takes the place of all that the log says up to record s.N, which may be damaged.
// When another record has come since, nothing is changed and the error is ErrMoved.
func (c *Catalog) Rebuild(ctx context.Context, s *State, next State) error {
	if s.Newer {
		return s.Writable()
	}
	next.Problems = nil
	data, err := c.encode(s, Record{Type: "rebuilt", Rebuilt: &Rebuilt{next}})
	if err != nil {
		return err
	}
	err = c.create(ctx, s.N+1, data)
	if errors.Is(err, storage.ErrExists) {
		return fmt.Errorf("%w: nothing was changed", ErrMoved)
	}
	if err != nil {
		return fmt.Errorf("write rebuilt record to the catalog: %w", err)
	}
	s.apply(s.N+1, data)
	_ = c.checkpoint(ctx, s, true) // as in Append
	return nil
}

// foldRebuilt is the state of the record, at the record's place.
func (s *State) foldRebuilt(r *Record) error {
	if r.N != s.N {
		return errors.New("it is stored under the name of another record")
	}
	next := r.Rebuilt.State
	next.N, next.Head, next.whole = s.N, s.Head, -1
	*s = next
	return nil
}

// Restored enters a backup of which the log does not tell (any more), or not all, with the hash of the backup.json that
// describes it. A new one comes after those that began, or were committed, before it.
func (s *State) Restored(b *Backup, hash string, reuses []string) {
	e := s.Entry(b.ID)
	if e == nil {
		e = &Entry{ID: b.ID, Begun: b.Started}
		at := 1 + lastIndex(s.Entries, func(o *Entry) bool { return !o.Begun.After(b.Started) })
		s.Entries = slices.Insert(s.Entries, at, e)
		s.index, s.indexed = nil, 0
	}
	if e.Status != Complete {
		at := 1 + lastIndex(s.Committed, func(id string) bool { return !s.Entry(id).Commit.Summary.Finished.After(b.Finished) })
		s.Committed = slices.Insert(s.Committed, at, b.ID)
	}
	for _, id := range reuses {
		if !slices.Contains(e.Begin.Reuses, id) {
			e.Begin.Reuses = append(e.Begin.Reuses, id)
		}
	}
	e.Begin.Backup, e.Begin.SystemID = b.ID, b.SystemID
	e.Status, e.Abort, e.Commit = Complete, nil, &Commit{Backup: b.ID, SHA256: hash, Summary: b.Summary}
	s.incarnation(b)
}

// incarnation enters the cluster of a backup when no record tells of it. That of the newest backup is the current one.
func (s *State) incarnation(b *Backup) {
	if slices.ContainsFunc(s.Servers, func(x Server) bool { return x.SystemID == b.SystemID }) {
		return
	}
	this := Server{SystemID: b.SystemID, PGVersion: b.PGVersion, SegmentSize: segment.Size(b.SegmentSize)}
	at := 0
	for _, e := range s.Complete() {
		if c := e.Commit.Summary; c.SystemID != b.SystemID && !c.Finished.After(b.Finished) {
			at = max(at, 1+lastIndex(s.Servers, func(x Server) bool { return x.SystemID == c.SystemID }))
		}
	}
	s.Servers = slices.Insert(s.Servers, at, this)
}

// Strangers are backups that are described in the storage and came after all that the log tells of: a sign that its
// newest records are lost, for a log that is cut off only looks shorter.
func (c *Catalog) Strangers(ctx context.Context, s *State) ([]string, error) {
	last := ""
	for _, e := range s.Entries {
		last = max(last, e.ID)
	}
	found, err := c.Described(ctx, last)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	if err := c.advance(ctx, s); err != nil { // they may just have begun
		return nil, err
	}
	var ids []string
	for _, d := range found {
		if s.Entry(d.ID) == nil {
			ids = append(ids, d.ID)
		}
	}
	return ids, nil
}

// Lost takes a backup out of the list that cannot be restored.
func (s *State) Lost(id string) {
	if e := s.Entry(id); e != nil && e.Status == Complete {
		e.Status, e.Commit, e.Pin = Deleted, nil, nil
		s.Committed = slices.DeleteFunc(s.Committed, func(c string) bool { return c == id })
	}
}

func lastIndex[T any](list []T, f func(T) bool) int {
	for i, x := range slices.Backward(list) {
		if f(x) {
			return i
		}
	}
	return -1
}

// Clone is a copy of the state that can be changed.
func (s *State) Clone() State {
	c := *s
	c.index, c.indexed, c.tail = nil, 0, nil
	c.Servers, c.Committed = slices.Clone(s.Servers), slices.Clone(s.Committed)
	c.Entries = nil
	for _, e := range s.Entries {
		x := *e
		x.Begin.Reuses = slices.Clone(e.Begin.Reuses)
		c.Entries = append(c.Entries, &x)
	}
	return c
}

// ReplaceBackup stores a backup.json where a damaged one may be, and returns its hash.
func (c *Catalog) ReplaceBackup(ctx context.Context, b *Backup) (string, error) {
	if err := c.store.Delete(ctx, BackupKey(b.ID)); err != nil {
		return "", fmt.Errorf("remove the damaged description of backup %s: %w", b.ID, err)
	}
	return c.PutBackup(ctx, b)
}

// ReadBackup reads a backup.json that the log does not vouch for, and returns its hash, too. The error is
// ErrDamaged when it is missing or is none.
func (c *Catalog) ReadBackup(ctx context.Context, id string) (*Backup, string, error) {
	var parts []Part
	b, hash, err := c.readBackup(ctx, id, func(p Part) { parts = append(parts, p) })
	if err != nil {
		return nil, "", err
	}
	b.Parts = parts
	// What no record can say of a backup, a rebuilt log cannot either.
	commit, server := Commit{Backup: id, Summary: b.Summary}, Server{SegmentSize: segment.Size(b.SegmentSize)}
	if err := cmp.Or(commit.check(), server.check()); err != nil {
		return nil, "", fmt.Errorf("%w: %s: %v", ErrDamaged, BackupKey(id), err)
	}
	return b, hash, nil
}
