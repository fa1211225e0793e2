package catalog

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/segment"
)

// check refuses what pgobj never writes.
func (r *Record) check() error {
	switch {
	case r.Type == "server" && r.Server != nil:
		return r.Server.check()
	case r.Type == "begin" && r.Begin != nil:
		return cmp.Or(checkIDs(r.Begin.Backup), checkIDs(r.Begin.Reuses...))
	case r.Type == "commit" && r.Commit != nil:
		return r.Commit.check()
	case r.Type == "abort" && r.Abort != nil:
		return checkIDs(r.Abort.Backup)
	case r.Type == "pin" && r.Pin != nil:
		return checkIDs(r.Pin.Backup)
	case r.Type == "unpin" && r.Unpin != nil:
		return checkIDs(r.Unpin.Backup)
	case r.Type == "drill" && r.Drill != nil:
		return checkIDs(r.Drill.Backup)
	case r.Type == "delete" && r.Delete != nil:
		return r.Delete.check()
	case r.Type == "rebuilt" && r.Rebuilt != nil:
		return r.Rebuilt.State.check()
	}
	return nil
}

// isID says whether a backup's id can be part of a key.
func isID(id string) bool { return storage.CheckKey(id) == nil && !strings.Contains(id, "/") }

func checkIDs(ids ...string) error {
	for _, id := range ids {
		if !isID(id) {
			return fmt.Errorf("%.100q cannot be the id of a backup", id)
		}
	}
	return nil
}

func (s Server) check() error {
	if !s.SegmentSize.Valid() {
		return fmt.Errorf("the server cannot have WAL segments of %d bytes", s.SegmentSize)
	}
	return nil
}

func (c *Commit) check() error {
	if err := checkIDs(c.Backup); err != nil {
		return err
	}
	if b := c.Summary; !inOrder(b.FirstWAL, b.LastWAL) {
		return fmt.Errorf("backup %s cannot need WAL from %.100q to %.100q", c.Backup, b.FirstWAL, b.LastWAL)
	}
	return nil
}

func (d *Delete) check() error {
	for _, w := range d.WAL {
		if history := segment.Classify(w.First) == segment.History && w.Last == w.First; !history && !inOrder(w.First, w.Last) {
			return fmt.Errorf("a deletion cannot take WAL from %.100q to %.100q", w.First, w.Last)
		}
	}
	return cmp.Or(checkIDs(d.Backups...), checkIDs(slices.Collect(maps.Keys(d.Parts))...))
}

// inOrder says whether two names are those of segments on one timeline, the last not before the first.
func inOrder(first, last string) bool {
	return segment.Classify(first) == segment.Full && segment.Classify(last) == segment.Full && first[:8] == last[:8] && first <= last
}

// check refuses a state that records cannot lead to.
func (s *State) check() error {
	for _, x := range s.Servers {
		if err := x.check(); err != nil {
			return err
		}
	}
	for _, e := range s.Entries {
		if e == nil {
			return errors.New("it lists something that is not a backup")
		}
		if err := e.check(); err != nil {
			return err
		}
	}
	for _, id := range s.Committed {
		if e := s.Entry(id); e == nil || e.Status != Complete {
			return fmt.Errorf("it lists backup %.100q as complete, which is not", id)
		}
	}
	condemned := Delete{WAL: s.WAL}
	if err := condemned.check(); err != nil {
		return err
	}
	for _, u := range s.Unpurged {
		if err := u.Delete.check(); err != nil {
			return err
		}
	}
	return nil
}

func (e *Entry) check() error {
	if e.Commit == nil && e.Status != Complete {
		return checkIDs(e.ID)
	}
	if e.Commit == nil || e.Commit.Backup != e.ID {
		return fmt.Errorf("backup %.100q is complete without a commit of its own", e.ID)
	}
	return e.Commit.check()
}
