package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgobj/pgobj/walstore/segment"
)

// Server says which PostgreSQL cluster the backups from here on are of. A new one appears after initdb
// or pg_upgrade: a new incarnation of the server.
type Server struct {
	SystemID    uint64       `json:"system_id,string"`
	PGVersion   int          `json:"pg_version"` // server_version_num
	SegmentSize segment.Size `json:"wal_segment_size"`
}

// Begin says that a backup has started, and which backups' parts it may refer to.
type Begin struct {
	Backup   string           `json:"backup"`
	SystemID uint64           `json:"system_id,string"`
	Reuses   []string         `json:"reuses,omitempty"`
	Timeline segment.Timeline `json:"timeline,omitzero"` // where the WAL was, at the latest: no backup
	LSN      segment.LSN      `json:"lsn,omitzero"`      // that begins here needs WAL from before it
}

// Commit makes a backup exist.
type Commit struct {
	Backup  string  `json:"backup"`
	SHA256  string  `json:"sha256"` // of its backup.json
	Summary Summary `json:"summary"`
}

// Summary is what a list of backups shows.
type Summary struct {
	SystemID     uint64           `json:"system_id,string"`
	PGVersion    int              `json:"pg_version"`
	Started      time.Time        `json:"started"`
	Consistent   time.Time        `json:"consistent"` // by the server's clock; a restore can reach any time from here on
	Finished     time.Time        `json:"finished"`
	Timeline     segment.Timeline `json:"timeline"`
	StartLSN     segment.LSN      `json:"start_lsn"`
	StopLSN      segment.LSN      `json:"stop_lsn"`
	FirstWAL     string           `json:"first_wal"` // name of the first segment needed
	LastWAL      string           `json:"last_wal"`  // and of the last one
	Size         int64            `json:"size"`      // bytes of the files in the backup
	Files        int64            `json:"files"`
	Read         int64            `json:"read"`               // bytes of them that were read from the data directory
	Reused       int64            `json:"reused"`             // bytes of them that were in the repository already
	Adopted      int64            `json:"adopted,omitempty"`  // bytes of these that runs which did not finish had stored
	Repeated     int64            `json:"repeated,omitempty"` // bytes of them whose content this backup had stored already itself
	Stored       int64            `json:"stored"`             // bytes that this backup added to the repository
	DamagedPages int64            `json:"damaged_pages"`
	From         string           `json:"from,omitempty"` // "primary", "standby", or "offline": of a stopped server

	Labels map[string]string `json:"labels,omitempty"` // what the user wants to know of it; pgobj does not look
}

// Abort says that a backup that began will not be committed.
type Abort struct {
	Backup string `json:"backup"`
	Reason string `json:"reason"`
}

// Pin keeps a backup from deletion, for good or until a time; Unpin takes that back.
type Pin struct {
	Backup string    `json:"backup"`
	Until  time.Time `json:"until,omitzero"`
}

// Delete takes backups out of the catalog and condemns parts and WAL: from this record on no backup may
// be committed that refers to them, so that they can be removed at any later time.
type Delete struct {
	Backups []string          `json:"backups,omitempty"`
	Parts   map[string]Ranges `json:"parts,omitempty"` // by backup: numbers of its parts
	WAL     []WALRange        `json:"wal,omitempty"`
}

// WALRange is condemned WAL: all segments of a timeline from First to Last, with the .partial and .backup files
// whose names begin with theirs. A history file is only condemned by its own name, as First and Last.
type WALRange struct {
	SystemID uint64 `json:"system_id,string"`
	First    string `json:"first"`
	Last     string `json:"last"`
}

// Unpurged is a deletion of which not everything is physically gone, as far as the log knows.
type Unpurged struct {
	N      int64  `json:"n"` // of its record
	Delete Delete `json:"delete"`
}

// Purged says that what record Of condemned is physically gone.
type Purged struct {
	Of int64 `json:"of"`
}

// Drill is the result of a restore drill: a backup was restored, recovered and checked, and thrown away.
type Drill struct {
	Backup   string           `json:"backup"`
	OK       bool             `json:"ok"`
	Reason   string           `json:"reason,omitempty"` // why it failed
	Host     string           `json:"host"`             // where it was
	Goal     string           `json:"goal"`             // how far it recovered, in words
	Started  time.Time        `json:"started"`
	Recovery float64          `json:"recovery_seconds"` // measured: from the beginning of the restore until the server took connections
	Seconds  float64          `json:"seconds"`          // with all checks
	Timeline segment.Timeline `json:"timeline,omitzero"`
	End      segment.LSN      `json:"end_lsn,omitzero"` // where recovery ended, on Timeline
	Steps    []DrillStep      `json:"steps"`
}

// DrillStep is one step of a drill.
type DrillStep struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	Result  string  `json:"result"` // ok, failed or skipped
}

// Status is where a backup is in its life.
type Status string

const (
	Running  Status = "running" // began, and neither committed nor aborted: it may also have been killed
	Complete Status = "complete"
	Aborted  Status = "aborted"
	Deleted  Status = "deleted"
)

// Entry is what the log says of one backup.
type Entry struct {
	ID     string    `json:"id"`
	Begun  time.Time `json:"begun"`
	By     string    `json:"by"`
	Begin  Begin     `json:"begin"`
	Status Status    `json:"status"`
	Commit *Commit   `json:"commit,omitempty"`
	Abort  *Abort    `json:"abort,omitempty"`
	Pin    *Pin      `json:"pin,omitempty"`
	Drill  *Drill    `json:"drill,omitempty"` // the last one
}

// State is the log folded up to record N.
type State struct {
	N         int64               `json:"n"`
	Head      string              `json:"head"` // SHA-256 of record N as stored
	Servers   []Server            `json:"servers,omitempty"`
	Entries   []*Entry            `json:"entries,omitempty"`   // in the order in which they began
	Committed []string            `json:"committed,omitempty"` // ids of complete backups in the order of their commits
	Condemned map[string][]Ranges `json:"condemned,omitempty"` // parts by backup
	WAL       []WALRange          `json:"condemned_wal,omitempty"`
	Unpurged  []Unpurged          `json:"unpurged,omitempty"` // deletions that have not been carried out to the end
	Problems  []string            `json:"problems,omitempty"` // what could not be read
	Newer     bool                `json:"newer,omitempty"`    // records that this pgobj does not understand

	index   map[string]*Entry // of the first entries, by id
	indexed int               // how many these are
	whole   int64             // N of the checkpoint with a whole state that is known to be stored
	tail    []json.RawMessage // the records after that
}

// Writable reports why nothing may be added to this log, if so.
func (s *State) Writable() error {
	if s.Newer {
		return fmt.Errorf("%w: this pgobj can read it, but not write it: use that version", ErrNewer)
	}
	if len(s.Problems) > 0 {
		return fmt.Errorf("%w: %s", ErrDamaged, strings.Join(s.Problems, "; "))
	}
	return nil
}

// Entry is the backup of that id, or nil.
func (s *State) Entry(id string) *Entry {
	if s.index == nil {
		s.index = make(map[string]*Entry, len(s.Entries))
	}
	for ; s.indexed < len(s.Entries); s.indexed++ {
		s.index[s.Entries[s.indexed].ID] = s.Entries[s.indexed]
	}
	return s.index[id]
}

// Complete lists the complete backups in the order of their commits: by the log, not by anyone's clock.
func (s *State) Complete() []*Entry {
	var out []*Entry
	for _, id := range s.Committed {
		if e := s.Entry(id); e != nil && e.Status == Complete {
			out = append(out, e)
		}
	}
	return out
}

// Unfinished lists the backups that began after the last commit and were not committed: they run, or what
// they stored has been left behind.
func (s *State) Unfinished() []*Entry {
	var out []*Entry
	for _, e := range slices.Backward(s.Entries) {
		if e.Status == Complete {
			break
		}
		if e.Status == Running || e.Status == Aborted {
			out = append(out, e)
		}
	}
	return out
}

// ErrNoBackup says that no complete backup fits what was asked for.
var ErrNoBackup = errors.New("no such backup")

// IsLatest says whether a name of a backup means the newest one.
func IsLatest(name string) bool {
	return name == "" || strings.EqualFold(name, "latest") || strings.EqualFold(name, "last")
}

func isOldest(name string) bool {
	return strings.EqualFold(name, "oldest") || strings.EqualFold(name, "first")
}

// Resolve finds a complete backup by latest or last (also ""), oldest or first, in any case, by its id or by the
// beginning of one.
func (s *State) Resolve(name string) (*Entry, error) {
	complete := s.Complete()
	if len(complete) == 0 {
		return nil, fmt.Errorf("%w: the catalog has no complete backup", ErrNoBackup)
	}
	switch {
	case IsLatest(name):
		return complete[len(complete)-1], nil
	case isOldest(name):
		return complete[0], nil
	}
	var found []*Entry
	for _, e := range complete {
		if e.ID == name {
			return e, nil
		}
		if strings.HasPrefix(e.ID, name) {
			found = append(found, e)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fmt.Errorf("%w: %q (the newest is %s)", ErrNoBackup, name, complete[len(complete)-1].ID)
	}
	return nil, fmt.Errorf("%w: %q matches %d backups, the first two are %s and %s", ErrNoBackup, name, len(found), found[0].ID, found[1].ID)
}

// CheckCommit reports why a backup that refers to the given parts (numbers by backup) must not be
// committed at this point of the log: a deletion before it condemned one of them, or the backup itself
// is not running any more. Since the record that is created next comes directly after this state, no
// deletion can slip in between.
func (s *State) CheckCommit(id string, parts map[string][]int) error {
	e := s.Entry(id)
	if e == nil || e.Status != Running {
		return fmt.Errorf("backup %s is not running any more: the catalog says that it was aborted, committed or deleted", id)
	}
	return s.CheckParts(parts)
}

// CheckParts reports which of the given parts (numbers by backup) a deletion has condemned.
func (s *State) CheckParts(parts map[string][]int) error {
	for backup, numbers := range parts {
		for _, condemned := range s.Condemned[backup] {
			for _, n := range numbers {
				if condemned.Contains(n) {
					return fmt.Errorf("part %d of backup %s, which this backup refers to, has been deleted", n, backup)
				}
			}
		}
	}
	return nil
}

// ErrWALDeleted says that a backup needs WAL of a name that a deletion has condemned.
var ErrWALDeleted = errors.New("WAL that the backup needs was deleted")

// CheckWAL reports why a backup must not be committed at this point of the log: WAL that it needs has been
// condemned, and may vanish at any time. That is so of a standby that lags behind, and of a server that was set back
// (to a snapshot): it archives the same names again, but a deletion that somebody began before may still remove them,
// whatever the log says of it, so they are never forgotten.
func (s *State) CheckWAL(b Summary) error {
	for _, w := range s.WAL {
		if w.SystemID == b.SystemID && w.First <= b.LastWAL && b.FirstWAL <= w.Last {
			return fmt.Errorf("%w: a deletion removed %s to %s, and the backup needs %s to %s", ErrWALDeleted, w.First, w.Last, b.FirstWAL, b.LastWAL)
		}
	}
	return nil
}

// condemnWAL adds a range, joined with those that it overlaps: deletions that go on from the beginning of a
// timeline leave one range, however many there have been. Names of one timeline and one kind sort by place.
func (s *State) condemnWAL(w WALRange) {
	s.WAL = slices.DeleteFunc(s.WAL, func(o WALRange) bool {
		if o.SystemID != w.SystemID || o.First > w.Last || w.First > o.Last {
			return false
		}
		w.First, w.Last = min(w.First, o.First), max(w.Last, o.Last)
		return true
	})
	s.WAL = append(s.WAL, w)
}

// apply folds record n, whose stored bytes are data (nil: it is missing), into the state.
func (s *State) apply(n int64, data []byte) {
	prev := s.Head
	s.N, s.Head, s.tail = n, sum(data), append(s.tail, data)
	problem := func(format string, args ...any) {
		s.Problems = append(s.Problems, fmt.Sprintf("%s: %s", recordKey(n), fmt.Sprintf(format, args...)))
	}
	if data == nil {
		problem("it is missing")
		s.Head = "" // the next one's prev has nothing to be held against: one fault is told once
		return
	}
	r, err := parse(data)
	if errors.Is(err, ErrNewer) {
		s.Newer = true
		return
	} else if err != nil {
		problem("%v", err)
		s.Head = ""
		return
	}
	if r.N != n || r.Prev != prev && (prev != "" || n == 1) {
		problem("it does not follow the record before it")
	}
	if err := s.fold(&r); err != nil {
		problem("%v", err)
	}
}

// lose notes that all records before number n are missing.
func (s *State) lose(n int64) {
	s.Problems = append(s.Problems, fmt.Sprintf("%s to %s: they are missing", recordKey(s.N+1), recordKey(n-1)))
	s.N, s.Head = n-1, ""
}

func (s *State) fold(r *Record) error {
	switch {
	case r.Type == "server" && r.Server != nil:
		s.Servers = append(s.Servers, *r.Server)
	case r.Type == "begin" && r.Begin != nil:
		if s.Entry(r.Begin.Backup) != nil {
			return fmt.Errorf("backup %s begins twice", r.Begin.Backup)
		}
		s.Entries = append(s.Entries, &Entry{ID: r.Begin.Backup, Begun: r.Time, By: r.By, Begin: *r.Begin, Status: Running})
	case r.Type == "commit" && r.Commit != nil:
		return s.change(r.Commit.Backup, func(e *Entry) {
			if e.Status == Running {
				e.Status, e.Commit = Complete, r.Commit
				s.Committed = append(s.Committed, e.ID)
				if e.By == "" { // its begin record cannot be read
					e.Begun, e.By, e.Begin.SystemID = r.Commit.Summary.Started, r.By, r.Commit.Summary.SystemID
				}
			}
		})
	case r.Type == "abort" && r.Abort != nil:
		return s.change(r.Abort.Backup, func(e *Entry) {
			if e.Status == Running {
				e.Status, e.Abort = Aborted, r.Abort
			}
		})
	case r.Type == "pin" && r.Pin != nil:
		return s.change(r.Pin.Backup, func(e *Entry) { e.Pin = r.Pin })
	case r.Type == "unpin" && r.Unpin != nil:
		return s.change(r.Unpin.Backup, func(e *Entry) { e.Pin = nil })
	case r.Type == "drill" && r.Drill != nil:
		return s.change(r.Drill.Backup, func(e *Entry) { e.Drill = r.Drill })
	case r.Type == "rebuilt" && r.Rebuilt != nil:
		return s.foldRebuilt(r)
	case r.Type == "delete" && r.Delete != nil:
		return s.foldDelete(r)
	case r.Type == "purged" && r.Purged != nil:
		// Part numbers are never used again, so what was condemned stays so.
		s.Unpurged = slices.DeleteFunc(s.Unpurged, func(u Unpurged) bool { return u.N == r.Purged.Of })
	default:
		s.Newer = true
	}
	return nil
}

func (s *State) foldDelete(r *Record) error {
	d := r.Delete
	var errs []error
	for _, id := range d.Backups {
		// Of a backup that is gone only that remains which later records and backups may ask for.
		errs = append(errs, s.change(id, func(e *Entry) { e.Status, e.Commit, e.Abort, e.Pin = Deleted, nil, nil, nil }))
	}
	s.Committed = slices.DeleteFunc(s.Committed, func(id string) bool { return s.Entry(id).Status == Deleted })
	for backup, ranges := range d.Parts {
		if s.Condemned == nil {
			s.Condemned = map[string][]Ranges{}
		}
		s.Condemned[backup] = append(s.Condemned[backup], ranges)
	}
	for _, w := range d.WAL {
		s.condemnWAL(w)
	}
	s.Unpurged = append(s.Unpurged, Unpurged{N: r.N, Delete: *d})
	return errors.Join(errs...)
}

// change folds what a record says of a backup. When its begin record cannot be read, the backup is entered with
// what the others say: one that is damaged hides nothing.
func (s *State) change(id string, f func(*Entry)) error {
	e := s.Entry(id)
	var err error
	if e == nil {
		if len(s.Problems) == 0 {
			err = fmt.Errorf("it names backup %s, which never began", id)
		}
		e = &Entry{ID: id, Begin: Begin{Backup: id}, Status: Running}
		s.Entries = append(s.Entries, e)
	}
	f(e)
	return err
}
