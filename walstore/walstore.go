// Package walstore owns every key below "wal/" of a server: it pushes WAL files, fetches them, proves
// that one is absent and tells which are missing. It refuses to know backups, flags and exit codes.
//
// # Keys
//
//	wal/<system identifier, decimal>/<timeline, 8 hex digits>/<file name>.zst
//
// for segments, NAME.partial, TTTTTTTT.history, NAME.OFFSET.backup, and the pieces of a segment that is being
// received, NAME.FROM-TO.piece. A segment's system
// identifier is read from its own header, so the WAL of two clusters can never meet under one key,
// and pushing needs no state.
//
// # Body, format v1
//
//   - one or more ordinary zstd frames, independent of each other: `zstd -d` gives the file;
//   - one skippable zstd frame of 64 bytes at the very end: u32 magic 0x184D2A5E, u32 56, then
//     8 bytes "PGOBJWAL", u8 version (1), 7 zero bytes, u64 length of the content, and 32 bytes SHA-256
//     of the content. Integers are little-endian.
//
// Beside a segment there may be notes on it, NAME.HASH.parameters and NAME.HASH.directories: see ReadNotes.
//
// Objects are created once and never replaced or rewritten.
package walstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/segment"
)

// Sentinels for errors.Is. Storage errors (storage.ErrDenied and its like) pass through as they are.
var (
	// ErrName: PostgreSQL never archives a file of this name.
	ErrName = errors.New("not a name of a WAL file")
	// ErrSource: the file to push is not what its name promises, or changed while it was read.
	ErrSource = errors.New("the file is not fit for the archive")
	// ErrConflict: the archive holds different content under this name. See ConflictError.
	ErrConflict = errors.New("the archive holds different content under this name")
	// ErrDamaged: the stored object is not what was pushed. See DamagedError.
	ErrDamaged = errors.New("the stored object is damaged")
	// ErrAbsent: it is proven that the archive does not hold this file, and nothing that follows it.
	ErrAbsent = errors.New("not in the archive")
	// ErrHole: the file is absent, yet the archive holds what comes after it. See HoleError.
	ErrHole = errors.New("the archive has a hole")
	// ErrUnknownArchive: there is no WAL of this system identifier at all, so nothing is proven.
	ErrUnknownArchive = errors.New("the repository holds no WAL of this cluster")
	// ErrDest: the fetched file could not be written to its destination.
	ErrDest = errors.New("cannot write the fetched file")
)

// ConflictError says that a file and the archive's object of the same name differ. Nothing was changed.
type ConflictError struct {
	Name, Key      string
	Source, Stored [32]byte // SHA-256 of the contents
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s: %v: the file has SHA-256 %x, %s has %x", e.Name, ErrConflict, e.Source, e.Key, e.Stored)
}

func (e *ConflictError) Unwrap() error { return ErrConflict }

// DamagedError names an object whose bytes are not what Push stored, and why that is known.
type DamagedError struct {
	Key, Store string
	Err        error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("%s in %s: %v: %v", e.Key, e.Store, ErrDamaged, e.Err)
}

func (e *DamagedError) Unwrap() []error { return []error{ErrDamaged, e.Err} }

// HoleError names what is missing and the object that proves it should be there.
type HoleError struct {
	Missing string // file name
	Next    string // file name
	Store   string
}

func (e *HoleError) Error() string {
	return fmt.Sprintf("%v: %s is missing in %s, although %s is there", ErrHole, e.Missing, e.Store, e.Next)
}

func (e *HoleError) Unwrap() error { return ErrHole }

// Key is the object of a WAL file. The name must be one that PostgreSQL archives.
func Key(sysid uint64, name string) string {
	return timelineDir(sysid, name[:8]) + name + ".zst"
}

func archiveDir(sysid uint64) string { return "wal/" + strconv.FormatUint(sysid, 10) + "/" }

func timelineDir(sysid uint64, tli string) string { return archiveDir(sysid) + tli + "/" }

// Object is one WAL file in the archive.
type Object struct {
	Key      string
	SystemID uint64
	Name     string // as PostgreSQL has it
	Type     segment.Type
	Size     int64     // as stored
	Created  time.Time // by the store's clock; see storage.Info
	Piece    Piece     // of a segment.Received; Name is the segment's then
	Note     string    // of a segment.Noted: NoteOfParameters or NoteOfDirectories; Name is the segment's then
}

// ParseKey is Key backwards; false for a key that Key does not build.
func ParseKey(key string) (Object, bool) {
	parts := strings.Split(key, "/")
	if len(parts) != 4 {
		return Object{}, false
	}
	id, err := strconv.ParseUint(parts[1], 10, 64)
	name, ok := strings.CutSuffix(parts[3], ".zst")
	if p, is := parsePiece(name); is && err == nil && p.Key(id) == key {
		return Object{Key: key, SystemID: id, Name: p.Segment, Type: segment.Received, Piece: p}, true
	}
	typ := segment.Classify(name)
	if err != nil || !ok || typ == segment.Invalid || Key(id, name) != key {
		return Object{}, false
	}
	return Object{Key: key, SystemID: id, Name: name, Type: typ}, true
}

// List yields every WAL file of a system identifier by timeline, then name; foreign keys are passed
// over. Only files of tli when that is not 0, and only names greater than after.
func List(ctx context.Context, s storage.Store, sysid uint64, tli segment.Timeline, after string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		for o, err := range ListAll(ctx, s, sysid, tli, after) {
			if (o.Type == segment.Invalid || o.Type == segment.Noted) && err == nil {
				continue
			}
			if !yield(o, err) {
				return
			}
		}
	}
}

// ListAll is List with notes, which come before their segments, and with the acknowledgements of what is lost: these have type
// Invalid and a name FIRST-LAST.
func ListAll(ctx context.Context, s storage.Store, sysid uint64, tli segment.Timeline, after string) iter.Seq2[Object, error] {
	prefix, start := archiveDir(sysid), ""
	if tli != 0 {
		prefix = timelineDir(sysid, tli.Hex())
	}
	if after != "" {
		start = Key(sysid, after)
	}
	return func(yield func(Object, error) bool) {
		for info, err := range s.List(ctx, prefix, start) {
			if err != nil {
				yield(Object{}, fmt.Errorf("list WAL: %w", err))
				return
			}
			o, ok := ParseKey(info.Key)
			if !ok {
				o, ok = parseNote(sysid, info.Key)
			}
			if !ok {
				if _, ok = lostName(sysid, info.Key); !ok {
					continue
				}
				o = Object{Key: info.Key, SystemID: sysid, Name: strings.TrimSuffix(path.Base(info.Key), lostSuffix)}
			}
			o.Size, o.Created = info.Size, info.Created
			if !yield(o, nil) {
				return
			}
		}
	}
}

// FirstMissing is the first of the segments first..last (of one timeline) that is not in the archive;
// false when all are there. It costs one listing, and says nothing about damage.
func FirstMissing(ctx context.Context, s storage.Store, sysid uint64, first, last segment.Segment, size segment.Size) (segment.Segment, bool, error) {
	want := first
	prefix := timelineDir(sysid, first.Timeline.Hex())
	// Without its ".zst" the name sorts before its own object, so the listing begins with that.
	for info, err := range s.List(ctx, prefix, prefix+first.Name(size)) {
		if err != nil {
			return want, true, fmt.Errorf("list WAL: %w", err)
		}
		if want.No > last.No {
			break
		}
		o, ok := ParseKey(info.Key)
		if !ok || o.Type != segment.Full {
			continue
		}
		if o.Name != want.Name(size) {
			return want, true, nil
		}
		want = want.Next()
	}
	return want, want.No <= last.No, nil
}
