package walstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/pgobj/pgobj/storage"
	"github.com/pgobj/pgobj/storage/owned"
	"github.com/pgobj/pgobj/walstore/object"
	"github.com/pgobj/pgobj/walstore/patience"
	"github.com/pgobj/pgobj/walstore/segment"
)

// FetchRequest says which file to fetch, and where to.
type FetchRequest struct {
	Name     string // as PostgreSQL has it
	Dest     string // path of the file to write; one that is there is replaced
	SystemID uint64 // of the cluster that wants it
	// Size of the cluster's segments, when absence has to be proven by later timelines, too; 0 is for those who ask again.
	Size segment.Size
	// Received, when set, allows to make do with the received beginning of a segment that is not complete.
	Received *Received
}

// Fetch writes an archived file to Dest and returns nil only when it is whole there, checked and
// synced. On any error Dest is as it was. ErrAbsent is returned only when absence is proven: see absence.
// A stored object with wrong bytes of any kind is a *DamagedError.
func Fetch(ctx context.Context, s storage.Store, r FetchRequest) error {
	if segment.Classify(r.Name) == segment.Invalid {
		return fmt.Errorf("fetch %q: %w", r.Name, object.ErrName)
	}
	var err error
	for range patience.Looks { // it may come between the looks, and what was received of it go then
		if err = fetch(ctx, s, r); !errors.Is(err, storage.ErrNotFound) {
			break
		}
		missing := err
		if err = absence(ctx, s, r); err == nil {
			err = missing // as long as it is only listed, nobody knows
			continue
		}
		if r.Received == nil || segment.Classify(r.Name) != segment.Full || !errors.Is(err, ErrAbsent) {
			break
		}
		if err = fetchReceived(ctx, s, r); !errors.Is(err, storage.ErrNotFound) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("fetch %s: %w", r.Name, err)
	}
	return nil
}

func fetch(ctx context.Context, s storage.Store, r FetchRequest) error {
	return ThroughTemp(r.Dest, func(w io.Writer) error {
		_, err := Read(ctx, s, r.Name, r.SystemID, w)
		return err
	})
}

// ThroughTemp lets fill write a file that is at dest, synced, when fill succeeds, and leaves dest alone when
// not. It goes through a temporary file of mode 0600 beside dest (pg_rewind refuses files more open than the
// cluster's own), whose name PostgreSQL takes for nothing that it knows.
func ThroughTemp(dest string, fill func(io.Writer) error) (err error) {
	var tmp *os.File
	// The file is made when the first byte comes: absence, the usual answer to a standby, costs no write.
	lazy := object.WriterFunc(func(p []byte) (int, error) {
		if tmp == nil {
			if tmp, err = openTemp(dest); err != nil {
				return 0, err
			}
		}
		return tmp.Write(p)
	})
	defer func() {
		if tmp != nil {
			tmp.Close()
			if err != nil {
				os.Remove(tmp.Name())
			}
		}
	}()
	if err := fill(lazy); err != nil {
		return err
	}
	if err := install(tmp, dest); err != nil {
		return fmt.Errorf("%w: %w", object.ErrDest, err)
	}
	return nil
}

// openTemp makes an empty file beside dest. What a process left there that was killed is used again, so that a segment's
// size is lost at most once: its lock went with the process.
func openTemp(dest string) (*os.File, error) {
	dir, base := filepath.Split(dest)
	path := dir + ".pgobj-" + base + ".tmp"
	if f, err := owned.Lock(path); err == nil { // not once it has become the other process's dest
		if f.Truncate(0) == nil {
			return f, nil
		}
		f.Close()
	}
	return os.CreateTemp(filepath.Dir(dest), ".pgobj-*.tmp") // another process writes to the same dest
}

// install gives a complete file its name, and returns when both would survive a crash.
func install(tmp *os.File, dest string) error {
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), dest); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(dest))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Read gets, checks and decodes the object of a file.
func Read(ctx context.Context, s storage.Store, name string, sysid uint64, w io.Writer) (object.Content, error) {
	return object.ReadInto(ctx, s, object.Key(sysid, name), object.NewChecked(w, name, sysid, sha256.New()))
}

// absence returns ErrAbsent when it is proven that a file that Get did not find was never archived, or
// else says why that cannot be concluded; nil when the file has come meanwhile.
//
// PostgreSQL ends recovery and promotes when it is told that a segment is not there, and makes a new
// timeline when a history file is not: wrongly said, both lose data for good. A "not found" alone proves
// little: a wrong bucket, prefix, server or data directory finds nothing either. Other tools keep an identity
// object in the repository to tell; but that shows only that the bucket is right. Here the archive is its
// own witness: there has to be WAL of this very system identifier, which a wrong place cannot have, and
// nothing may be there that comes after the missing file: of a segment no later one on its timeline, of a
// history file nothing else of its timeline. What follows from that cannot go out of step with the
// archive, and a gap is found too, for at most two short listings; and two more for each later timeline (see unlessForked).
func absence(ctx context.Context, s storage.Store, r FetchRequest) error {
	sysid, name := r.SystemID, r.Name
	typ := segment.Classify(name)
	tli, err := segment.TimelineOf(name)
	if err != nil {
		return err
	}
	after := ""
	if typ == segment.Full {
		after = object.TimelineDir(sysid, tli.Hex()) + name
	}
	known := false
	for info, err := range s.List(ctx, object.TimelineDir(sysid, tli.Hex()), after) {
		if err != nil {
			return err
		}
		o, ok := object.ParseKey(info.Key)
		if !ok {
			continue
		}
		known = true
		if o.Name == name && o.Type != segment.Received {
			return nil
		}
		if typ == segment.Full && (o.Type == segment.Full || o.Type == segment.Received && o.Name != name) {
			return gapUnlessBefore(ctx, s, sysid, name, o)
		}
		if typ == segment.History && tli > 1 {
			return &GapError{Missing: name, Next: o.Name, Store: s.String()}
		}
		if typ != segment.Full && typ != segment.History {
			break
		}
	}
	if !known {
		if known, err = hasWAL(ctx, s, sysid); err != nil {
			return err
		}
	}
	if !known {
		return fmt.Errorf("%w: nothing below %s in %s", ErrUnknownArchive, object.ArchiveDir(sysid), s)
	}
	if typ == segment.Full && r.Size > 0 {
		return unlessForked(ctx, s, r)
	}
	return ErrAbsent
}

// unlessForked returns ErrAbsent when no later timeline has left this one after a missing segment, else the gap: that
// segment was complete then. The standby that made the new timeline does not archive it, as it has received it by
// streaming, and the server that would have may be gone.
func unlessForked(ctx context.Context, s storage.Store, r FetchRequest) error {
	missing, err := segment.ParseName(r.Name, r.Size)
	if err != nil {
		return err
	}
	for next, err := range timelinesAfter(ctx, s, r.SystemID, missing.Timeline) {
		if err != nil {
			return err
		}
		path, err := ReadPath(ctx, s, r.SystemID, next)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if path.Segment(missing.No, r.Size) == missing {
			return &GapError{Missing: r.Name, Next: segment.HistoryName(next), Store: s.String()}
		}
	}
	return ErrAbsent
}

func hasWAL(ctx context.Context, s storage.Store, sysid uint64) (bool, error) {
	for _, err := range List(ctx, s, sysid, 0, "") {
		return err == nil, err
	}
	return false, nil
}

// gapUnlessBefore returns ErrAbsent when a missing segment lies before the beginning of its timeline
// (PostgreSQL before 2020's minor releases asks for such), else the gap.
func gapUnlessBefore(ctx context.Context, s storage.Store, sysid uint64, name string, next object.Object) error {
	// A listing is no moment: the file may have come after that place was read, and what follows it then.
	if _, err := s.Stat(ctx, object.Key(sysid, name)); !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	gap := &GapError{Missing: name, Next: next.Name, Store: s.String()}
	tli, err := segment.TimelineOf(name)
	if err != nil || tli == 1 {
		return gap
	}
	path, err := ReadPath(ctx, s, sysid, tli)
	if errors.Is(err, storage.ErrNotFound) {
		return gap
	}
	if err != nil {
		return err
	}
	size, err := SizeOf(ctx, s, next)
	if err != nil {
		return err
	}
	seg, err := segment.ParseName(name, size)
	if err != nil || path.Segment(seg.No, size) == seg {
		return gap
	}
	return ErrAbsent
}
