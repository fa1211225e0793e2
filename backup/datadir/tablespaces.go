package datadir

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgobj/pgobj/walstore/segment"
)

// ErrTablespace says that recovery must not go on, as it would make a tablespace in a directory that is not the cluster's.
var ErrTablespace = errors.New("recovery would create a tablespace in a directory that does not belong to this server")

// CheckNewTablespaces looks through a WAL segment that a recovery is about to replay, in the file at path, for tablespaces
// that it makes. PostgreSQL makes them where they were made first (create_tablespace_directories), whatever a restore has
// put elsewhere, and takes the files that it finds there for its own: a copy beside the original would overwrite those of
// the original. So it is an error, ErrTablespace, when a cluster of this version has files there already; with
// anywhere, also when not.
func CheckNewTablespaces(dataDir string, c Control, name, path string, anywhere bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	before, err := pageBefore(filepath.Join(dataDir, "pg_wal"), name, c.SegmentSize)
	if err != nil {
		return err
	}
	made, err := segment.NewTablespaces(f, before, redoFrom(dataDir, c))
	if err != nil {
		return fmt.Errorf("look for tablespaces that %s creates: %w", name, err)
	}
	for _, ts := range made {
		if ts.Location == "" || isTablespace(dataDir, ts.Location) {
			continue
		}
		taken, err := takenBy(dataDir, c, ts.Location)
		if err != nil {
			return err
		}
		if !taken && !anywhere {
			continue
		}
		state := "which has none yet"
		if taken {
			state = "where a cluster of this version already has its directory"
		}
		return fmt.Errorf("%w: segment %s creates tablespace %d in %s, %s\nPostgreSQL creates it there, whatever the restore was told, and would overwrite another server's files",
			ErrTablespace, name, ts.OID, ts.Location, state)
	}
	return nil
}

// redoFrom is where recovery begins: what lies before that in a segment is not replayed. PostgreSQL takes it from
// backup_label, which it renames once pg_control has it.
func redoFrom(dataDir string, c Control) segment.LSN {
	text, err := os.ReadFile(filepath.Join(dataDir, "backup_label"))
	if errors.Is(err, os.ErrNotExist) {
		return c.Redo
	}
	label, _ := ParseLabel(text) // one that is damaged begins at 0, and PostgreSQL refuses it
	return label.StartLSN
}

// isTablespace says whether a link of the data directory leads to a directory: recovery goes the same way again after a
// restart.
func isTablespace(dataDir, location string) bool {
	there, err := os.Stat(location)
	if err != nil {
		return false
	}
	links, err := os.ReadDir(filepath.Join(dataDir, "pg_tblspc"))
	return err == nil && slices.ContainsFunc(links, func(link os.DirEntry) bool {
		st, err := os.Stat(filepath.Join(dataDir, "pg_tblspc", link.Name()))
		return err == nil && os.SameFile(st, there)
	})
}

// takenBy says whether there is a directory of this version in a tablespace's location (TABLESPACE_VERSION_DIRECTORY). One
// that is empty counts: PostgreSQL makes it with the tablespace, and removes it with it.
func takenBy(dataDir string, c Control, location string) (bool, error) {
	version, err := os.ReadFile(filepath.Join(dataDir, "PG_VERSION"))
	if err != nil {
		return false, err
	}
	_, err = os.Lstat(filepath.Join(location, fmt.Sprintf("PG_%s_%d", strings.TrimSpace(string(version)), c.CatalogVersion)))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// pageBefore is the last page of the segment before one, which PostgreSQL has kept: of this timeline or the nearest
// earlier one. nil: there is none, so recovery begins in the segment.
func pageBefore(walDir, name string, size segment.Size) ([]byte, error) {
	seg, err := segment.ParseName(name, size)
	if err != nil || seg.No == 0 {
		return nil, nil
	}
	seg.No--
	before, nearest := seg.Name(size), ""
	kept, err := os.ReadDir(walDir)
	if err != nil {
		return nil, err
	}
	for _, k := range kept { // sorted
		if n := k.Name(); len(n) == len(before) && n[8:] == before[8:] && n <= before {
			nearest = n
		}
	}
	if nearest == "" {
		return nil, nil
	}
	return lastPage(filepath.Join(walDir, nearest))
}

func lastPage(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	first := make([]byte, segment.HeaderSize)
	if _, err := f.ReadAt(first, 0); err != nil {
		return nil, err
	}
	h, err := segment.ParseHeader(first)
	if err != nil {
		return nil, nil // a segment that was recycled, and not written yet
	}
	page := make([]byte, h.PageSize)
	if _, err := f.ReadAt(page, int64(h.Size)-int64(h.PageSize)); err != nil && err != io.EOF {
		return nil, err
	}
	return page, nil
}
