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
	"strings"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/segment"
)

var (
	// ErrAbsent: it is proven that the archive does not hold this file, and nothing that follows it.
	ErrAbsent = errors.New("not in the archive")
	// ErrGap: the file is absent, yet the archive holds what comes after it. See GapError.
	ErrGap = errors.New("the archive has a gap")
	// ErrUnknownArchive: there is no WAL of this system identifier at all, so nothing is proven.
	ErrUnknownArchive = errors.New("the repository has no WAL of this cluster")
)

// GapError names what is missing and the object that proves it should be there.
type GapError struct {
	Missing string // file name
	Next    string // file name
	Store   string
}

func (e *GapError) Error() string {
	return fmt.Sprintf("%v: %s is missing in %s, although %s is there", ErrGap, e.Missing, e.Store, e.Next)
}

func (e *GapError) Unwrap() error { return ErrGap }

// List yields every WAL file of a system identifier by timeline, then name; foreign keys are passed
// over. Only files of tli when that is not 0, and only names greater than after.
func List(ctx context.Context, s storage.Store, sysid uint64, tli segment.Timeline, after string) iter.Seq2[object.Object, error] {
	return func(yield func(object.Object, error) bool) {
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
func ListAll(ctx context.Context, s storage.Store, sysid uint64, tli segment.Timeline, after string) iter.Seq2[object.Object, error] {
	prefix, start := object.ArchiveDir(sysid), ""
	if tli != 0 {
		prefix = object.TimelineDir(sysid, tli.Hex())
	}
	if after != "" {
		start = object.Key(sysid, after)
	}
	return func(yield func(object.Object, error) bool) {
		for info, err := range s.List(ctx, prefix, start) {
			if err != nil {
				yield(object.Object{}, fmt.Errorf("list WAL: %w", err))
				return
			}
			o, ok := object.ParseKey(info.Key)
			if !ok {
				o, ok = object.ParseNote(sysid, info.Key)
			}
			if !ok {
				if _, ok = object.LostName(sysid, info.Key); !ok {
					continue
				}
				o = object.Object{Key: info.Key, SystemID: sysid, Name: strings.TrimSuffix(path.Base(info.Key), object.LostSuffix)}
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
	prefix := object.TimelineDir(sysid, first.Timeline.Hex())
	// Without its ".zst" the name sorts before its own object, so the listing begins with that.
	for info, err := range s.List(ctx, prefix, prefix+first.Name(size)) {
		if err != nil {
			return want, true, fmt.Errorf("list WAL: %w", err)
		}
		if want.No > last.No {
			break
		}
		o, ok := object.ParseKey(info.Key)
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
