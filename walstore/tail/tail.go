// Package tail finds where the WAL ends in the pg_wal of a server that does not run. It owns the question what of that
// no archiver was told of: PostgreSQL notes a segment in archive_status only when it is complete, so the last transactions of a
// server that crashed are in a segment that nobody asks to archive. It only reads, and refuses to know storage.
package tail

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pgobj/pgobj/walstore/segment"
)

// Tail is what of a timeline has no note in archive_status.
type Tail struct {
	Complete []string // paths of the timeline's history file and of complete segments, in order: all their content is there and will not change
	Open     string   // path of the segment that was being written; empty: there is none
	To       int64    // so many bytes of Open are valid; what follows may be anything, and the server would write there next
}

// Find looks through the segments of a timeline in a pg_wal. shutdown is where the record of a clean shutdown begins, 0 without
// one: a segment with nothing else in it is not listed.
func Find(walDir string, tli segment.Timeline, size segment.Size, shutdown segment.LSN) (t Tail, err error) {
	entries, err := os.ReadDir(walDir) // in order of their names
	if err != nil {
		return t, err
	}
	for _, e := range entries {
		path := filepath.Join(walDir, e.Name())
		if e.Name() == segment.HistoryName(tli) && !noted(path) {
			t.Complete = append(t.Complete, path) // without it no recovery gets to the segments
		}
		seg, err := segment.ParseName(e.Name(), size)
		if err != nil || seg.Timeline != tli || noted(path) || !Written(path) {
			continue
		}
		to, complete, err := end(path, filepath.Join(walDir, seg.Next().Name(size)), seg.Start(size))
		if err != nil {
			return t, err
		}
		if complete {
			t.Complete = append(t.Complete, path)
			continue
		}
		if to > 0 && (shutdown == 0 || shutdown > seg.Start(size)+segment.HeaderSize) {
			t.Open, t.To = path, to
		}
		return t, nil // what comes after is no WAL any more
	}
	return t, nil
}

// noted says whether PostgreSQL has told its archiver of a file.
func noted(path string) bool {
	status := filepath.Join(filepath.Dir(path), "archive_status", filepath.Base(path))
	for _, kind := range []string{".ready", ".done"} {
		if _, err := os.Lstat(status + kind); err == nil {
			return true
		}
	}
	return false
}

// end is how many bytes of a segment are valid WAL.
func end(path, next string, start segment.LSN) (to int64, complete bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	var after io.Reader
	if Written(next) {
		n, err := os.Open(next)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, false, err
		}
		if err == nil {
			defer n.Close()
			after = n
		}
	}
	at, complete, err := segment.End(f, after)
	if at < start {
		at = start
	}
	return int64(at - start), complete, err
}

// Written says whether a segment has been written to under its name. One that PostgreSQL has recycled, or made ahead, begins with
// what it was before, or with zeros.
func Written(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	page := make([]byte, segment.HeaderSize)
	if _, err := io.ReadFull(f, page); err != nil {
		return false
	}
	h, err := segment.ParseHeader(page)
	return err == nil && h.Verify(filepath.Base(path), int64(h.Size)) == nil
}
