// Package replay tells which databases PostgreSQL does not bring back when it replays the WAL of a base backup. It knows the
// records about directories of databases and nothing else, and reads no file.
//
// Where a database was made as a copy of another one's files (CREATE DATABASE with STRATEGY file_copy, up to 14 always; ALTER
// DATABASE … SET TABLESPACE), replay copies again, from the directory as it is in what was restored (dbase_redo in dbcommands.c).
// That is what the backup's walk has found there, at some time between the backup's start and its end, with the WAL up to the record.
package replay

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/pgobj/pgobj/walstore/segment"
)

// Directory is that of a database in a tablespace, by OIDs.
type Directory struct{ Database, Tablespace uint32 }

// Lost is a directory that replay does not make as it was.
type Lost struct {
	Directory
	From Directory   // that it was copied from
	At   segment.LSN // of the copy
	Why  string      // what happened to From
}

// Request is what the WAL of a backup says, from its start to its end.
type Request struct {
	Directories []segment.DirectoryChange
	Changed     map[uint32]segment.LSN // for each database the last record that changes its files
	Version     int                    // server_version_num
}

// Copies says whether there is anything to ask about, and where the first copy was made.
func Copies(all []segment.DirectoryChange) (first segment.LSN, any bool) {
	for _, d := range all {
		if d.Kind == segment.DirectoryCopied && (!any || d.At < first) {
			first, any = d.At, true
		}
	}
	return first, any
}

// state is a directory in a replay.
type state struct {
	kind string // how replay has made it; "": it is as the walk has found it
	lost *Lost
}

// Find goes through the replay. A directory that was dropped again before the end is not lost, nor is one whose source was made by
// the replay itself.
func Find(r Request) (lost []Lost) {
	all := slices.Clone(r.Directories)
	slices.SortStableFunc(all, func(a, b segment.DirectoryChange) int { return cmp.Compare(a.At, b.At) })
	dirs := map[Directory]state{}
	for i, d := range all {
		at := Directory{d.Database, d.Tablespace}
		switch d.Kind {
		case segment.DirectoryDropped:
			delete(dirs, at)
		case segment.DirectoryCreated:
			dirs[at] = state{kind: d.Kind}
		case segment.DirectoryCopied:
			l := r.copied(dirs, d, all[i+1:])
			if l != nil && r.stops() {
				lost = append(lost, *l)
				l = nil
			}
			dirs[at] = state{d.Kind, l}
		}
	}
	for _, s := range dirs {
		if s.lost != nil {
			lost = append(lost, *s.lost)
		}
	}
	slices.SortFunc(lost, func(a, b Lost) int { return cmp.Compare(a.At, b.At) })
	return lost
}

// copied says what is wrong with a copy; nil: nothing. The walk may have come to the source before or after what was done to it
// after the copy, and nobody knows.
func (r Request) copied(dirs map[Directory]state, d segment.DirectoryChange, after []segment.DirectoryChange) *Lost {
	l := Lost{Directory: Directory{d.Database, d.Tablespace}, From: Directory{d.FromDatabase, d.FromTablespace}, At: d.At}
	source := dirs[l.From]
	switch {
	case source.kind == segment.DirectoryCopied: // what the walk has found of it is gone by then
		if source.lost == nil {
			return nil
		}
		l.Why = source.lost.Why
		return &l
	case source.kind == "" && slices.ContainsFunc(after, l.drops):
		l.Why = "removed"
		return &l
	case r.Changed[l.From.Database] > d.At: // pages from after the copy would be in it, and not those that belong to them
		l.Why = "changed"
		return &l
	}
	return nil
}

func (l Lost) drops(d segment.DirectoryChange) bool {
	return d.Kind == segment.DirectoryDropped && l.From == Directory{d.Database, d.Tablespace}
}

// stops says whether replay ends with an error where the source of a copy is missing, also when nobody needs the copy in the
// end. Since 10.22, 11.17, 12.12, 13.8, 14.5 it makes an empty directory (recovery_create_dbdir).
func (r Request) stops() bool {
	since := map[int]int{10: 22, 11: 17, 12: 12, 13: 8, 14: 5}
	return r.Version%10000 < since[r.Version/10000]
}

// String says what happened in a sentence's part.
func (l Lost) String() string {
	return fmt.Sprintf("it was copied at %s from the directory of database %d in tablespace %d, which was %s later", l.At, l.From.Database, l.From.Tablespace, l.Why)
}
