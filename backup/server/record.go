package server

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/pgobj/pgobj/backup/datadir"
	"github.com/pgobj/pgobj/walstore/segment"
)

// shutdownRecord checks that the record of the shutdown checkpoint is where pg_control says, and returns where it ends, and the
// size of a WAL page.
func shutdownRecord(walDir string, c datadir.Control) (end, page segment.LSN, err error) {
	seg := segment.At(c.Timeline, c.Checkpoint, c.SegmentSize)
	f, h, err := openSegment(walDir, seg, c)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	next, _, err := openSegment(walDir, seg.Next(), c)
	var after io.Reader = failing{err} // which counts only when the record goes on there
	if err == nil {
		defer next.Close()
		after = next
	}
	end, err = segment.Shutdown(f, after, c.Checkpoint)
	return end, segment.LSN(h.PageSize), err
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// openSegment opens a segment of the cluster and checks its header.
func openSegment(walDir string, seg segment.Segment, c datadir.Control) (f *os.File, h segment.Header, err error) {
	name := seg.Name(c.SegmentSize)
	if f, err = os.Open(filepath.Join(walDir, name)); err != nil {
		return nil, h, datadir.Explain("open", name, err)
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	st, err := f.Stat()
	if err != nil {
		return nil, h, err
	}
	first := make([]byte, segment.HeaderSize)
	if _, err := f.ReadAt(first, 0); err != nil {
		return nil, h, datadir.Explain("read", name, err)
	}
	h, err = segment.ParseHeader(first)
	if err == nil {
		err = h.Verify(name, st.Size())
	}
	if err == nil && h.SystemID != c.SystemID {
		err = fmt.Errorf("it belongs to the cluster with system identifier %d", h.SystemID)
	}
	if err != nil {
		return nil, h, fmt.Errorf("%s: %w", name, err)
	}
	return f, h, nil
}
